package houserules

import (
	"go/ast"
	"go/token"
	"path/filepath"
	"testing"
)

// The largest numbers of methods of a type and of an interface. A larger type has more than one task.
const (
	maxMethods          = 79
	maxInterfaceMethods = 12
)

// TestTypesAreSmall fails for a type or an interface with too many methods. A larger one must be made of parts.
func TestTypesAreSmall(t *testing.T) {
	methods := make(map[string]int)
	for path, file := range sources(t, token.NewFileSet()) {
		for n := range ast.Preorder(file) {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv != nil {
					methods[filepath.Dir(path)+"."+receiver(n.Recv.List[0].Type)]++
				}
			case *ast.TypeSpec:
				if i, ok := n.Type.(*ast.InterfaceType); ok && declared(i) > maxInterfaceMethods {
					t.Errorf("%s: interface %s has %d methods, more than %d", path, n.Name, declared(i), maxInterfaceMethods)
				}
			}
		}
	}
	for name, n := range methods {
		if n > maxMethods {
			t.Errorf("%s has %d methods, more than %d", name, n, maxMethods)
		}
	}
}

func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// declared counts the methods of an interface, without those of embedded interfaces.
func declared(i *ast.InterfaceType) (n int) {
	for _, m := range i.Methods.List {
		n += len(m.Names)
	}
	return n
}
