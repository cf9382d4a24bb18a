package houserules

import (
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	section    = regexp.MustCompile(`(?m)^## `)
	ruleNumber = regexp.MustCompile(`\*\*(P(\d+)\.(\d+))\*\*`)
	ruleRow    = regexp.MustCompile(`(?m)^\| (P\d+\.\d+) \|`)

	// twoSentences matches the end of a sentence and the beginning of the next.
	twoSentences = regexp.MustCompile(`[a-z0-9)"` + "`" + `]\. +[A-Z"` + "`" + `]`)
	abbreviation = regexp.MustCompile(`\b(?:e\.g|i\.e|vs)\.`)

	goSymbol     = regexp.MustCompile("`((?:[a-z]\\w*)(?:\\.\\w+){1,2})`")
	clientSymbol = regexp.MustCompile("`([a-z-]+\\.ts) (\\w+)`")
)

// rule is a numbered sentence of the profile.
type rule struct{ number, text string }

// rules returns the rules of one section of the profile, in their order.
func rules(section string) (list []rule) {
	at := ruleNumber.FindAllStringSubmatchIndex(section, -1)
	for i, m := range at {
		end := len(section)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		text := section[m[1]:end]
		if j := strings.Index(text, "\n\n"); j >= 0 {
			text = text[:j]
		}
		text = strings.TrimRight(strings.TrimSuffix(strings.TrimSpace(text), "\n-"), " -*")
		list = append(list, rule{section[m[2]:m[3]], strings.Join(strings.Fields(text), " ")})
	}
	return list
}

// ruleSections returns the sections of the profile that have rules.
func ruleSections(t *testing.T) map[int][]rule {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", "profile.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections := make(map[int][]rule)
	for i, s := range section.Split(string(text), -1)[1:] {
		if list := rules(s); len(list) > 0 {
			sections[i+1] = list
		}
	}
	return sections
}

// TestRulesAreNumbered fails when a rule of the profile is out of order, or has more than one sentence.
func TestRulesAreNumbered(t *testing.T) {
	for n, list := range ruleSections(t) {
		for i, r := range list {
			if want := fmt.Sprintf("P%d.%d", n, i+1); r.number != want {
				t.Errorf("rule %s is in the place of %s", r.number, want)
			}
			if twoSentences.MatchString(abbreviation.ReplaceAllString(r.text, "")) {
				t.Errorf("rule %s has more than one sentence: %s", r.number, r.text)
			}
		}
	}
}

// TestRulesAreEnforced fails when a rule has not one row in docs/conformance.md, or the row names no function, or one
// that does not exist.
func TestRulesAreEnforced(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "conformance.md"))
	if err != nil {
		t.Fatal(err)
	}
	symbols := symbolsInTree(t)
	rows := make(map[string]int)
	for line := range strings.Lines(string(text)) {
		m := ruleRow.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		rows[m[1]]++
		where := strings.Split(line, " | ")[1]
		named := goSymbol.FindAllStringSubmatch(where, -1)
		for _, s := range clientSymbol.FindAllStringSubmatch(where, -1) {
			named = append(named, []string{"", s[1] + " " + s[2]})
		}
		if len(named) == 0 {
			t.Errorf("the row of %s names no function", m[1])
		}
		for _, s := range named {
			if !symbols[s[1]] {
				t.Errorf("the row of %s names %s, which does not exist", m[1], s[1])
			}
		}
	}
	for _, list := range ruleSections(t) {
		for _, r := range list {
			if rows[r.number] != 1 {
				t.Errorf("rule %s has %d rows", r.number, rows[r.number])
			}
			delete(rows, r.number)
		}
	}
	for number := range rows {
		t.Errorf("there is no rule %s", number)
	}
}

// symbolsInTree has the top-level names of all Go packages, as package.Name and package.Type.Method, and the functions
// of the reference client, as "file.ts name".
func symbolsInTree(t *testing.T) map[string]bool {
	t.Helper()
	symbols := make(map[string]bool)
	for _, file := range sources(t, token.NewFileSet()) {
		for _, decl := range file.Decls {
			for _, name := range namesOf(decl) {
				symbols[file.Name.Name+"."+name] = true
			}
		}
	}
	clientFunction := regexp.MustCompile(
		`(?m)(?:function\*?|const|class) (\w+)|^\s+(?:private |static |async |\*)*(\w+)(?:<\w+>)?\(`,
	)
	for name, source := range files(t, ".ts") {
		for _, m := range clientFunction.FindAllStringSubmatch(source, -1) {
			symbols[path.Base(name)+" "+m[1]+m[2]] = true
		}
	}
	return symbols
}

// namesOf returns the names that a declaration makes.
func namesOf(decl ast.Decl) (names []string) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		name := d.Name.Name
		if d.Recv != nil {
			name = receiver(d.Recv.List[0].Type) + "." + name
		}
		return []string{name}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				names = append(names, s.Name.Name)
			case *ast.ValueSpec:
				for _, n := range s.Names {
					names = append(names, n.Name)
				}
			}
		}
	}
	return names
}
