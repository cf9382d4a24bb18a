// Package openapitest lets tests check real requests and answers against the document of the APIs. Every answer must
// match the document, and so must every request that the server does not refuse.
package openapitest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// Checker reports every deviation from the document as an error of a test.
type Checker struct {
	t      testing.TB
	router routers.Router
	always []any // the codes of refusals that every operation may have
}

// New makes a checker of api.OpenAPI.
func New(t testing.TB) *Checker {
	t.Helper()
	doc, err := load()
	if err != nil {
		t.Fatal(err)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return &Checker{t, router, Codes(doc.Extensions)}
}

// Codes returns the codes of refusals that extensions list. The list leaves out the prefix of codes that Matrix does
// not define.
func Codes(extensions map[string]any) []any {
	codes, _ := extensions["x-codes"].([]any)
	return codes
}

var load = sync.OnceValues(func() (*openapi3.T, error) {
	openapi3.SchemaErrorDetailsDisabled = true // the details fill pages
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI)
	if err != nil {
		return nil, err
	}
	if err := doc.Validate(context.Background()); err != nil {
		return nil, err
	}
	for _, item := range doc.Paths.Map() {
		if item.Servers == nil {
			item.Servers = doc.Servers // otherwise the router uses the servers of the path before
		}
	}
	return doc, nil
})

// Handler checks the requests to next and its answers.
func (c *Checker) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := c.read(&r.Body)
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		c.check(r, body, rec.Code, rec.Header(), rec.Body.Bytes())
		for name, values := range rec.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(rec.Code)
		if _, err := w.Write(rec.Body.Bytes()); err != nil {
			c.t.Error(err)
		}
	})
}

// RoundTripper checks the requests through next and their answers.
func (c *Checker) RoundTripper(next http.RoundTripper) http.RoundTripper { return &transport{c, next} }

type transport struct {
	*Checker
	next http.RoundTripper
}

func (c *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	body := c.read(&r.Body)
	resp, err := c.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	c.check(r, body, resp.StatusCode, resp.Header, c.read(&resp.Body))
	return resp, nil
}

// read reads a body and puts an unread one in its place.
func (c *Checker) read(body *io.ReadCloser) []byte {
	if *body == nil {
		return nil
	}
	data, err := io.ReadAll(*body)
	if err != nil {
		c.t.Error(err)
	}
	*body = io.NopCloser(bytes.NewReader(data))
	return data
}

func (c *Checker) check(r *http.Request, body []byte, status int, header http.Header, answer []byte) {
	c.t.Helper()
	if err := c.verify(r, body, status, header, answer); err != nil {
		c.t.Errorf("%s %s → %d: %v", r.Method, r.URL, status, err)
	}
}

func (c *Checker) verify(r *http.Request, body []byte, status int, header http.Header, answer []byte) error {
	if status == http.StatusUnauthorized {
		return nil // an answer of the homeserver itself
	}
	asked := r.Clone(r.Context())
	asked.Body = io.NopCloser(bytes.NewReader(body))
	route, vars, err := c.router.FindRoute(asked)
	if errors.Is(err, routers.ErrPathNotFound) || errors.Is(err, routers.ErrMethodNotAllowed) {
		return outside(r, status)
	}
	if err != nil {
		return err
	}
	options := &openapi3filter.Options{IncludeResponseStatus: true,
		AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}
	input := &openapi3filter.RequestValidationInput{Request: asked, PathParams: vars, Route: route, Options: options}
	if status < 300 {
		if err := openapi3filter.ValidateRequest(r.Context(), input); err != nil {
			return fmt.Errorf("accepted, but: %w", err)
		}
	}
	if err := c.requireCode(route.Operation, status, answer); err != nil {
		return err
	}
	return openapi3filter.ValidateResponse(r.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: status, Header: header, Options: options,
		Body: io.NopCloser(bytes.NewReader(answer)),
	})
}

// requireCode fails for a refusal with a code that the document does not list for the operation.
func (c *Checker) requireCode(op *openapi3.Operation, status int, answer []byte) error {
	var refusal struct{ Errcode string }
	if status < http.StatusBadRequest || json.Unmarshal(answer, &refusal) != nil {
		return nil
	}
	code := strings.TrimPrefix(refusal.Errcode, "IO.GITHUB.MIMIPORT.")
	if code != "" && !slices.Contains(c.always, any(code)) && !slices.Contains(Codes(op.Extensions), any(code)) {
		return fmt.Errorf("%s does not refuse with %s", op.OperationID, code)
	}
	return nil
}

// outside returns an error if the server answers a request that the document does not have.
func outside(r *http.Request, status int) error {
	if status == http.StatusNotFound || status == http.StatusMethodNotAllowed {
		return nil
	}
	return fmt.Errorf("%s %s is not in the document", r.Method, r.URL.Path)
}
