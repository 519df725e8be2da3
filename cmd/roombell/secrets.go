package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// devSecrets are what dev makes once and keeps, so that tokens and ciphertexts outlive a restart.
type devSecrets struct {
	JWTSecret    string `json:"jwtSecret"`
	AdminKey     string `json:"adminKey"`
	SecretKey    string `json:"secretKey"`
	DemoPassword string `json:"demoPassword"`
}

// keepSecrets reads the secrets of a data directory, or makes it and them. The file is for its owner's eyes only; one
// that others could read is closed to them.
func keepSecrets(dir string) (devSecrets, error) {
	file := filepath.Join(dir, "secrets.json")
	kept, err := readSecrets(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return kept, err
	}
	// Others may pass: a Postgres that root starts runs as another user, below this folder.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return kept, fmt.Errorf("data directory: %w", err)
	}
	made := devSecrets{JWTSecret: random(32), AdminKey: random(24), SecretKey: random(32), DemoPassword: random(9)}
	body, err := json.MarshalIndent(made, "", "  ")
	if err != nil {
		return kept, err
	}
	// Written whole under a name of its own and linked only where there is none: two first starts agree on one file.
	temporary, err := os.CreateTemp(dir, ".secrets-*") // mode 0600
	if err != nil {
		return kept, fmt.Errorf("data directory: %w", err)
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.Write(append(body, '\n'))
	if err = errors.Join(err, temporary.Sync(), temporary.Close()); err != nil {
		return kept, fmt.Errorf("write secrets: %w", err)
	}
	if err := os.Link(temporary.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return kept, fmt.Errorf("write secrets: %w", err)
	}
	return readSecrets(file)
}

func readSecrets(file string) (devSecrets, error) {
	var kept devSecrets
	body, err := os.ReadFile(file)
	if err != nil {
		return kept, err
	}
	if err := os.Chmod(file, 0o600); err != nil {
		return kept, fmt.Errorf("secrets: %w", err)
	}
	if err := json.Unmarshal(body, &kept); err != nil {
		return kept, fmt.Errorf("secrets in %s cannot be read: delete the file to have new ones made", file)
	}
	if kept.JWTSecret == "" || kept.AdminKey == "" || kept.SecretKey == "" || kept.DemoPassword == "" {
		return kept, fmt.Errorf("secrets in %s are not complete: delete the file to have new ones made", file)
	}
	return kept, nil
}

// fill gives the settings what the environment did not.
func (d devSecrets) fill(s *settings) {
	for _, f := range []struct {
		field *secret
		value string
	}{{&s.JWTSecret, d.JWTSecret}, {&s.AdminKey, d.AdminKey}, {&s.SecretKey, d.SecretKey}} {
		if *f.field == "" {
			*f.field = secret(f.value)
		}
	}
}

// random is n bytes in base64 that a URL and a shell take as they are.
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b)
}
