package houserules

import (
	"go/ast"
	"go/token"
	"strings"
	"testing"
)

// TestPlainJSON: where an error of json.Unmarshal may reach somebody, the code calls plainjson.Unmarshal, whose errors
// name no Go type. Code that only asks whether there is an error may call json.Unmarshal.
func TestPlainJSON(t *testing.T) {
	fset := token.NewFileSet()
	for path, source := range sources(t, fset) {
		if forDevelopers(path) {
			continue
		}
		mute := make(map[ast.Node]bool) // the calls whose errors go nowhere
		ast.Inspect(source, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BinaryExpr:
				mute[n.X] = true
			case *ast.AssignStmt:
				if id, ok := n.Lhs[0].(*ast.Ident); ok && id.Name == "_" {
					mute[n.Rhs[0]] = true
				}
			case *ast.CallExpr:
				if isCall(n, "json", "Unmarshal") && !mute[n] {
					t.Errorf("%s: the error may name Go types: call plainjson.Unmarshal", fset.Position(n.Pos()))
				}
			}
			return true
		})
	}
}

// TestNoTypeNames: no message has the name of a Go type.
func TestNoTypeNames(t *testing.T) {
	fset := token.NewFileSet()
	for path, source := range sources(t, fset) {
		if forDevelopers(path) {
			continue
		}
		ast.Inspect(source, func(n ast.Node) bool {
			if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING && strings.Contains(text.Value, "%T") {
				t.Errorf("%s: %%T", fset.Position(n.Pos()))
			}
			return true
		})
	}
}

// forDevelopers reports whether only developers see the messages of a file.
func forDevelopers(path string) bool {
	return within(path, "integration") || within(path, "internal") || strings.Contains(path, "test/")
}

// isCall reports whether a call is of a function of a package.
func isCall(call *ast.CallExpr, pkg, function string) bool {
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || f.Sel.Name != function {
		return false
	}
	from, ok := f.X.(*ast.Ident)
	return ok && from.Name == pkg
}
