package houserules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// mayProve are the places that may check evidence by themselves: proof, whose task that is, the codecs that it stands
// on, and the program that writes its test vectors.
var mayProve = []string{"mimiport/proof", "mimiport/lineage.go", "mimiport/messages.go", "mimiport/internal/vectors"}

// mayShow are the files that decode evidence to print it.
var mayShow = []string{"cmd/mimictl/decode.go"}

// TestOnlyProofProves fails when code around mimiport/proof checks a confirmation against its offer, or walks along a
// chain of hosts. A check of the first kind needs the decoded confirmation, one of the second kind a loop.
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

// The rule catches what it is for.
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

// proving are the checks of evidence in a file. One that does not import the messages has no lineage to loop over.
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

// hasSteps says whether an expression contains a field Steps.
func hasSteps(e ast.Expr) bool {
	for n := range ast.Preorder(e) {
		if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Steps" {
			return true
		}
	}
	return false
}
