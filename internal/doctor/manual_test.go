package doctor

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	codeInSource = regexp.MustCompile(`(?:[Cc]ode: +|\.Code(?:, f\.\w+)* = )"([a-z_]+)"`)
	codeInManual = regexp.MustCompile("`([a-z_]+)`")
)

// Every finding has its row in the manual, and every row its finding.
func TestManualHasEveryFinding(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../web/manual/doctor.md")
	check0(t, err)
	var rows, codes []string
	for _, line := range strings.Split(string(page), "\n") {
		if cells := strings.Split(line, "|"); len(cells) == 6 {
			rows = append(rows, matches(codeInManual, cells[1])...)
		}
	}
	files, err := filepath.Glob("*.go")
	check0(t, err)
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			source, err := os.ReadFile(file)
			check0(t, err)
			codes = append(codes, matches(codeInSource, string(source))...)
		}
	}
	codes = slices.DeleteFunc(codes, func(code string) bool { return strings.HasSuffix(code, "_ok") })
	for _, list := range []*[]string{&rows, &codes} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	if len(rows) < 60 {
		t.Errorf("the manual has %d rows", len(rows))
	}
	for _, code := range codes {
		if !slices.Contains(rows, code) {
			t.Errorf("the manual does not say what %s means", code)
		}
	}
	for _, row := range rows {
		if !slices.Contains(codes, row) {
			t.Errorf("nothing says %s", row)
		}
	}
}

func matches(pattern *regexp.Regexp, text string) (found []string) {
	for _, match := range pattern.FindAllStringSubmatch(text, -1) {
		found = append(found, match[1])
	}
	return found
}
