package postgres_test

import (
	"errors"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

// hurried is a pool with a short Patience.
var hurried = postgres.Pool{MaxOpen: 10, MaxIdle: 10, Patience: time.Second}

// open opens a store and closes it when the test ends.
func open(tb testing.TB, connection string, pool postgres.Pool) storage.Store {
	tb.Helper()
	store, err := postgres.Open(tb.Context(), connection, pool)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { store.Close() }) // an error is fine: the server may have vanished
	return store
}

// testBlackHole lets a server vanish without closing a connection, and come back for new connections only. Each call
// that is under way fails once. Nothing hangs, no written data is lost, and this process keeps its claim, although the
// server's side of the lost connection still holds the lock.
func testBlackHole(t *testing.T, server *pgtest.Server) {
	database := server.Database(t)
	proxy := pgtest.NewProxy(t, server)
	store := open(t, pgtest.Through(t, database, proxy), hurried)
	other := open(t, database, pool)
	one := storage.Row{Destination: "a", Queue: "one", Order: 1}
	two := storage.Row{Destination: "a", Queue: "two", Order: 1}
	if err := store.Apply(t.Context(), &storage.Change{Rows: []storage.Row{one, two}}); err != nil {
		t.Fatal(err)
	}
	release, err := store.Claim(t.Context(), one.Key())
	if err != nil {
		t.Fatal(err)
	}
	fill(t, store)

	proxy.Swallow()
	if err := store.PutSetting(t.Context(), "swallowed", []byte("1")); err == nil {
		t.Fatal("stored in a black hole")
	}
	proxy.Lead(server)
	if err := store.PutSetting(t.Context(), "after", []byte("1")); err != nil {
		t.Errorf("a connection that the silence of another one proves dead is used: %v", err)
	}
	_, err = store.Claim(t.Context(), two.Key())
	if err == nil {
		t.Error("the connection that held the claims has passed something")
	}
	for err != nil { // until the server ends its side of that connection
		_, err = store.Claim(t.Context(), two.Key())
	}
	if _, err := other.Claim(t.Context(), one.Key()); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("another process got what this one has claimed: %v", err)
	}
	release()
	if _, err := other.Claim(t.Context(), one.Key()); err != nil {
		t.Errorf("what was released cannot be claimed: %v", err)
	}
	if _, err := store.Setting(t.Context(), "swallowed"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("what was swallowed: %v", err)
	}
}

// fill opens as many connections as the pool may have.
func fill(t *testing.T, store storage.Store) {
	t.Helper()
	ended := make(chan error)
	for range hurried.MaxOpen {
		go func() { ended <- store.PutSetting(t.Context(), "filled", []byte("1")) }()
	}
	for range hurried.MaxOpen {
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
}

// testTwoHosts lets one of two hosts in a connection string vanish. Its standby, the other host, takes over with all
// acknowledged changes.
func testTwoHosts(t *testing.T, _ *pgtest.Server) {
	primary := pgtest.Start(t)
	database := primary.Database(t)
	standby := primary.Standby(t)
	first, second := pgtest.NewProxy(t, primary), pgtest.NewProxy(t, standby)
	store := open(t, pgtest.Through(t, database, second, first), hurried) // the standby, which is first, accepts no writes
	if err := store.PutSetting(t.Context(), "before", []byte("1")); err != nil {
		t.Fatal(err)
	}
	first.Swallow()
	primary.Kill(t)
	standby.Promote(t)
	for err := errors.New("not yet"); err != nil; {
		err = store.PutSetting(t.Context(), "after", []byte("1"))
	}
	if got, err := store.Setting(t.Context(), "before"); err != nil || string(got) != "1" {
		t.Errorf("what was acknowledged before is %q, %v", got, err)
	}
}
