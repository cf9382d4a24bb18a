package mimiport

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxHeard is the largest text of another server that is kept, in bytes.
const maxHeard = 512

// Clip makes a text of another server safe to store, log and pass on. The result has at most 512 bytes of valid UTF-8.
// Clip replaces each character that controls how a line is shown, such as ESC, a line end or a change of direction, by
// a space.
func Clip(s string) string {
	var b strings.Builder
	for _, r := range s {
		if !unicode.IsPrint(r) {
			r = ' '
		}
		if b.Len()+utf8.RuneLen(r) > maxHeard {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Heard wraps an error that may contain text of another server. The text of the result has gone through Clip. Heard
// returns nil for nil.
func Heard(err error) error {
	if err == nil {
		return nil
	}
	return heard{err}
}

type heard struct{ error }

func (e heard) Error() string { return Clip(e.error.Error()) }
func (e heard) Unwrap() error { return e.error }
