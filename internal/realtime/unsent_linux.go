package realtime

import "golang.org/x/sys/unix"

// unsent is how many bytes the peer has not acknowledged yet (tcp(7), SIOCOUTQ, which is TIOCOUTQ's number).
func unsent(fd uintptr) int {
	n, err := unix.IoctlGetInt(int(fd), unix.TIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}
