package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"roombell/internal/auth"
	"roombell/internal/doctor"
	"roombell/internal/eventlog"
)

type doctorCmd struct {
	JSON bool `name:"json" env:"ROOMBELL_JSON" help:"Print the findings as JSON."`
}

// Run prints what was found. It fails when something is broken.
func (c *doctorCmd) Run(ctx context.Context, p *program) error {
	if err := p.settings.needDatabase(); err != nil {
		return err
	}
	d, err := doctor.New(ctx, p.settings.doctor())
	if err != nil {
		return err
	}
	defer d.Close()
	report := d.Examine(ctx)
	if err := ctx.Err(); err != nil {
		return errors.New("interrupted")
	}
	if c.JSON {
		err = printReport(p.stdout, report)
	} else {
		err = findingPrinter{w: p.stdout, colour: isTerminal(p.stdout)}.print(report)
	}
	if n := report.Broken(); err == nil && n > 0 {
		err = fmt.Errorf("%d broken", n)
	}
	return err
}

// doctor is what the settings say of an installation.
func (s *settings) doctor() doctor.Options {
	o := doctor.Options{
		DatabaseURL: string(s.DatabaseURL), ListenDatabaseURL: string(s.ListenDatabaseURL), Origins: s.CORSOrigins,
		Tokens: auth.Options{
			Secret: []byte(s.JWTSecret), PreviousSecret: []byte(s.JWTSecretPrevious),
			JWKSURL: s.JWKSURL, Issuer: s.JWTIssuer, Audience: s.JWTAudience, Claims: s.claims(),
		},
		Position: func(cursor string) (func(int64, uint64) bool, error) {
			c, err := eventlog.ParseCursor(cursor)
			return c.Seen, err
		},
	}
	if s.retentionIsSet() {
		o.Retention = s.Retention
	}
	return o
}

func printReport(w io.Writer, report doctor.Report) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct {
		Broken   int              `json:"broken"`
		Warnings int              `json:"warnings"`
		Notes    int              `json:"notes"`
		Findings []doctor.Finding `json:"findings"`
	}{report.Broken(), report.Count(doctor.Warning), report.Count(doctor.Note), report.Findings})
}

// findingPrinter writes findings for people: the worst first, what is fine in a line each.
type findingPrinter struct {
	w      io.Writer
	colour bool
}

const (
	levelWidth = 9 // "warning" and two spaces
	textWidth  = 100
)

func (p findingPrinter) print(report doctor.Report) error {
	var b strings.Builder
	for _, f := range report.ByLevel() {
		p.finding(&b, f)
	}
	fmt.Fprintf(&b, "\n%d broken, %d warnings, %d notes, %d fine\n",
		report.Broken(), report.Count(doctor.Warning), report.Count(doctor.Note), report.Count(doctor.OK))
	_, err := io.WriteString(p.w, b.String())
	return err
}

func (p findingPrinter) finding(b *strings.Builder, f doctor.Finding) {
	indent := strings.Repeat(" ", levelWidth)
	level := fmt.Sprintf("%-*s", levelWidth, f.Level)
	if p.colour {
		level = fmt.Sprintf("\x1b[%dm%s\x1b[0m", colourOfLevel(f.Level), level)
	}
	title := f.Title
	if f.Level > doctor.OK {
		title += " [" + f.Code + "]"
	}
	for i, line := range wrap(title) {
		if i > 0 {
			level = indent
		}
		fmt.Fprintln(b, level+line)
	}
	for _, text := range []string{f.Meaning, f.Remedy} {
		for _, line := range wrap(text) {
			fmt.Fprintln(b, indent+line)
		}
	}
	if f.Command != "" { // never broken into lines: it is to be copied
		fmt.Fprintln(b, indent+"$ "+f.Command)
	}
	if f.Level > doctor.OK {
		fmt.Fprintln(b)
	}
}

func colourOfLevel(l doctor.Level) int {
	switch l {
	case doctor.Broken:
		return 31
	case doctor.Warning:
		return 33
	case doctor.Note:
		return 36
	}
	return 32
}

// wrap breaks a text between words.
func wrap(text string) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > textWidth {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
