package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"
)

// isTerminal tells whether a person looks at f, or types into it.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// logger writes to standard error as the settings say.
func (p *program) logger() *slog.Logger { return newLogger(&p.settings, p.stderr) }

func newLogger(s *settings, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: s.LogLevel}
	if s.LogFormat == "text" || s.LogFormat == "" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// readLine reads a secret from standard input: without an echo from a terminal, else the first line.
func (p *program) readLine(prompt string) (string, error) {
	if file, ok := p.stdin.(*os.File); ok && isTerminal(file) {
		fmt.Fprint(p.stderr, prompt)
		line, err := term.ReadPassword(int(file.Fd()))
		fmt.Fprintln(p.stderr)
		return string(line), err
	}
	line, err := bufio.NewReader(io.LimitReader(p.stdin, 64<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read standard input: %w", err)
	}
	return strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), nil
}

func absolute(path string) (string, error) { return filepath.Abs(path) }
