package mimiport

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxHeard is how much of what a stranger says is kept, in bytes.
const maxHeard = 512

// Clip makes what another server says fit to be stored, logged and passed on: at most 512 bytes of valid UTF-8 without
// characters that control how a line is shown, such as ESC, line ends and changes of direction. A space takes the place
// of each.
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

// Heard gives an error that another server has a say in a text that went through Clip. It is nil for none.
func Heard(err error) error {
	if err == nil {
		return nil
	}
	return heard{err}
}

type heard struct{ error }

func (e heard) Error() string { return Clip(e.error.Error()) }
func (e heard) Unwrap() error { return e.error }
