package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate serves a key pair from two files and reads them again when one has changed, so that renewed certificates
// need no restart. Files are looked at when somebody connects, once a second at most.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	mu      sync.Mutex
	pair    *tls.Certificate
	looked  time.Time
	written [2]time.Time // of the two files, as last read
}

const lookAgain = time.Second

// newCertificate reads the files for the first time; a pair that does not fit is an error.
func newCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log, now: time.Now}
	written, err := c.modified()
	if err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate %s: %w", certFile, err)
	}
	c.pair, c.written, c.looked = &pair, written, c.now()
	return c, nil
}

// config offers HTTP/2, and HTTP/1.1 to those who ask for that alone: a WebSocket begins as an HTTP/1.1 upgrade, and browsers open a
// connection of its own for it.
func (c *certificate) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: c.get}
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.looked) >= lookAgain {
		c.looked = now
		c.reload()
	}
	return c.pair, nil
}

// reload keeps the pair it has while the files are missing or do not fit: they are replaced one after the other.
func (c *certificate) reload() {
	written, err := c.modified()
	if err == nil && written == c.written {
		return
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(c.certFile, c.keyFile)
	}
	if err != nil {
		c.log.Warn("TLS certificate cannot be read again, the former one is served on", "err", err)
		return
	}
	c.pair, c.written = &pair, written
	c.log.Info("TLS certificate read again")
}

func (c *certificate) modified() (written [2]time.Time, err error) {
	for i, file := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(file)
		if err != nil {
			return written, err
		}
		written[i] = info.ModTime()
	}
	return written, nil
}
