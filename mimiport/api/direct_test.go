package api

import (
	"encoding/json"
	"net/http"
	"os"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

func authorization(values ...string) http.Header { return http.Header{"Authorization": values} }

// TestDirectHeaders: a direct request has exactly one Authorization header, of bounded size.
func TestDirectHeaders(t *testing.T) {
	r := &mimiport.DirectRequest{UserID: "@alice:a.example", DeviceID: "PHONE", Signature: make([]byte, 64)}
	valid := DirectHeader(r, "ed25519")
	if _, _, err := ParseDirectHeader(authorization(valid)); err != nil {
		t.Error(err)
	}
	r.Signature = make([]byte, maxDirect)
	long := DirectHeader(r, "ed25519")
	for name, h := range map[string]http.Header{
		"none": authorization(), "two": authorization(valid, valid), "long": authorization(long),
		"a token beside it": authorization("Bearer token", valid),
	} {
		if _, _, err := ParseDirectHeader(h); mimiport.KindOf(err) != mimiport.KindBadMessage {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, h := range []http.Header{authorization(valid), authorization("Bearer token", valid)} {
		if !IsDirect(h) {
			t.Errorf("%v is not taken for a direct request", h)
		}
	}
	for _, h := range []http.Header{authorization(), authorization("Bearer token"), authorization("MimiDevices x")} {
		if IsDirect(h) {
			t.Errorf("%v is taken for a direct request", h)
		}
	}
}

// FuzzDirectHeader: ParseDirectHeader accepts only a header that DirectHeader writes for the same request.
func FuzzDirectHeader(f *testing.F) {
	data, err := os.ReadFile("../testdata/direct_headers.json")
	if err != nil {
		f.Fatal(err)
	}
	var vectors struct {
		Cases []struct{ Authorization string }
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		f.Fatal(err)
	}
	for _, c := range vectors.Cases {
		f.Add(c.Authorization)
	}
	f.Fuzz(func(t *testing.T, header string) {
		r, key, err := ParseDirectHeader(authorization(header))
		switch {
		case err != nil && mimiport.KindOf(err) != mimiport.KindBadMessage:
			t.Fatal(err)
		case err == nil && DirectHeader(r, key.Scheme) != header:
			t.Fatalf("%q is written as %q", header, DirectHeader(r, key.Scheme))
		}
	})
}
