package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest"
)

func TestDBCopy(t *testing.T) {
	from, to := "file:"+filepath.Join(t.TempDir(), "from.db"), "file:"+filepath.Join(t.TempDir(), "to.db")
	store, err := sqlite.Open(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	storagetest.Fill(t, store)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"-from", from, "-to", to}, 0, "mimiport_entries              1 rows"},
		{[]string{"-from", from, "-to", to}, 1, "the destination is not empty"},
		{[]string{"-from", "nonsense", "-to", to}, 1, "connection string"},
		{[]string{"-from", from + ".absent", "-to", to}, 1, "no such file"},
		{[]string{"-from", from}, 2, `Required flag "to" not set`},
		{[]string{"-from", from, "-to", to, "more"}, 2, "mimictl db copy takes 0 arguments, not 1"},
	} {
		var out, complaint bytes.Buffer
		status := run(append([]string{"db", "copy"}, test.args...), stdio{out: &out, notes: &complaint})
		if text := out.String() + complaint.String(); status != test.status || !strings.Contains(text, test.want) {
			t.Errorf("%v: status %d\n%s", test.args, status, text)
		}
	}
}
