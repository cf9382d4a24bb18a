package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// writeText writes a decoded structure as text: one line for each field, indented by its depth.
func writeText(w io.Writer, d *decoded) error {
	var b bytes.Buffer
	b.WriteString(d.Type)
	dec := json.NewDecoder(bytes.NewReader(d.Value))
	dec.UseNumber()
	if err := writeValue(&b, dec, "", 1); err != nil {
		return err
	}
	_, err := b.WriteTo(w)
	return err
}

// writeObject writes an answer of a homeserver as text, in the same form.
func writeObject(w io.Writer, answer []byte) error {
	var b bytes.Buffer
	dec := json.NewDecoder(bytes.NewReader(answer))
	dec.UseNumber()
	if err := writeValue(&b, dec, "", 0); err != nil {
		return err
	}
	_, err := w.Write(bytes.TrimLeft(b.Bytes(), "\n"))
	return err
}

// writeValue writes the next value behind its name.
func writeValue(b *bytes.Buffer, dec *json.Decoder, called string, depth int) error {
	token, err := dec.Token()
	if err != nil {
		return err
	}
	delim, composite := token.(json.Delim)
	if !composite {
		fmt.Fprintf(b, " %s\n", named(called, token))
		return nil
	}
	if !dec.More() {
		b.WriteString(" none")
	}
	b.WriteByte('\n')
	for n := 1; dec.More(); n++ {
		name := strconv.Itoa(n)
		if delim == '{' {
			key, err := dec.Token()
			if err != nil {
				return err
			}
			name = scalar(key)
		}
		b.WriteString(strings.Repeat("  ", depth) + name + ":")
		if err := writeValue(b, dec, name, depth+1); err != nil {
			return err
		}
	}
	_, err = dec.Token() // the closing bracket
	return err
}

// maxShown is the largest number of characters of a value that the text shows.
const maxShown = 160

// scalar makes text of a value that is safe for a terminal. Unknown users have chosen the names in messages.
func scalar(token any) string {
	switch v := token.(type) {
	case nil:
		return "none"
	case string:
		shown := v[:min(len(v), maxShown)]
		if quoted := strconv.QuoteToGraphic(shown); shown == "" || quoted != `"`+shown+`"` {
			shown = quoted
		}
		if len(v) > maxShown {
			shown += fmt.Sprintf("… (%d characters)", len(v))
		}
		return shown
	}
	return fmt.Sprint(token)
}
