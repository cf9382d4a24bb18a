package houserules

import (
	"go/ast"
	"go/token"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// logMethods lists the methods of slog.Logger that take keys and values, with the number of arguments before these.
var logMethods = map[string]int{
	"With": 0, "Debug": 1, "Info": 1, "Warn": 1, "Error": 1,
	"DebugContext": 2, "InfoContext": 2, "WarnContext": 2, "ErrorContext": 2, "Log": 3, "LogAttrs": 3,
}

// logKeys returns the keys in the table of DESIGN.md. The value of a key becomes true when the code uses the key.
func logKeys(t *testing.T) map[string]bool {
	t.Helper()
	document, err := os.ReadFile(design)
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(document), "\n## Log keys\n")
	section, _, _ = strings.Cut(section, "\n## ")
	keys := make(map[string]bool)
	for line := range strings.Lines(section) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, key := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
				keys[key[1]] = false
			}
		}
	}
	return keys
}

// logSources parses the files, without tests, of the folders in which a file imports log/slog.
func logSources(t *testing.T, fset *token.FileSet) (logging []*ast.File) {
	t.Helper()
	folders, logs := make(map[string][]*ast.File), make(map[string]bool)
	for name, source := range sources(t, fset) {
		folder := path.Dir(name)
		folders[folder] = append(folders[folder], source)
		logs[folder] = logs[folder] || slices.ContainsFunc(source.Imports, isSlog)
	}
	for folder := range logs {
		if logs[folder] {
			logging = append(logging, folders[folder]...)
		}
	}
	return logging
}

func isSlog(imported *ast.ImportSpec) bool { return imported.Path.Value == `"log/slog"` }

// keysOf returns the keys of a call of a logger, none for any other call. A key that is not a string literal is empty.
func keysOf(call *ast.CallExpr) (keys []string) {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	before, ok := logMethods[method.Sel.Name]
	if on, isName := method.X.(*ast.Ident); !ok || isName && on.Name == "logrus" {
		return nil
	}
	if (len(call.Args)-before)%2 == 1 { // a method of another type: vet finds a logger's key without a value
		return nil
	}
	for i := before; i < len(call.Args); i += 2 {
		literal, _ := call.Args[i].(*ast.BasicLit)
		key := ""
		if literal != nil && literal.Kind == token.STRING {
			key, _ = strconv.Unquote(literal.Value)
		}
		keys = append(keys, key)
	}
	return keys
}

// TestLogKeys fails when a log line has a key that the table in DESIGN.md lacks, and when the table has a key that no
// line uses.
func TestLogKeys(t *testing.T) {
	keys, fset := logKeys(t), token.NewFileSet()
	for _, source := range logSources(t, fset) {
		for n := range ast.Preorder(source) {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				continue
			}
			for _, key := range keysOf(call) {
				if _, known := keys[key]; known {
					keys[key] = true
				} else {
					t.Errorf("%s: %q is not a log key in DESIGN.md", fset.Position(call.Pos()), key)
				}
			}
		}
	}
	for key, used := range keys {
		if !used {
			t.Errorf("DESIGN.md has the log key %q, which no line uses", key)
		}
	}
}
