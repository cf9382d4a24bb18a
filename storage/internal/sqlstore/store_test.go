package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

var errGivenUp, errExists = errors.New("given up"), errors.New("exists")

func TestTransactTriesAgain(t *testing.T) {
	db, err := sql.Open("sqlite3", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := &Store{write: db, engine: Engine{
		Transient: func(err error) bool { return errors.Is(err, errGivenUp) },
		Duplicate: func(err error) bool { return errors.Is(err, errExists) },
	}}
	failure := errors.New("broken")
	for _, test := range []struct {
		name   string
		errors []error // of the attempts in turn; the last one repeats
		tries  int
		want   error
	}{
		{"success", []error{nil}, 1, nil},
		{"given up twice", []error{errGivenUp, errGivenUp, nil}, 3, nil},
		{"given up for good", []error{errGivenUp}, maxAttempts, errGivenUp},
		{"exists", []error{errExists}, 1, storage.ErrConflict},
		{"conflict", []error{errGivenUp, storage.ErrConflict}, 2, storage.ErrConflict},
		{"another failure", []error{failure}, 1, failure},
	} {
		tries := 0
		err := s.transact(t.Context(), "test", func(*tx) error {
			tries++
			return test.errors[min(tries, len(test.errors))-1]
		})
		if !errors.Is(err, test.want) || tries != test.tries {
			t.Errorf("%s: %v after %d tries, want %v after %d", test.name, err, tries, test.want, test.tries)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.transact(ctx, "test", func(*tx) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// A column with another type or length is an error. It is neither a panic nor a guess.
func TestScanRefuses(t *testing.T) {
	var id *mimiport.MigrationID
	for name, scan := range map[string]func() error{
		"bytes from text":       func() error { return new(blob).Scan("text") },
		"a hash of 31 bytes":    func() error { return new(hash).Scan(make([]byte, 31)) },
		"a hash of nothing":     func() error { return new(hash).Scan(nil) },
		"an id of 33 bytes":     func() error { return optionalID{&id}.Scan(make([]byte, 33)) },
		"a time from bytes":     func() error { return new(millis).Scan([]byte{1}) },
		"identities of one":     func() error { return new(identities).Scan([]byte{1, 'u'}) },
		"identities, too short": func() error { return new(identities).Scan([]byte{1, 'u', 2, 'd'}) },
		"identities from a sum": func() error { return new(identities).Scan(int64(1)) },
	} {
		if scan() == nil {
			t.Errorf("%s: scanned", name)
		}
	}
}

func FuzzIdentities(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{2, '@', 'u', 0, 1, 'v', 1, 'd'})
	f.Fuzz(func(t *testing.T, data []byte) {
		var list identities
		if list.Scan(data) != nil {
			return
		}
		again, err := list.Value()
		if err != nil || !bytes.Equal(again.([]byte), data) {
			t.Fatalf("%x is read as %v and written as %x, %v", data, list, again, err)
		}
	})
}

func TestTimes(t *testing.T) {
	for _, at := range []time.Time{{}, time.UnixMilli(1), time.UnixMilli(-1),
		time.Date(99999, 1, 1, 0, 0, 0, 999_000_000, time.UTC)} {
		if got := storage.Time(storage.Millis(at)); !got.Equal(at) {
			t.Errorf("%v is read as %v", at, got)
		}
	}
	if got := storage.Millis(time.Unix(1, 1_999_999)); got != 1001 {
		t.Errorf("kept %d ms, want it rounded down", got)
	}
}
