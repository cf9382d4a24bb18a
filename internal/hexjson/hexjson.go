// Package hexjson writes decoded structures as JSON for people and for test vectors: fields in their order and under the
// names of their json tags, without those of option omitzero that are zero, bytes in hexadecimal. It is for output only.
package hexjson

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// maxInteger is the largest integer that every JSON reader keeps exactly (RFC 8259, section 6).
const maxInteger = 1<<53 - 1

// Marshal encodes v, made of structs, pointers, slices, strings, integers and bytes. An integer above 2^53-1 becomes a string of
// its decimal digits. It returns an error for any other type.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	if err := write(&b, reflect.ValueOf(v)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func write(b *bytes.Buffer, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			b.WriteString("null")
			return nil
		}
		return write(b, v.Elem())
	case reflect.String:
		return writeString(b, v.String())
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return writeUint(b, v.Uint())
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return writeBytes(b, v)
		}
		return writeList(b, '[', ']', v.Len(), func(i int) error { return write(b, v.Index(i)) })
	case reflect.Struct:
		return writeStruct(b, v)
	}
	return fmt.Errorf("hexjson: cannot write a %s", v.Type())
}

func writeStruct(b *bytes.Buffer, v reflect.Value) error {
	var names []string
	var fields []reflect.Value
	for i := range v.NumField() {
		name, option, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if option != "omitzero" || !v.Field(i).IsZero() {
			names, fields = append(names, name), append(fields, v.Field(i))
		}
	}
	return writeList(b, '{', '}', len(fields), func(i int) error {
		if err := writeString(b, names[i]); err != nil {
			return err
		}
		b.WriteByte(':')
		return write(b, fields[i])
	})
}

func writeList(b *bytes.Buffer, begin, end byte, n int, element func(int) error) error {
	b.WriteByte(begin)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := element(i); err != nil {
			return err
		}
	}
	b.WriteByte(end)
	return nil
}

func writeBytes(b *bytes.Buffer, v reflect.Value) error {
	if v.Kind() == reflect.Array { // not addressable inside an interface
		s := reflect.MakeSlice(reflect.SliceOf(v.Type().Elem()), v.Len(), v.Len())
		reflect.Copy(s, v)
		v = s
	}
	return writeString(b, hex.EncodeToString(v.Bytes()))
}

func writeUint(b *bytes.Buffer, n uint64) error {
	digits := strconv.FormatUint(n, 10)
	if n > maxInteger {
		return writeString(b, digits)
	}
	b.WriteString(digits)
	return nil
}

func writeString(b *bytes.Buffer, s string) error {
	quoted, err := json.Marshal(s)
	b.Write(quoted)
	return err
}
