package storagetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// sampleKeyObject returns a key object, fetched that many seconds after epoch.
func sampleKeyObject(server, keyID string, seconds int) storage.KeyObject {
	return storage.KeyObject{
		Server: server, KeyID: keyID, Object: fmt.Appendf(nil, "%s %s %d", server, keyID, seconds),
		FetchedAt: epoch.Add(time.Duration(seconds) * time.Second),
	}
}

func (f *fixture) keep(objects ...storage.KeyObject) {
	f.t.Helper()
	for i := range objects {
		if err := f.KeepKeyObject(f.t.Context(), &objects[i]); err != nil {
			f.t.Fatal(err)
		}
	}
}

func testKeyObjects(t *testing.T, f *fixture) {
	const server = "a.example"
	of := func(server string) []storage.KeyObject {
		got, err := f.KeyObjects(t.Context(), server)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	expect(t, "none", of(server), nil, []storage.KeyObject(nil))
	first, second := sampleKeyObject(server, "1", 1), sampleKeyObject(server, "2", 2)
	again, other := sampleKeyObject(server, "1", 3), sampleKeyObject("other", "1", 0)
	f.keep(first, second, other)
	expect(t, "the latest first", of(server), nil, []storage.KeyObject{second, first})
	f.keep(again)
	expect(t, "one of each key", of(server), nil, []storage.KeyObject{again, second})

	for i := range storage.MaxKeyObjectsOfServer {
		f.keep(sampleKeyObject(server, fmt.Sprint("more ", i), 10+i))
	}
	kept := of(server)
	if len(kept) != storage.MaxKeyObjectsOfServer || kept[len(kept)-1].KeyID != "more 0" {
		t.Errorf("%d objects of one server are kept, the last is %q", len(kept), kept[len(kept)-1].KeyID)
	}
	for i := range storage.MaxKeyObjects - 1 {
		f.keep(sampleKeyObject(fmt.Sprint(i), "1", 1000+i))
	}
	expect(t, "the oldest, beyond what is kept", of("other"), nil, []storage.KeyObject(nil))
	if kept := of(server); len(kept) != 1 {
		t.Errorf("%d of the oldest objects are kept beside %d others, want 1", len(kept), storage.MaxKeyObjects-1)
	}
}
