package plainjson

import (
	"strings"
	"testing"
)

// Bytes is a type with a form of its own.
type Bytes []byte

func (b *Bytes) UnmarshalText(text []byte) error {
	*b = text
	return nil
}

// Suite is embedded.
type Suite struct {
	Cipher uint16 `json:"cipher_suite"`
}

// Outer decodes itself, as some types of Dendrite's libraries do.
type Outer struct{ Suite }

func (o *Outer) UnmarshalJSON(data []byte) error { return Unmarshal(data, &o.Suite) }

type example struct {
	Suite
	List []struct {
		Number int64 `json:"number"`
	} `json:"list"`
	Map    map[string][]byte `json:"map"`
	Float  float64           `json:"float"`
	Flag   *bool             `json:"flag"`
	Big    uint64            `json:"big"`
	Text   string            `json:"text"`
	ID     Bytes             `json:"id"`
	Object struct{}          `json:"object"`
	Own    Outer             `json:"own"`
}

// TestWrongTypes: a message about a value of the wrong type names its path, the value, and what it must be.
func TestWrongTypes(t *testing.T) {
	for text, want := range map[string]string{
		`[]`:                           `the text must be an object, not an array`,
		`"x"`:                          `the text must be an object, not a string`,
		`{"list":1}`:                   `list must be an array, not a number`,
		`{"list":{}}`:                  `list must be an array, not an object`,
		`{"list":[{"number":"x"}]}`:    `list.number must be an integer, not a string`,
		`{"list":[{"number":1.5}]}`:    `list.number must be an integer, not the number 1.5`,
		`{"map":[]}`:                   `map must be an object, not an array`,
		`{"map":{"k":1}}`:              `map must be a string of base64, not a number`,
		`{"map":{"k":[300]}}`:          `map must be an integer from 0 to 255, not the number 300`,
		`{"float":"x"}`:                `float must be a number, not a string`,
		`{"flag":1}`:                   `flag must be true or false, not a number`,
		`{"big":-1}`:                   `big must be an integer from 0 to 9007199254740991, not the number -1`,
		`{"big":true}`:                 `big must be an integer from 0 to 9007199254740991, not true or false`,
		`{"text":[1]}`:                 `text must be a string, not an array`,
		`{"id":1}`:                     `id must be a string, not a number`,
		`{"object":"x"}`:               `object must be an object, not a string`,
		`{"cipher_suite":70000}`:       `cipher_suite must be an integer from 0 to 65535, not the number 70000`,
		`{"own":{"cipher_suite":"x"}}`: `cipher_suite must be an integer from 0 to 65535, not a string`,
		`{"list":[{"number":` + strings.Repeat("9", 1000) + `}]}`: `list.number must be an integer, not a number`,
	} {
		if err := Unmarshal([]byte(text), new(example)); err == nil || err.Error() != want {
			t.Errorf("%.80s:\n\t%v, not\n\t%s", text, err, want)
		}
	}
}

// TestOtherErrors: the package changes no other error, and reads what encoding/json reads.
func TestOtherErrors(t *testing.T) {
	for text, want := range map[string]string{
		`{"text":`:           `unexpected end of JSON input`,
		`{}}`:                `invalid character '}' after top-level value`,
		`{"map":{"k":"!"}}`:  `illegal base64 data at input byte 0`,
		`{"cipher_suite":3}`: ``,
	} {
		v := new(example)
		switch err := Unmarshal([]byte(text), v); {
		case err == nil && (want != "" || v.Cipher != 3), err != nil && err.Error() != want:
			t.Errorf("%s: %v", text, err)
		}
	}
}
