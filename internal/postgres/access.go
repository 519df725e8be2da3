package postgres

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// access is how to reach a server. A kept server's is written down, so that a URL which somebody noted works tomorrow.
type access struct {
	Port          int    `json:"port"`
	Password      string `json:"password"`
	AdminPassword string `json:"adminPassword"`
}

// temporaryAccess is that of a server with a unix socket only: the folder guards it, and the port is a part of the socket's name.
var temporaryAccess = access{Port: 5432}

const accessFile = "access.json"

// loadAccess reads what an earlier start wrote down. The error is fs.ErrNotExist for the first one.
func loadAccess(dir string) (access, error) {
	b, err := os.ReadFile(filepath.Join(dir, accessFile))
	if err != nil {
		return access{}, err
	}
	var a access
	if err := json.Unmarshal(b, &a); err != nil {
		return access{}, fmt.Errorf("read %s: %w", filepath.Join(dir, accessFile), err)
	}
	return a, nil
}

// save replaces the file as a whole: half a password would lock us out.
func (a access) save(dir string) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	fresh := filepath.Join(dir, accessFile+".new")
	if err := writeSecret(fresh, b); err != nil {
		return err
	}
	return os.Rename(fresh, filepath.Join(dir, accessFile))
}

func writeSecret(path string, b []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func newPassword() string {
	b := make([]byte, 24)
	rand.Read(b) // never fails: crypto/rand
	return hex.EncodeToString(b)
}

// freePort picks a port that nobody listens on, below those that the system gives to outgoing connections: it is to be free
// tomorrow as well.
func freePort() (int, error) {
	for range 100 {
		n, err := rand.Int(rand.Reader, big.NewInt(16_000))
		if err != nil {
			return 0, err
		}
		if port := 16_000 + int(n.Int64()); portFree(port) {
			return port, nil
		}
	}
	return 0, errors.New("no free port on 127.0.0.1")
}

func portFree(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
