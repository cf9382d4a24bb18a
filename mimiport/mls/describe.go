package mls

import (
	"encoding/hex"
	"iter"
	"reflect"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// Describe decodes any MLSMessage into what encoding/json writes readably: fields by name, byte strings in hexadecimal. It
// returns the errors of Parse; its cost is linear in the message.
func Describe(message []byte) (any, error) {
	m, err := (&engine{}).decode(message, len(message))
	if err != nil {
		return nil, failed("describe message", nil, err)
	}
	return describe(reflect.ValueOf(m)), nil
}

// describe turns a decoded structure into maps, lists and strings. Absent parts are left out, as are fields tagged
// `describe:"-"`, which repeat others.
func describe(v reflect.Value) any {
	switch list := v.Interface().(type) {
	case rfc9420.ProposalList:
		return collect(list.All())
	case rfc9420.EncryptedSecrets:
		return collect(list.All())
	case rfc9420.Uint16s:
		return collect(list.All())
	case rfc9420.Extensions:
		return describeExtensions(list)
	}
	switch v.Kind() {
	case reflect.Pointer:
		return describe(v.Elem())
	case reflect.Struct:
		out := make(map[string]any)
		describeFields(out, v)
		return out
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return hex.EncodeToString(v.Bytes())
		}
		out := make([]any, v.Len())
		for i := range out {
			out[i] = describe(v.Index(i))
		}
		return out
	}
	return v.Interface()
}

func describeFields(out map[string]any, v reflect.Value) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		switch {
		case field.Anonymous:
			describeFields(out, v.Field(i))
		case field.IsExported() && field.Tag.Get("describe") != "-" && !absent(v.Field(i)):
			out[field.Name] = describe(v.Field(i))
		}
	}
}

// absent reports whether a field belongs to another variant of its structure.
func absent(v reflect.Value) bool {
	return (v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice) && v.IsNil()
}

func collect[V any](list iter.Seq[V]) []any {
	out := []any{}
	for v := range list {
		out = append(out, describe(reflect.ValueOf(v)))
	}
	return out
}

func describeExtensions(e rfc9420.Extensions) []any {
	out := []any{}
	for typ, data := range e.All() {
		out = append(out, map[string]any{"Type": typ, "Data": hex.EncodeToString(data)})
	}
	return out
}
