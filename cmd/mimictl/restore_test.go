package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
)

// restoring is two servers, of which A is restored from a backup, and one group with its members.
type restoring struct {
	*play
	both  members
	group *deliverytest.Group
	file  string // the database of A
}

func newRestoring(t *testing.T, host string) *restoring {
	file := filepath.Join(t.TempDir(), "mimi.db")
	stores := map[string]storage.Store{serverA: database(t, file), serverB: memory.New()}
	r := &restoring{play: &play{World: deliverytest.New(1, stores), t: t}, file: file}
	for _, name := range []string{serverA, serverB} {
		_, err := r.Service(name).SetPolicy(t.Context(), []byte(`{"recover": true, "accept_claims": true}`))
		r.check(err)
	}
	r.make(host)
	return r
}

// make makes a group at a server, in which both members talk.
func (r *restoring) make(host string) {
	r.t.Helper()
	users := map[string]string{serverA: alice, serverB: bob}
	other := serverA
	if host == serverA {
		other = serverB
	}
	group, m, err := deliverytest.NewGroup(r.t.Context(), r.World, host, users[host], users[other])
	r.check(err)
	r.group, r.both = group, members{host: m[0], other: m[1]}
	r.talk(r.both)
	r.follow()
}

// database opens a database, and closes it when the test ends.
func database(t *testing.T, file string) storage.Store {
	t.Helper()
	store, err := sqlite.Open(t.Context(), "file:"+file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// tool runs mimictl, which must succeed.
func (r *restoring) tool(args ...string) {
	r.t.Helper()
	var out bytes.Buffer
	if status := run(args, stdio{nil, &out, &out, r.Now(serverA)}); status != 0 {
		r.t.Fatalf("mimictl %s: status %d\n%s", strings.Join(args, " "), status, &out)
	}
}

// restore makes A lose everything since a backup.
func (r *restoring) restore(backup string) {
	r.t.Helper()
	file := filepath.Join(r.t.TempDir(), "restored.db")
	r.tool("db", "copy", "-from", "file:"+filepath.Join(backup, backupDatabase), "-to", "file:"+file)
	store := database(r.t, file)
	r.RestartWith(serverA, func(d *delivery.Deps) { d.Store = store })
	r.check(r.Service(serverA).Started(r.t.Context()))
}

// held is what a member who has followed the group at a server can give to an operator.
func (r *restoring) held(host string) *api.RecoverRequest {
	r.t.Helper()
	svc, c, ctx := r.Service(host), deliverytest.Caller(alice), r.t.Context()
	g, err := svc.Group(ctx, c, r.group.ID)
	r.check(err)
	tree, err := svc.RatchetTree(ctx, c, r.group.ID, g.Epoch)
	r.check(err)
	return &api.RecoverRequest{
		BindGroupRequest: api.BindGroupRequest{Protocol: g.Protocol, GroupInfo: g.GroupInfo, RatchetTree: tree},
		Lineage:          r.lineage(host).Lineage,
	}
}

func (r *restoring) lineage(host string) *api.LineageRequest {
	r.t.Helper()
	h, err := r.Service(host).Host(r.t.Context(), deliverytest.Caller(alice), r.group.ID)
	r.check(err)
	return &api.LineageRequest{Lineage: h.Lineage}
}

// receipt is A's receipt for the last Commit, as a member keeps it.
func (r *restoring) receipt() *api.LineageRequest {
	r.t.Helper()
	log, err := r.Service(serverA).Messages(r.t.Context(), deliverytest.Caller(alice), r.group.ID, api.MessagesQuery{})
	r.check(err)
	found := new(api.LineageRequest)
	for _, m := range log.Messages {
		if m.Receipt != nil {
			found.Receipt = m.Receipt
		}
	}
	return found
}

// show shows A something as a member.
func (r *restoring) show(shown *api.LineageRequest) error {
	_, err := r.Service(serverA).ShowLineage(r.t.Context(), deliverytest.Caller(alice), r.group.ID, shown)
	return err
}

// commit lets alice commit where she believes the group to be.
func (r *restoring) commit() error {
	alice := r.both[serverA]
	return alice.Submit(r.t.Context(), alice.NewCommit())
}

// requireGoesOn checks that the group is at a server in a term, and takes Commits there.
func (r *restoring) requireGoesOn(host string, term uint64) {
	r.t.Helper()
	r.check(r.Run(r.t.Context()))
	at, err := r.Service(serverA).Host(r.t.Context(), deliverytest.Caller(alice), r.group.ID)
	if err != nil || at.DeliveryService != host || at.Term != term {
		r.t.Fatalf("A says that the group is at %+v, %v; want %s in term %d", at, err, host, term)
	}
	m := r.both[serverA]
	m.DS, m.Term = host, term
	r.check(r.commit())
}

// requireKind checks the kind of an error.
func (r *restoring) requireKind(err error, want mimiport.Kind) {
	r.t.Helper()
	if err == nil || mimiport.KindOf(err) != want {
		r.t.Fatalf("got %v, want kind %d", err, want)
	}
}

// later lets rows that have failed be tried again.
func (r *restoring) later() {
	r.t.Helper()
	r.Pass(time.Second)
	r.check(r.Run(r.t.Context()))
}

// follow lets both members follow the group.
func (r *restoring) follow() {
	r.t.Helper()
	for _, m := range r.both {
		r.check(m.Sync(r.t.Context()))
	}
}

// recoverHere recovers the group at A from what a member holds.
func (r *restoring) recoverHere(held *api.RecoverRequest) {
	r.t.Helper()
	r.check(r.Service(serverA).RequireHostLost(r.t.Context(), r.group.ID, held.Lineage, api.Lost{}))
	_, err := r.Service(serverA).Recover(r.t.Context(), r.group.ID, held)
	r.check(err)
}

// restores are the cases of docs/backup.md, by the words in its table. since happens after the backup of A. Its result
// checks what happens after the restore.
var restores = []struct {
	name   string
	host   string
	before func(r *restoring)
	since  func(r *restoring) (then func())
}{
	{"nothing", serverA, nil, func(r *restoring) func() {
		return func() { r.requireGoesOn(serverA, 0) }
	}},
	{"only messages", serverA, nil, func(r *restoring) func() {
		message := r.both[serverB].NewMessage()
		r.check(r.both[serverB].Send(r.t.Context(), message))
		return func() { r.requireGoesOn(serverA, 0) }
	}},
	{"Commits", serverA, nil, func(r *restoring) func() {
		r.check(r.commit())
		r.follow()
		receipt, held := r.receipt(), r.held(serverA)
		return func() {
			r.check(r.show(receipt))
			r.requireKind(r.commit(), mimiport.KindStopped)
			r.recoverHere(held)
			r.requireGoesOn(serverA, 1)
		}
	}},
	{"Commits, and no member can be asked", serverA, nil, func(r *restoring) func() {
		before := *r.both[serverA]
		r.check(r.commit())
		r.follow()
		receipt := r.receipt()
		return func() {
			r.check(r.show(receipt))
			_, err := r.Service(serverA).Reclaim(r.t.Context(), r.group.ID, &api.LineageRequest{})
			r.check(err)
			r.both[serverA] = &before // a member who has not seen the lost Commit
			r.requireGoesOn(serverA, 1)
		}
	}},
	{"the group was made", serverA, nil, func(r *restoring) func() {
		r.make(serverA)
		held := r.held(serverA)
		return func() {
			r.requireKind(r.commit(), mimiport.KindUnknownGroup)
			r.recoverHere(held)
			r.requireGoesOn(serverA, 1)
		}
	}},
	{"the group has moved away", serverA, nil, func(r *restoring) func() {
		r.move(r.both, serverB, nil)
		r.follow()
		return func() {
			r.check(r.show(r.lineage(serverB)))
			r.requireGoesOn(serverB, 1)
		}
	}},
	{"the group has come here", serverB, nil, func(r *restoring) func() {
		r.move(r.both, serverA, nil)
		r.follow()
		held := r.held(serverA)
		return func() {
			r.requireKind(r.commit(), mimiport.KindUnknownGroup)
			r.recoverHere(held)
			r.requireGoesOn(serverA, 2)
		}
	}},
	{"the group has come here, and its former host takes it back", serverB, nil, func(r *restoring) func() {
		r.move(r.both, serverA, nil)
		r.follow()
		return func() {
			b := r.Service(serverB)
			r.check(b.RequireTargetLost(r.t.Context(), r.group.ID, api.Lost{Said: true})) // A does not know the migration
			_, err := b.Reclaim(r.t.Context(), r.group.ID, &api.LineageRequest{})
			r.check(err)
			m := r.both[serverA]
			m.DS, m.Term = serverB, 2
			r.check(r.commit())
		}
	}},
	{"a move was under way, and was decided", serverA, func(r *restoring) {
		r.move(r.both, serverB, toB)
	}, func(r *restoring) func() {
		r.later()
		r.follow()
		return func() {
			r.check(r.show(r.lineage(serverB)))
			r.requireGoesOn(serverB, 1)
		}
	}},
	{"a move was under way, and was given up", serverA, func(r *restoring) {
		r.move(r.both, serverB, toB)
	}, func(r *restoring) func() {
		r.Lose = toB
		r.Pass(2 * time.Minute)
		r.check(r.Run(r.t.Context()))
		r.Lose = nil
		return func() { r.requireGoesOn(serverA, 0) }
	}},
	{"a move to here was staged, and was decided", serverB, func(r *restoring) {
		r.move(r.both, serverA, func(m deliverytest.Message) bool { return m.From == serverA && m.What == "vote" })
	}, func(r *restoring) func() {
		r.later()
		r.follow()
		return func() {
			r.Pass(10 * time.Minute)
			r.check(r.Run(r.t.Context())) // A asks the source
			r.requireGoesOn(serverA, 1)
		}
	}},
	{"the policy was changed", serverA, nil, func(r *restoring) func() {
		_, err := r.Service(serverA).SetPolicy(r.t.Context(), []byte(`{"source": "nobody"}`))
		r.check(err)
		return func() {
			p, err := r.Service(serverA).Policy(r.t.Context())
			r.check(err)
			if p.Source == "nobody" {
				r.t.Error("the policy is still there")
			}
			r.requireGoesOn(serverA, 0)
		}
	}},
}

func TestRestores(t *testing.T) {
	doc, err := os.ReadFile("../../docs/backup.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range restores {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(string(doc), "| "+c.name+" |") {
				t.Error("docs/backup.md does not have this case")
			}
			r := newRestoring(t, c.host)
			if c.before != nil {
				c.before(r)
			}
			backup := filepath.Join(t.TempDir(), "backup")
			r.tool("backup", "create", "-db", "file:"+r.file, backup)
			r.tool("backup", "verify", backup)
			then := c.since(r)
			r.restore(backup)
			then()
		})
	}
}
