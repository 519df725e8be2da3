package auth

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
)

func TestPasswordRoundTrip(t *testing.T) {
	t.Parallel()
	for _, password := range []string{"correct horse", "пароль-пароль", strings.Repeat("x", maxPassword)} {
		hash, err := HashPassword(password)
		if err != nil {
			t.Fatal(err)
		}
		again, err := HashPassword(password)
		if err != nil || hash == again {
			t.Fatalf("two hashes of one password are the same (%v)", err)
		}
		if err := CheckPassword(hash, password); err != nil {
			t.Errorf("the right password: %v", err)
		}
		if err := CheckPassword(hash, password[1:]); !errors.Is(err, ErrWrongPassword) {
			t.Errorf("a wrong password: %v", err)
		}
	}
}

func TestHashPasswordRefuses(t *testing.T) {
	t.Parallel()
	for _, password := range []string{"", "seven77", "ñandúes", strings.Repeat("x", maxPassword+1)} {
		if _, err := HashPassword(password); !errors.Is(err, ErrPasswordLength) {
			t.Errorf("%d bytes: %v", len(password), err)
		}
	}
}

func TestCheckPassword(t *testing.T) {
	t.Parallel()
	// The reference implementation's own: echo -n password | argon2 somesalt -id -t 2 -k 65536 -p 1 -e (phc-winner-argon2, test.c).
	const reference = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	bad := func(err error) bool {
		return err != nil && !errors.Is(err, ErrWrongPassword)
	}
	tests := []struct {
		name string
		hash string
		want func(error) bool
	}{
		{"reference", reference, func(err error) bool { return err == nil }},
		{"other salt", strings.Replace(reference, "c29tZXNhbHQ", "c29tZXNhbHU", 1), func(err error) bool { return errors.Is(err, ErrWrongPassword) }},
		{"empty", "", bad},
		{"argon2i", strings.Replace(reference, "argon2id", "argon2i", 1), bad},
		{"bcrypt", "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy", bad},
		{"old version", strings.Replace(reference, "v=19", "v=16", 1), bad},
		{"4 TiB of memory", strings.Replace(reference, "m=65536", "m=4294967295", 1), bad},
		{"just over the bound", strings.Replace(reference, "m=65536", "m=262145", 1), bad},
		{"no memory", strings.Replace(reference, "m=65536", "m=0", 1), bad},
		{"no passes (the library would panic)", strings.Replace(reference, "t=2", "t=0", 1), bad},
		{"no lanes (the library would panic)", strings.Replace(reference, "p=1", "p=0", 1), bad},
		{"a million passes", strings.Replace(reference, "t=2", "t=1000000", 1), bad},
		{"256 lanes", strings.Replace(reference, "p=1", "p=256", 1), bad},
		{"leading zero", strings.Replace(reference, "t=2", "t=02", 1), bad},
		{"parameters in another order", strings.Replace(reference, "m=65536,t=2", "t=2,m=65536", 1), bad},
		{"short salt", strings.Replace(reference, "c29tZXNhbHQ", "c29t", 1), bad},
		{"no hash", reference[:strings.LastIndexByte(reference, '$')+1], bad},
		{"padded base64", reference + "=", bad},
		{"line break in the base64", strings.Replace(reference, "c29t", "c2\n9t", 1), bad},
		{"one part more", reference + "$x", bad},
		{"long", reference + strings.Repeat("A", 300), bad},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if err := CheckPassword(test.hash, "password"); !test.want(err) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	f.Add("$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$$$$$")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHash(s)
		if err != nil {
			return
		}
		if h.memory > 256<<10 || h.passes < 1 || h.passes > 16 || h.lanes < 1 || h.lanes > 16 {
			t.Fatalf("out of bounds: %+v", h)
		}
		if h.String() != s {
			t.Fatalf("%q reads as %q", s, h.String())
		}
	})
}

// worked is how many bytes f allocated. No other test runs meanwhile: the caller is not parallel.
func worked(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A login takes the same whether there is a user or not: what argon2 does shows in the memory that it fills.
func TestHasherWorksForNobody(t *testing.T) {
	h := NewHasher(1)
	hash, err := HashPassword("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	broken := "md5"
	for _, test := range []struct {
		name string
		hash *string
	}{{"a user", &hash}, {"nobody", nil}, {"a hash that is none", &broken}} {
		var err error
		if did := worked(func() { err = h.Check(t.Context(), test.hash, "incorrect horse") }); did < hashMemory<<10 || did > hashMemory<<11 {
			t.Errorf("%s: %d bytes", test.name, did)
		}
		if !errors.Is(err, ErrWrongPassword) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if err := h.Check(t.Context(), &hash, "correct horse"); err != nil {
		t.Error(err)
	}
	if err := h.Check(t.Context(), &broken, "x"); !errors.Is(err, ErrBadHash) {
		t.Errorf("the operator does not hear of a broken hash: %v", err)
	}
}

func TestHasherHasFewPlaces(t *testing.T) {
	t.Parallel()
	h := NewHasher(1)
	h.places <- struct{}{} // somebody's password is being hashed
	ctx, cancel := context.WithCancel(t.Context())
	answers := make(chan error, 2)
	go func() { answers <- h.Check(ctx, nil, "correct horse") }()
	go func() {
		_, err := h.Hash(ctx, "correct horse")
		answers <- err
	}()
	cancel()
	for range 2 {
		if err := <-answers; !errors.Is(err, context.Canceled) {
			t.Errorf("did not wait for its turn: %v", err)
		}
	}
	<-h.places
	if _, err := h.Hash(t.Context(), "correct horse"); err != nil {
		t.Error(err)
	}
	if len(h.places) != 0 {
		t.Error("the place is not given back")
	}
}
