package houserules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// mayProve lists the places that may check evidence: package proof, the codecs that it uses, and the program that
// writes its test vectors.
var mayProve = []string{"mimiport/proof", "mimiport/lineage.go", "mimiport/messages.go", "mimiport/internal/vectors"}

// mayShow lists the files that decode evidence only to print it.
var mayShow = []string{
	"cmd/mimictl/decode.go", "integration/demoweb/messages.go", "mimiport/delivery/messages.go",
}

// TestOnlyProofProves fails when code outside mimiport/proof checks a confirmation against its offer, or walks a chain
// of hosts. It looks for code that decodes a confirmation or loops over the steps of a lineage.
func TestOnlyProofProves(t *testing.T) {
	files := 0
	for path, file := range sources(t, token.NewFileSet()) {
		if slices.ContainsFunc(mayProve, func(place string) bool { return within(path, place) }) {
			continue
		}
		files++
		for _, use := range proving(file) {
			if !slices.Contains(mayShow, path) {
				t.Errorf("%s %s", path, use)
			}
		}
	}
	if files < 50 {
		t.Errorf("only %d files", files)
	}
}

// TestProvingIsSeen: the rule finds code that checks evidence.
func TestProvingIsSeen(t *testing.T) {
	const mimiport = `import "` + module + `/mimiport"; `
	for source, want := range map[string]string{
		mimiport + `var c, _ = mimiport.UnmarshalMigrationConfirmation(nil)`:                   "decodes a confirmation",
		`import m "` + module + `/mimiport"; var f = m.UnmarshalMigrationConfirmation`:         "decodes a confirmation",
		mimiport + `func f(l *mimiport.Lineage) { for _, s := range l.Steps { _ = s } }`:       "loops over steps",
		mimiport + `func f(l *mimiport.Lineage) { for i := range l.Steps[1:] { _ = i } }`:      "loops over steps",
		mimiport + `func f(l *mimiport.Lineage) { for i := range len(l.Steps) { _ = i } }`:     "loops over steps",
		mimiport + `func f(l *mimiport.Lineage) { for i := 0; i < len(l.Steps); i++ { i-- } }`: "loops over steps",
		mimiport + `func f(l *mimiport.Lineage) bool { return len(l.Steps) == 0 }`:             "",
		`func f(p struct{ Steps []int }) { for range p.Steps { } }`:                            "",
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x; "+source, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(proving(file), ", "); got != want {
			t.Errorf("%s: got %q", source, got)
		}
	}
}

// proving lists the checks of evidence in a file. A file that does not import package mimiport has no lineage.
func proving(file *ast.File) (uses []string) {
	const messages = module + "/mimiport"
	names := importNames(file)
	imports := slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"`+messages+`"` })
	for n := range ast.Preorder(file) {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if is(n, names, messages, "UnmarshalMigrationConfirmation") {
				uses = append(uses, "decodes a confirmation")
			}
		case *ast.RangeStmt:
			if imports && hasSteps(n.X) {
				uses = append(uses, "loops over steps")
			}
		case *ast.ForStmt:
			if imports && n.Cond != nil && hasSteps(n.Cond) {
				uses = append(uses, "loops over steps")
			}
		}
	}
	return uses
}

// hasSteps reports whether an expression contains a field Steps.
func hasSteps(e ast.Expr) bool {
	for n := range ast.Preorder(e) {
		if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Steps" {
			return true
		}
	}
	return false
}
