package storagetest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

func sampleLastResort(user, device, value string) storage.LastResort {
	return storage.LastResort{UserID: user, DeviceID: device, Value: []byte(value)}
}

func (f *fixture) publish(all ...storage.LastResort) {
	f.t.Helper()
	for i := range all {
		if err := f.PutLastResort(f.t.Context(), &all[i]); err != nil {
			f.t.Fatal(err)
		}
	}
}

// testLastResorts: a device has one KeyPackage of last resort, and a user a bounded number of them.
func testLastResorts(t *testing.T, f *fixture) {
	const alice, bob = "@alice:a.example", "@bob:a.example"
	ctx := t.Context()
	requireKept := func(what, user string, want ...storage.LastResort) {
		t.Helper()
		got, err := f.LastResorts(ctx, user)
		expect(t, what, got, err, want)
	}
	requireKept("none", alice)
	phone, tablet, bobs := sampleLastResort(alice, "PHONE", "1"), sampleLastResort(alice, "A TABLET", "2"),
		sampleLastResort(bob, "PHONE", "3")
	f.publish(phone, tablet, bobs)
	requireKept("each device's", alice, tablet, phone)
	phone.Value = []byte("4")
	f.publish(phone)
	requireKept("the last one of each device", alice, tablet, phone)
	for range 2 { // the second time there is nothing to drop
		if err := f.DropLastResort(ctx, alice, "PHONE"); err != nil {
			t.Fatal(err)
		}
	}
	requireKept("after a drop", alice, tablet)
	requireKept("another user's", bob, bobs)

	for i := range storage.MaxLastResorts - 1 {
		f.publish(sampleLastResort(alice, fmt.Sprint("MORE", i), "5"))
	}
	var limit *storage.LimitError
	one := sampleLastResort(alice, "ONE TOO MANY", "6")
	if err := f.PutLastResort(ctx, &one); !errors.As(err, &limit) || limit.Quota != storage.QuotaLastResorts {
		t.Errorf("one more: %v", err)
	}
	tablet.Value = []byte("7")
	f.publish(tablet)
	kept, err := f.LastResorts(ctx, alice)
	expect(t, "at the limit", len(kept), err, storage.MaxLastResorts)
	expect(t, "replaced at the limit", kept[0], nil, tablet)
}
