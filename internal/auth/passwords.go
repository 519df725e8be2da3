package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

var (
	// ErrWrongPassword is CheckPassword's verdict.
	ErrWrongPassword = errors.New("wrong password")
	// ErrPasswordLength refuses a new password that is too short to be one, or too long to be typed.
	ErrPasswordLength = errors.New("a password has 8 characters at least and 1024 bytes at most")
	errBadHash        = errors.New("password hash is no argon2id PHC string that we accept")
)

const (
	minPassword = 8
	maxPassword = 1024

	// OWASP's password storage recommendation for argon2id: 19 MiB, two passes, one lane.
	hashMemory = 19 << 10 // KiB
	hashPasses = 2
	hashLanes  = 1
	hashSalt   = 16
	hashLength = 32
)

// hashed is a parsed PHC string: $argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>.
type hashed struct {
	memory uint32 // KiB
	passes uint32
	lanes  uint8
	salt   []byte
	sum    []byte
}

// HashPassword returns the argon2id PHC string that users.password_hash holds, with a salt of its own. It takes tens
// of milliseconds and 19 MiB. Refuses with ErrPasswordLength.
func HashPassword(password string) (string, error) {
	if utf8.RuneCountInString(password) < minPassword || len(password) > maxPassword {
		return "", ErrPasswordLength
	}
	h := hashed{memory: hashMemory, passes: hashPasses, lanes: hashLanes, salt: make([]byte, hashSalt)}
	if _, err := rand.Read(h.salt); err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	h.sum = h.of(password, hashLength)
	return h.String(), nil
}

// CheckPassword returns nil when hash was made of password, ErrWrongPassword when not, and another error when hash is
// nothing that can be checked. Hashes of other writers (SQL) may have other parameters, within bounds that keep one
// check from taking the machine.
func CheckPassword(hash, password string) error {
	h, err := parseHash(hash)
	if err != nil {
		return err
	}
	if len(password) > maxPassword {
		return ErrWrongPassword
	}
	if subtle.ConstantTimeCompare(h.sum, h.of(password, len(h.sum))) != 1 {
		return ErrWrongPassword
	}
	return nil
}

func (h hashed) of(password string, length int) []byte {
	return argon2.IDKey([]byte(password), h.salt, h.passes, h.memory, h.lanes, uint32(length))
}

func (h hashed) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.passes, h.lanes,
		b64.EncodeToString(h.salt), b64.EncodeToString(h.sum))
}

func parseHash(s string) (hashed, error) {
	// encoding/base64 skips line breaks, PHC strings have none.
	if len(s) > 256 || strings.ContainsAny(s, "\r\n") {
		return hashed{}, errBadHash
	}
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return hashed{}, errBadHash
	}
	h, ok := parseParameters(parts[3])
	if !ok {
		return hashed{}, errBadHash
	}
	b64 := base64.RawStdEncoding.Strict()
	var err error
	if h.salt, err = b64.DecodeString(parts[4]); err != nil || len(h.salt) < 8 || len(h.salt) > 64 {
		return hashed{}, errBadHash
	}
	if h.sum, err = b64.DecodeString(parts[5]); err != nil || len(h.sum) < 16 || len(h.sum) > 64 {
		return hashed{}, errBadHash
	}
	return h, nil
}

// parseParameters reads m, t and p in the order of the PHC specification. The bounds (256 MiB, 16 passes, 16 lanes) are
// there because whoever can write a row of users must not be able to choose how much memory a login takes.
func parseParameters(s string) (hashed, bool) {
	fields := strings.Split(s, ",")
	if len(fields) != 3 {
		return hashed{}, false
	}
	memory, ok1 := parameter(fields[0], "m=", 8, 256<<10)
	passes, ok2 := parameter(fields[1], "t=", 1, 16)
	lanes, ok3 := parameter(fields[2], "p=", 1, 16)
	if !ok1 || !ok2 || !ok3 || memory < 8*lanes {
		return hashed{}, false
	}
	return hashed{memory: memory, passes: passes, lanes: uint8(lanes)}, true
}

func parameter(field, name string, least, most uint32) (uint32, bool) {
	digits, ok := strings.CutPrefix(field, name)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != digits {
		return 0, false
	}
	return uint32(n), uint32(n) >= least && uint32(n) <= most
}
