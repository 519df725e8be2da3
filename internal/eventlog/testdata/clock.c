// A wall clock that a test can set: gettimeofday, which PostgreSQL asks for the time, and its relatives add the microseconds that are in
// the file named by ROOMBELL_CLOCK. The monotonic clock goes on as it is, as when a machine's time is set.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;

__attribute__((constructor)) static void find_clock(void) {
	int fd = open(getenv("ROOMBELL_CLOCK"), O_RDONLY);
	void *page = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		abort();
	close(fd);
	offset = page;
}

static int64_t now(void) {
	struct timespec t;
	syscall(SYS_clock_gettime, CLOCK_REALTIME, &t);
	return t.tv_sec * INT64_C(1000000) + t.tv_nsec / 1000 + *offset;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
	(void)zone;
	int64_t us = now();
	t->tv_sec = us / 1000000;
	t->tv_usec = us % 1000000;
	return 0;
}

int clock_gettime(clockid_t id, struct timespec *t) {
	int failed = syscall(SYS_clock_gettime, id, t);
	if (failed == 0 && id == CLOCK_REALTIME) {
		int64_t us = now();
		t->tv_sec = us / 1000000;
		t->tv_nsec = us % 1000000 * 1000;
	}
	return failed;
}

time_t time(time_t *t) {
	time_t s = now() / 1000000;
	if (t)
		*t = s;
	return s;
}
