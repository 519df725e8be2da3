// Package triggers holds the functions and triggers that turn committed writes into events. The files are repeatable: every one can run
// again over itself. db.Migrate applies all of them, in the order of their names and in one transaction, to a database whose version is lower.
package triggers

import (
	"embed"
	"strconv"
	"strings"
)

// Files holds *.sql of this directory.
//
//go:embed *.sql
var Files embed.FS

//go:embed VERSION
var version string

// Version is the number in the file VERSION, which grows with every change of a file here: a database is never given a lower one.
// A file without a number makes it 0, which is never applied.
func Version() int {
	n, err := strconv.Atoi(strings.TrimSpace(version))
	if err != nil {
		return 0
	}
	return n
}
