package api

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// DirectScheme is the authorization scheme of direct requests (profile, section 11).
const DirectScheme = "MimiDevice"

const (
	maxDirect = 4096      // bytes of an Authorization header
	maxID     = 255       // bytes of a user or device id
	maxMillis = 1<<53 - 1 // the bound of all integers in JSON
)

// DirectFeature is the unstable feature that a server lists if it accepts direct requests.
const DirectFeature = Namespace + ".direct_requests"

// DirectKey names the device that signs a direct request, and its key. The scheme is a value of mls.SignatureScheme.
type DirectKey struct {
	UserID, DeviceID, Scheme string
}

// DirectHeader is the Authorization header of a signed request.
func DirectHeader(r *mimiport.DirectRequest, scheme string) string {
	return fmt.Sprintf(`%s user=%s,device=%s,key=%s,time="%d",nonce="%s",sha256="%s",sig="%s"`, DirectScheme,
		quote(r.UserID), quote(r.DeviceID), quote(DeviceKeyName(scheme, r.DeviceID)), r.Time,
		base64.RawStdEncoding.EncodeToString(r.Nonce[:]), base64.RawStdEncoding.EncodeToString(r.BodyHash[:]),
		base64.RawStdEncoding.EncodeToString(r.Signature))
}

var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

func quote(s string) string { return `"` + escape.Replace(s) + `"` }

// IsDirect reports whether a request has an Authorization header of DirectScheme.
func IsDirect(h http.Header) bool {
	for _, value := range h.Values("Authorization") {
		if scheme, _, _ := strings.Cut(value, " "); scheme == DirectScheme {
			return true
		}
	}
	return false
}

// ParseDirectHeader reads the output of DirectHeader from the only Authorization header of a request. Any other header
// is a KindBadMessage error. The returned DirectRequest has no service, method and URI yet.
func ParseDirectHeader(h http.Header) (r *mimiport.DirectRequest, key DirectKey, err error) {
	values := h.Values("Authorization")
	if len(values) != 1 || len(values[0]) > maxDirect {
		return nil, key, directError("there is not one header of at most %d bytes", maxDirect)
	}
	r = new(mimiport.DirectRequest)
	rest, keyName := strings.TrimPrefix(values[0], DirectScheme+" "), ""
	for i, field := range []struct {
		name string
		set  func(value string) bool
	}{
		{"user", func(v string) bool { r.UserID = v; return true }},
		{"device", func(v string) bool { r.DeviceID = v; return true }},
		{"key", func(v string) bool { keyName = v; return true }},
		{"time", func(v string) bool { r.Time, err = strconv.ParseUint(v, 10, 64); return err == nil }},
		{"nonce", func(v string) bool { return decode32(v, (*[32]byte)(&r.Nonce)) }},
		{"sha256", func(v string) bool { return decode32(v, &r.BodyHash) }},
		{"sig", func(v string) bool { r.Signature, err = base64.RawStdEncoding.DecodeString(v); return err == nil }},
	} {
		value, after, ok := cutField(rest, field.name, i == 0)
		if !ok || !field.set(value) {
			return nil, key, directError("%s is missing or malformed", field.name)
		}
		rest = after
	}
	key = DirectKey{r.UserID, r.DeviceID, schemeOf(keyName, r.DeviceID)}
	if rest != "" || r.Time > maxMillis || DirectHeader(r, key.Scheme) != values[0] {
		return nil, key, directError("it is not in its only form")
	}
	return r, key, requireIDs(r)
}

// cutField cuts one field off the front.
func cutField(s, name string, first bool) (value, rest string, ok bool) {
	before := "," + name + `="`
	if first {
		before = before[1:]
	}
	if s, ok = strings.CutPrefix(s, before); !ok {
		return "", s, false
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], true
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case c < ' ' || c > '~':
			return "", s, false
		default:
			b.WriteByte(c)
		}
	}
	return "", s, false
}

func decode32(s string, v *[32]byte) bool {
	b, err := base64.RawStdEncoding.DecodeString(s)
	return err == nil && copy(v[:], b) == len(b) && len(b) == len(v)
}

// schemeOf returns the scheme of a DeviceKeyName. For any other name it returns a scheme with a different
// DeviceKeyName.
func schemeOf(name, deviceID string) string {
	before, after, _ := strings.Cut(DeviceKeyName("\x00", deviceID), "\x00")
	return strings.TrimSuffix(strings.TrimPrefix(name, before), after)
}

func requireIDs(r *mimiport.DirectRequest) error {
	if r.DeviceID == "" || max(len(r.UserID), len(r.DeviceID)) > maxID {
		return directError("user and device have 1 to %d bytes", maxID)
	}
	if _, err := spec.NewUserID(r.UserID, true); err != nil {
		return directError("user: %w", err)
	}
	return nil
}

func directError(why string, args ...any) error {
	return mimiport.Errorf("read Authorization", mimiport.KindBadMessage, why, args...)
}
