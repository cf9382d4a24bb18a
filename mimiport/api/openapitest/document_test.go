package openapitest_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api/openapitest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

func document(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// operations maps each operation id to the methods and full paths that it has in the document.
func operations(doc *openapi3.T) map[string][]string {
	ops := make(map[string][]string)
	for path, item := range doc.Paths.Map() {
		servers := item.Servers
		if servers == nil {
			servers = doc.Servers
		}
		for method, op := range item.Operations() {
			for _, s := range servers {
				ops[op.OperationID] = append(ops[op.OperationID], method+" "+strings.TrimSuffix(s.URL, "/")+path)
			}
		}
	}
	return ops
}

// The document has exactly the routes of the tables.
func TestRoutesAreInTheDocument(t *testing.T) {
	routes := make(map[string]map[string]bool)
	add := func(prefix string, table []edge.Route) {
		for _, rt := range table {
			if routes[rt.Name] == nil {
				routes[rt.Name] = make(map[string]bool)
			}
			routes[rt.Name][rt.Method+" "+prefix+rt.Path] = true
		}
	}
	add(federation.PathPrefix, federation.Routes(nil, 0))
	add(clientapi.PathPrefix, clientapi.Routes(clientapi.Services{}, nil, 0))
	add(adminapi.PathPrefix, adminapi.Routes(nil))
	add(adminapi.PathPrefix, adminapi.HealthRoutes(nil))
	ops := operations(document(t))
	for name, at := range routes {
		if len(ops[name]) != len(at) {
			t.Errorf("%s: the document has %v, the tables %v", name, ops[name], at)
		}
		for _, op := range ops[name] {
			if !at[op] {
				t.Errorf("%s: the document has %s", name, op)
			}
		}
	}
	if len(ops) != len(routes) {
		t.Errorf("the document has %d operations, the tables %d", len(ops), len(routes))
	}
}

// Every code of an operation has a status. Every code belongs to some operation. No operation lists a code twice.
func TestCodesOfOperations(t *testing.T) {
	doc := document(t)
	statuses := doc.Components.Schemas["Error"].Value.Extensions["x-statuses"].(map[string]any)
	always := openapitest.Codes(doc.Extensions)
	seen := map[any]bool{"M_GUEST_ACCESS_FORBIDDEN": true, "M_BAD_JSON": true} // the homeserver's own
	for _, code := range always {
		seen[code] = true
	}
	for path, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			own := openapitest.Codes(op.Extensions)
			if own == nil {
				t.Errorf("%s: %s says nothing of its refusals", path, op.OperationID)
			}
			for i, code := range own {
				if seen[code] = true; slices.Contains(always, code) || slices.Contains(own[:i], code) {
					t.Errorf("%s lists %s twice", op.OperationID, code)
				}
			}
		}
	}
	for code := range statuses {
		short := strings.TrimPrefix(code, "IO.GITHUB.MIMIPORT.")
		if !seen[short] {
			t.Errorf("no operation refuses with %s", code)
		}
		delete(seen, any(short))
	}
	if len(seen) != 2 {
		t.Errorf("codes without a status: %v", seen)
	}
}

// Every call of the API has a route. TestRoutesAreInTheDocument checks only routes.
func TestCallsHaveRoutes(t *testing.T) {
	calls := 0
	for call := range reflect.TypeFor[api.API]().Methods() {
		if call.Type.NumOut() == 2 {
			calls++
		}
	}
	if routes := len(edge.UserRoutes(nil, 0)); calls != routes {
		t.Errorf("%d calls have %d routes", calls, routes)
	}
}

// The document has every error code, with its status.
func TestErrorsAreInTheDocument(t *testing.T) {
	documented := document(t).Components.Schemas["Error"].Value.Extensions["x-statuses"].(map[string]any)
	for kind := mimiport.KindInternal; kind <= mimiport.KindPeer; kind++ {
		rt := edge.Route{Serve: func(context.Context, *edge.Request) (any, error) {
			return nil, &mimiport.Error{Op: "op", Kind: kind, Err: errors.New("why")}
		}}
		w := httptest.NewRecorder()
		anybody := func(*http.Request) (api.Caller, error) { return api.Caller{}, nil }
		h := rt.Handler(anybody, edge.NewBodies(256<<20), slog.New(slog.DiscardHandler))
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		_, rest, _ := strings.Cut(w.Body.String(), `"errcode":"`)
		code, _, _ := strings.Cut(rest, `"`)
		if documented[code] != float64(w.Code) {
			t.Errorf("%s is %d, in the document %v", code, w.Code, documented[code])
		}
		delete(documented, code)
	}
	for code := range documented {
		t.Errorf("only the document has %s", code)
	}
}
