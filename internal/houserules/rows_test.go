package houserules

import (
	"go/ast"
	"go/token"
	"testing"
)

// doer is the file with the method Do, which does the work of a row.
const doer = "mimiport/delivery/work.go"

// TestRowsAreDone fails when Do does not know a declared kind of row. Such a row would be tried for ever.
func TestRowsAreDone(t *testing.T) {
	parsed := sources(t, token.NewFileSet())
	done := make(map[string]bool)
	for n := range ast.Preorder(parsed[doer]) {
		if f, ok := n.(*ast.FuncDecl); ok && f.Name.Name == "Do" {
			done = cases(f)
		}
	}
	kinds := 0
	for path, file := range parsed {
		for n := range ast.Preorder(file) {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !isIdent(spec.Type, "RowKind") {
				continue
			}
			for _, name := range spec.Names {
				kinds++
				if !done[name.Name] {
					t.Errorf("%s: Do in %s has no case for %s", path, doer, name)
				}
			}
		}
	}
	if kinds < 10 {
		t.Errorf("only %d kinds of rows", kinds)
	}
}

// cases returns the names in the cases of a function's switches, without their packages.
func cases(f *ast.FuncDecl) map[string]bool {
	names := make(map[string]bool)
	for n := range ast.Preorder(f) {
		clause, ok := n.(*ast.CaseClause)
		if !ok {
			continue
		}
		for _, e := range clause.List {
			if sel, ok := e.(*ast.SelectorExpr); ok {
				names[sel.Sel.Name] = true
			}
		}
	}
	return names
}

func isIdent(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}
