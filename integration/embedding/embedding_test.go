// Package embedding tests that the code in docs/embedding.md builds.
package embedding

import (
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	goMLS = "github.com/cisco/go-mls"
	host  = "github.com/matrix-org/dendrite"
)

func TestDocumentedMain(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	doc := codeBlocks(t, filepath.Join(root, "docs", "embedding.md"))
	module, imports, call := strings.ReplaceAll(doc[0], "../mimi", root), doc[1], doc[2]
	if strings.Contains(host, "/element-hq/") {
		module, imports = strings.ReplaceAll(doc[4], "../mimi/build/element-hq", root), doc[5]
	}
	dendrite := goCommand(t, root, "list", "-m", "-f", "{{.Dir}}", host)
	source, err := os.ReadFile(filepath.Join(dendrite, "cmd", "dendrite", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	main := insertAfter(t, insertAfter(t, string(source), "import (", imports), "monolith.AddAllPublicRoutes(", call)

	t.Run("with groups of go-mls", func(t *testing.T) {
		if !links(t, build(t, module, main), goMLS) {
			t.Errorf("the build does not link %s", goMLS)
		}
	})
	t.Run("without", func(t *testing.T) {
		if links(t, build(t, without(module, "x448"), without(main, "mls")), goMLS) {
			t.Errorf("the build links %s", goMLS)
		}
	})
}

// codeBlocks returns the fenced code blocks of a Markdown file.
func codeBlocks(t *testing.T, path string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, part := range strings.Split(string(text), "```") {
		if i%2 == 1 {
			_, code, _ := strings.Cut(part, "\n") // the first line is the language
			blocks = append(blocks, code)
		}
	}
	if len(blocks) < 6 {
		t.Fatalf("there are %d blocks of code in %s", len(blocks), path)
	}
	return blocks
}

// insertAfter inserts lines after the first line that contains a text.
func insertAfter(t *testing.T, source, text, lines string) string {
	t.Helper()
	before, after, ok := strings.Cut(source, text)
	if !ok {
		t.Fatalf("the source does not contain %q", text)
	}
	rest, after, _ := strings.Cut(after, "\n")
	return before + text + rest + "\n" + lines + after
}

// without removes the lines that contain a text.
func without(source, text string) string {
	var kept strings.Builder
	for line := range strings.Lines(source) {
		if !strings.Contains(line, text) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// build builds a main package in an empty module, and returns the program's path.
func build(t *testing.T, module, main string) (program string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": module, "main.go": main} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program = filepath.Join(dir, "homeserver")
	goCommand(t, dir, "build", "-mod=mod", "-o", program)
	return program
}

func goCommand(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %v: %v\n%s", args, err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// links reports whether a program is linked with a module.
func links(t *testing.T, program, module string) bool {
	t.Helper()
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range info.Deps {
		if d.Path == module {
			return true
		}
	}
	return false
}
