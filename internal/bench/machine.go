package bench

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"os"
	"runtime"
	"time"
)

// newReport returns a report that knows where it was made, and of what when binary is not empty.
func newReport(binary string) *Report {
	return &Report{Started: time.Now(), Machine: machine(), Go: runtime.Version(), Commit: commit(binary)}
}

// machine names processor, cores and system.
func machine() string {
	model := runtime.GOARCH
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := bytes.Cut(info, []byte("model name\t: ")); ok {
			line, _, _ := bytes.Cut(rest, []byte("\n"))
			model = string(line)
		}
	}
	return fmt.Sprintf("%s, %d cores, %s", model, runtime.NumCPU(), runtime.GOOS)
}

// commit returns the commit that a Go binary was built from, with a + when the tree had changes; empty when unknown.
func commit(binary string) string {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return ""
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	revision := settings["vcs.revision"]
	if revision != "" && settings["vcs.modified"] == "true" {
		revision += "+"
	}
	return revision
}
