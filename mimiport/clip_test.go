package mimiport_test

import (
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// The result of Clip is always short, valid and printable. Clip does not change such a text.
func FuzzClip(f *testing.F) {
	for _, s := range []string{
		"", "no room for it", "\x1b[31mred\r\n\x00\x7f\x85\u009b1m", "\u202egnp.exe\u2066\u200f\u061c\u2028",
		"\xff\xc3\x28", "за́чем? \u200b", strings.Repeat("x", 511) + "é", strings.Repeat("\xff", 1<<20),
		strings.Repeat("€", 200), "\U000E0041",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := mimiport.Clip(s)
		if len(got) > 512 || !utf8.ValidString(got) || !plain(got) {
			t.Fatalf("%q became %q", s, got)
		}
		if again := mimiport.Clip(got); again != got {
			t.Fatalf("%q became %q", got, again)
		}
		if plain(s) && utf8.ValidString(s) && !strings.HasPrefix(s, got) {
			t.Fatalf("%q became %q", s, got)
		}
	})
}

func plain(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// The text of an error from Heard is short, and the error still wraps the original.
func TestHeard(t *testing.T) {
	cause := errors.New(strings.Repeat("\x1b\n", 1<<20))
	got := mimiport.Heard(cause)
	if len(got.Error()) > 512 || strings.ContainsAny(got.Error(), "\x1b\n") || !errors.Is(got, cause) {
		t.Errorf("got %q", got)
	}
	if mimiport.Heard(nil) != nil {
		t.Error("Heard makes an error of nil")
	}
}
