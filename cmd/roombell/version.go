package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

type versionCmd struct{}

// Run prints what the Go toolchain stamped into the binary.
func (versionCmd) Run(p *program) error {
	v := readVersion()
	_, err := fmt.Fprintf(p.stdout, "roombell %s\ncommit %s\n%s %s/%s\n", v.version, v.commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

type buildVersion struct{ version, commit string }

func readVersion() buildVersion {
	v := buildVersion{version: "(devel)", commit: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v.commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			v.commit += " (modified)"
		}
	}
	return v
}
