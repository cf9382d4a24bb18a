package openapitest_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api/openapitest"
)

// reports collects the reports of a checker.
type reports struct {
	testing.TB
	said []string
}

func (r *reports) Errorf(format string, args ...any) {
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

// transport gives every request the same answer.
type transport struct {
	status int
	body   string
}

func (a transport) RoundTrip(*http.Request) (*http.Response, error) {
	header := http.Header{"Content-Type": {"application/json"}}
	return &http.Response{StatusCode: a.status, Header: header, Body: io.NopCloser(strings.NewReader(a.body))}, nil
}

func TestChecker(t *testing.T) {
	const (
		submit  = "/_matrix/federation/unstable/io.github.mimiport.v0/groups/AQID/messages"
		request = `{"message":"AQID"}`
		answer  = `{"term":0,"seq":1,"epoch":2}`
		refusal = `{"errcode":"M_FORBIDDEN","error":"no"}`
		unknown = `{"errcode":"IO.GITHUB.MIMIPORT.M_UNKNOWN_MIGRATION","error":"no"}`
	)
	tests := []struct {
		name, uri, request string
		answer             transport
		want               string // part of the report; empty for none
	}{
		{"as documented", submit, request, transport{200, answer}, ""},
		{"a refusal", submit, request, transport{403, refusal}, ""},
		{"a refusal that only others give", submit, request, transport{404, unknown}, "submit does not refuse"},
		{"a bad request that is refused", submit, `{}`, transport{400, refusal}, ""},
		{"a bad request that is accepted", submit, `{}`, transport{200, answer}, "accepted, but"},
		{"an answer with something missing", submit, request, transport{200, `{"term":0,"seq":1}`}, "epoch"},
		{"an answer with something more", submit, request, transport{200, `{"term":0,"seq":1,"epoch":2,"x":3}`}, "x"},
		{"a refusal without a code", submit, request, transport{403, `{"error":"no"}`}, "errcode"},
		{"the homeserver's own words", submit, request, transport{401, `{"message":"no"}`}, ""},
		{"nothing there", "/elsewhere", request, transport{404, `{}`}, ""},
		{"something there", "/elsewhere", request, transport{200, `{}`}, "not in the document"},
	}
	for _, tt := range tests {
		r := &reports{TB: t}
		req := httptest.NewRequest("POST", "https://t.example"+tt.uri, strings.NewReader(tt.request))
		req.Header.Set("Content-Type", "application/json")
		resp, err := openapitest.New(r).RoundTripper(tt.answer).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != tt.answer.body {
			t.Errorf("%s: %q came through, %v", tt.name, body, err)
		}
		said := strings.Join(r.said, "\n")
		if (said == "") != (tt.want == "") || !strings.Contains(said, tt.want) {
			t.Errorf("%s: reported %q", tt.name, said)
		}
	}
}
