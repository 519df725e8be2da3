package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
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
	// ErrBadHash says that there is a hash, and nothing that a password could be checked against.
	ErrBadHash = errors.New("password hash is no argon2id PHC string that we accept")
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

// Hasher makes and checks hashes for strangers: few at once, because each takes 19 MiB and a processor, and with the same work whether
// there is a hash to check against or not. It is safe for use by many goroutines.
type Hasher struct {
	places chan struct{}
	dummy  string
}

// NewHasher returns a Hasher that computes at most as many hashes at once as are given; 0 means one for each processor.
func NewHasher(atOnce int) *Hasher {
	if atOnce <= 0 {
		atOnce = runtime.GOMAXPROCS(0)
	}
	// Nobody knows a password for it: it is no hash of anything.
	dummy := hashed{memory: hashMemory, passes: hashPasses, lanes: hashLanes, salt: make([]byte, hashSalt), sum: make([]byte, hashLength)}
	return &Hasher{places: make(chan struct{}, atOnce), dummy: dummy.String()}
}

// Hash is HashPassword when its turn has come, or ctx's error.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	if err := h.enter(ctx); err != nil {
		return "", err
	}
	defer h.leave()
	return HashPassword(password)
}

// Check is CheckPassword when its turn has come, or ctx's error. Without a hash, and with one that cannot be checked, it does the work
// all the same: the time that it takes does not tell who has a password.
func (h *Hasher) Check(ctx context.Context, hash *string, password string) error {
	if err := h.enter(ctx); err != nil {
		return err
	}
	defer h.leave()
	if hash == nil {
		return orWrong(CheckPassword(h.dummy, password))
	}
	err := CheckPassword(*hash, password)
	if err != nil && !errors.Is(err, ErrWrongPassword) {
		return errors.Join(err, CheckPassword(h.dummy, password))
	}
	return err
}

// orWrong has the verdict on the dummy be no success, even if somebody found a password for it.
func orWrong(err error) error {
	if err == nil {
		return ErrWrongPassword
	}
	return err
}

func (h *Hasher) enter(ctx context.Context) error {
	select {
	case h.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for a password's turn: %w", ctx.Err())
	}
}

func (h *Hasher) leave() { <-h.places }

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
		return hashed{}, ErrBadHash
	}
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return hashed{}, ErrBadHash
	}
	h, ok := parseParameters(parts[3])
	if !ok {
		return hashed{}, ErrBadHash
	}
	b64 := base64.RawStdEncoding.Strict()
	var err error
	if h.salt, err = b64.DecodeString(parts[4]); err != nil || len(h.salt) < 8 || len(h.salt) > 64 {
		return hashed{}, ErrBadHash
	}
	if h.sum, err = b64.DecodeString(parts[5]); err != nil || len(h.sum) < 16 || len(h.sum) > 64 {
		return hashed{}, ErrBadHash
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
