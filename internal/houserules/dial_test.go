package houserules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// fclient resolves and dials without a guard (CVE-2024-52594).
const fclient = "github.com/matrix-org/gomatrixserverlib/fclient"

// harmless lists the names of packages that dial which all code may use: types, and functions that send nothing.
var harmless = map[string][]string{
	fclient: {
		"SigningIdentity", "NewFederationRequest", "VerifyHTTPRequest",
		"Client", "NewClient", "WithTransport", "WithTimeout", "WithUserAgent",
	},
	"net": {},
}

// sends lists the names of net/http that send requests to any address.
var sends = []string{"Client", "DefaultClient", "DefaultTransport", "Get", "Head", "Post", "PostForm", "Transport"}

// mayDial lists the places that may resolve and dial: the guard, Dendrite's own main and its DNS cache, the connections
// to the operator's database and to the operator's homeserver, and code for tests.
var mayDial = []string{
	"federation/dial", "cmd/dendrite-mimi", "hooks/host.go", "hooks/host_element_hq.go", "storage/postgres",
	"cmd/mimictl/server.go", "integration", "storage/storagetest",
}

// TestOnlyTheGuardDials fails when code of a homeserver or a tool could reach an address without federation/dial.
func TestOnlyTheGuardDials(t *testing.T) {
	files := 0
	for path, file := range sources(t, token.NewFileSet()) {
		if slices.ContainsFunc(mayDial, func(place string) bool { return within(path, place) }) {
			continue
		}
		files++
		for _, use := range dialling(file) {
			t.Errorf("%s uses %s", path, use)
		}
	}
	if files < 50 {
		t.Errorf("only %d files", files)
	}
}

// TestDiallingIsSeen: the rule finds code that dials.
func TestDiallingIsSeen(t *testing.T) {
	for source, want := range map[string]string{
		`import "` + fclient + `"; var _, _ = fclient.ResolveServer(nil, "")`:             "fclient.ResolveServer",
		`import f "` + fclient + `"; var _ = f.NewFederationClient(nil)`:                  "f.NewFederationClient",
		`import "` + fclient + `"; var _ = fclient.NewClient(fclient.WithTimeout(1))`:     "fclient.NewClient unguarded",
		`import "` + fclient + `"; var _ = fclient.NewClient(fclient.WithTransport(nil))`: "",
		`import "net/http"; var _ = http.DefaultClient`:                                   "http.DefaultClient",
		`import "net/http"; var _ http.Handler`:                                           "",
		`import "net"; var _, _ = net.Dial("tcp", "")`:                                    "net.Dial",
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x; "+source, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(dialling(file), ", "); got != want {
			t.Errorf("%s: got %q", source, got)
		}
	}
}

// dialling lists the uses of names that resolve or dial in a file.
func dialling(file *ast.File) (uses []string) {
	names := importNames(file)
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if is(n.Fun, names, fclient, "NewClient") && !slices.ContainsFunc(n.Args, func(arg ast.Expr) bool {
				option, ok := arg.(*ast.CallExpr)
				return ok && is(option.Fun, names, fclient, "WithTransport")
			}) {
				uses = append(uses, "fclient.NewClient unguarded")
			}
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if !ok {
				return true
			}
			pkg, name := names[x.Name], n.Sel.Name
			known, dials := harmless[pkg]
			if dials && !slices.Contains(known, name) || pkg == "net/http" && slices.Contains(sends, name) {
				uses = append(uses, x.Name+"."+name)
			}
		}
		return true
	})
	return uses
}

// importNames maps the names in a file to the packages that it imports.
func importNames(file *ast.File) map[string]string {
	names := make(map[string]string)
	for _, spec := range file.Imports {
		path, _ := strconv.Unquote(spec.Path.Value) // the parser has checked it
		name := filepath.Base(path)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = path
	}
	return names
}

func is(e ast.Expr, names map[string]string, pkg, name string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && names[x.Name] == pkg
}
