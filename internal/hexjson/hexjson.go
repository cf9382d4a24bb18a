// Package hexjson writes decoded structures as JSON, for tools and for test vectors. Fields are in their order, and
// bytes are in hexadecimal. It reads no JSON: Bytes lets encoding/json do so.
package hexjson

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// maxInteger is the largest integer that every JSON reader represents exactly (RFC 8259, section 6).
const maxInteger = 1<<53 - 1

// Lister is a list in another form, such as its encoding. Marshal writes the result of List.
type Lister interface{ List() any }

// Marshal encodes v, which consists of structs, pointers, slices, strings, integers, bytes and Listers. It writes the
// same fields of a struct as encoding/json, under the same names. omitzero is the only option that it knows. An
// integer above 2^53-1 becomes a string of its decimal digits. Marshal returns an error for any other type and for a
// negative integer.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	if err := write(&b, reflect.ValueOf(v)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func write(b *bytes.Buffer, v reflect.Value) error {
	if list, ok := v.Interface().(Lister); ok {
		return write(b, reflect.ValueOf(list.List()))
	}
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
	case reflect.Int:
		if v.Int() >= 0 {
			return writeUint(b, uint64(v.Int()))
		}
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
	fields := fieldsOf(v)
	return writeList(b, '{', '}', len(fields), func(i int) error {
		if err := writeString(b, fields[i].name); err != nil {
			return err
		}
		b.WriteByte(':')
		return write(b, fields[i].value)
	})
}

type field struct {
	name  string
	value reflect.Value
}

// fieldsOf lists the fields of a struct that Marshal writes, and those of its embedded structs.
func fieldsOf(v reflect.Value) (fields []field) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			fields = append(fields, fieldsOf(v.Field(i))...)
		case f.IsExported() && name != "-" && (option != "omitzero" || !v.Field(i).IsZero()):
			fields = append(fields, field{cmp.Or(name, f.Name), v.Field(i)})
		}
	}
	return fields
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
	if v.Kind() == reflect.Array { // an array in an interface is not addressable
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
