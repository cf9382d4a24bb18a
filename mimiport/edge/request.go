package edge

import (
	"bytes"
	"errors"
	"strconv"
	"unicode/utf8"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// maxInteger is the largest integer that every implementation of JSON represents exactly (profile, section 1).
const maxInteger = 1<<53 - 1

// Decode reads the request's body as one JSON value. It ignores unknown fields, as Matrix requires. It returns the
// errors of Request.Body, and a KindBadMessage error for a body that does not decode.
func Decode[T any](r *Request) (*T, error) {
	data, err := r.Body()
	if err != nil {
		return nil, err
	}
	v := new(T)
	if err := Unmarshal(data, v); err != nil {
		return nil, mimiport.Errorf("read body", mimiport.KindBadMessage, "%w", err)
	}
	return v, nil
}

// Unmarshal is plainjson.Unmarshal, but it also returns an error for JSON that is not UTF-8, or has an integer that is
// not between -(2^53-1) and 2^53-1 (profile, section 1).
func Unmarshal(data []byte, v any) error {
	if !utf8.Valid(data) { // package json would replace invalid bytes by U+FFFD
		return errors.New("the text is not UTF-8")
	}
	if err := plainjson.Unmarshal(data, v); err != nil {
		return err
	}
	for rest := data; len(rest) > 0; {
		n := tokenLength(rest)
		if tooLong(rest[:n]) {
			return errors.New("an integer is beyond 2^53-1")
		}
		rest = rest[n:]
	}
	return nil
}

// tokenLength returns the length of the first token of valid JSON in bytes. A token is a string, a number, or any other
// byte.
func tokenLength(data []byte) int {
	switch c := data[0]; {
	case c == '"':
		i := 1
		for ; data[i] != '"'; i++ {
			if data[i] == '\\' {
				i++
			}
		}
		return i + 1
	case numeric(c):
		return len(data) - len(bytes.TrimLeft(data, "0123456789+-.eE"))
	}
	return 1
}

func numeric(first byte) bool { return first == '-' || '0' <= first && first <= '9' }

// tooLong reports whether a token is an integer beyond maxInteger.
func tooLong(token []byte) bool {
	if !numeric(token[0]) || bytes.ContainsAny(token, ".eE") {
		return false
	}
	i, err := strconv.ParseInt(string(token), 10, 64)
	return err != nil || i > maxInteger || i < -maxInteger
}

// GroupID decodes the path variable groupId, or returns a KindBadMessage error.
func GroupID(r *Request) ([]byte, error) {
	return api.ParseGroupID(r.Vars["groupId"])
}

// MigrationID decodes the path variable migrationId, or returns a KindBadMessage error.
func MigrationID(r *Request) (mimiport.MigrationID, error) {
	return mimiport.ParseMigrationID(r.Vars["migrationId"])
}

// Uint decodes a query parameter, nil when it is missing or empty. It returns a KindBadMessage error for anything but
// one decimal number up to 2^53-1.
func Uint(r *Request, name string) (*uint64, error) {
	s, err := Param(r, name)
	if err != nil || s == "" {
		return nil, err
	}
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v > maxInteger {
		return nil, mimiport.Errorf("read query", mimiport.KindBadMessage, "%s is not a number up to 2^53-1", name)
	}
	return &v, nil
}

// Param returns a query parameter, empty when it is missing. It returns a KindBadMessage error for one that is not
// UTF-8, and for a repeated one: otherwise one part of the code could check the first value and another part use the
// second.
func Param(r *Request, name string) (string, error) {
	if len(r.Query[name]) > 1 {
		return "", mimiport.Errorf("read query", mimiport.KindBadMessage, "%s is repeated", name)
	}
	value := r.Query.Get(name)
	if !utf8.ValidString(value) {
		return "", mimiport.Errorf("read query", mimiport.KindBadMessage, "%s is not UTF-8", name)
	}
	return value, nil
}
