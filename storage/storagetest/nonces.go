package storagetest

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// sampleNonce returns nonce number n of a device, used at the given time.
func sampleNonce(device string, n int, at time.Time) *storage.Nonce {
	nonce := &storage.Nonce{UserID: "@alice:a.example", DeviceID: device, UsedAt: at}
	binary.BigEndian.PutUint64(nonce.Nonce[:], uint64(n))
	return nonce
}

// testNonces: a device can use a nonce once while the store keeps it. Other devices have their own nonces.
func testNonces(t *testing.T, f *fixture) {
	use := func(what string, n *storage.Nonce, want error) {
		t.Helper()
		if err := f.UseNonce(t.Context(), n); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	use("a first one", sampleNonce("PHONE", 1, epoch), nil)
	use("it again", sampleNonce("PHONE", 1, epoch), storage.ErrConflict)
	use("another device's", sampleNonce("TABLET", 1, epoch), nil)
	bobs := sampleNonce("PHONE", 1, epoch)
	bobs.UserID = "@bob:a.example"
	use("another user's", bobs, nil)
	use("a second one", sampleNonce("PHONE", 2, epoch.Add(storage.NonceLife)), nil)
	use("the first one at the end of its life", sampleNonce("PHONE", 1, epoch.Add(storage.NonceLife)), storage.ErrConflict)
	use("after its life", sampleNonce("PHONE", 1, epoch.Add(storage.NonceLife+time.Millisecond)), nil)

	if err := f.Forget(t.Context(), storage.Horizon{}); err != nil {
		t.Fatal(err)
	}
	use("what a horizon spares", sampleNonce("TABLET", 1, epoch), storage.ErrConflict)
	for range 2 {
		if err := f.Forget(t.Context(), storage.Horizon{Nonces: epoch.Add(time.Second)}); err != nil {
			t.Fatal(err)
		}
	}
	use("what is forgotten", sampleNonce("TABLET", 1, epoch), nil)
	use("what is not", sampleNonce("PHONE", 2, epoch), storage.ErrConflict)
}

// testNoncesOfOneDevice: a device can use MaxNonces nonces, and more after their time. Other devices are not affected.
func testNoncesOfOneDevice(t *testing.T, f *fixture) {
	for n := range storage.MaxNonces {
		if err := f.UseNonce(t.Context(), sampleNonce("PHONE", n, epoch)); err != nil {
			t.Fatal(err)
		}
	}
	var limit *storage.LimitError
	if err := f.UseNonce(t.Context(), sampleNonce("PHONE", -1, epoch)); !errors.As(err, &limit) ||
		limit.Quota != storage.QuotaNonces {
		t.Errorf("one more: %v", err)
	}
	for what, n := range map[string]*storage.Nonce{
		"another device's": sampleNonce("TABLET", -1, epoch),
		"later":            sampleNonce("PHONE", -1, epoch.Add(storage.NonceLife+time.Millisecond)),
	} {
		if err := f.UseNonce(t.Context(), n); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// testRacingNonces: of concurrent requests with one nonce, exactly one succeeds.
func testRacingNonces(t *testing.T, f *fixture) {
	var taken atomic.Int32
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			switch err := f.UseNonce(t.Context(), sampleNonce("PHONE", 1, epoch)); {
			case err == nil:
				taken.Add(1)
			case !errors.Is(err, storage.ErrConflict):
				t.Error(err)
			}
		})
	}
	work.Wait()
	if taken.Load() != 1 {
		t.Errorf("the nonce was accepted %d times", taken.Load())
	}
}
