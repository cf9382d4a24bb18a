// Package plainjson reads JSON, and says what is wrong with it without Go's names.
package plainjson

import (
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Unmarshal is json.Unmarshal. But where a value has the wrong type, its error names the path of the value, what the
// value is, and what it must be, by the names of JSON. The path has no index of an array, and no key of a map.
func Unmarshal(data []byte, v any) error {
	err := json.Unmarshal(data, v)
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return &typeError{path: path(e.Field), found: e.Value, wanted: wanted(e.Type)}
	}
	return err
}

type typeError struct{ path, found, wanted string }

func (e *typeError) Error() string {
	return fmt.Sprintf("%s must be %s, not %s", cmp.Or(e.path, "the text"), e.wanted, found(e.found))
}

// path removes the names of embedded types. As other Go names that others can see, they begin with a capital letter. No
// field of ours does.
func path(field string) string {
	var names []string
	for name := range strings.SplitSeq(field, ".") {
		if first, _ := utf8.DecodeRuneInString(name); !unicode.IsUpper(first) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ".")
}

// maxNumber is the largest size in bytes of a number that a message repeats.
const maxNumber = 32

// found describes a value: "string", "number 1.5" and the like.
func found(value string) string {
	kind, number, _ := strings.Cut(value, " ")
	switch {
	case kind == "array" || kind == "object":
		return "an " + kind
	case kind == "bool":
		return "true or false"
	case number != "" && len(number) <= maxNumber:
		return "the number " + number
	}
	return "a " + kind
}

var text = reflect.TypeFor[encoding.TextUnmarshaler]()

// wanted describes the JSON for a type.
func wanted(t reflect.Type) string {
	if reflect.PointerTo(t).Implements(text) {
		return "a string"
	}
	switch kind := t.Kind(); kind {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "an integer"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return fmt.Sprintf("an integer from 0 to %d", min(uint64(1)<<t.Bits()-1, 1<<53-1))
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return "a string of base64"
		}
		return "an array"
	}
	return "an object"
}
