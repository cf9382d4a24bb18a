package delivery_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// TestSuites: "Primitives follow the ciphersuite" (profile, section 2): a group of each suite moves.
func TestSuites(t *testing.T) {
	for suite := uint16(1); suite <= 7; suite++ {
		t.Run(fmt.Sprint(suite), func(t *testing.T) {
			p := newPlayOf(t, suite)
			a := p.move(serverA, serverB, bob)
			p.expectHosted(serverB, 1)
			st, err := p.services[serverB].Migration(t.Context(), caller(bob), a.id)
			if err != nil {
				t.Fatal(err)
			}
			complete, err := mimiport.UnmarshalTargetMigrationComplete(st.Complete.Message)
			want := map[uint16]int{4: 64, 5: 64, 6: 64, 7: 48}[suite]
			if err != nil || len(complete.ContentHash) != max(want, 32) {
				t.Errorf("migration_content_hash has %d bytes, %v", len(complete.ContentHash), err)
			}
		})
	}
}

// TestDecideByGrows: "`decide_by` … grows with size and suite" (profile, section 6): more time for slower signatures.
func TestDecideByGrows(t *testing.T) {
	wait := func(suite uint16) int64 {
		p := newPlayOf(t, suite)
		a := p.begin(serverA, serverB, bob)
		st, err := p.services[serverA].Migration(t.Context(), caller(bob), a.id)
		if err != nil {
			t.Fatal(err)
		}
		return st.DecideBy - p.now.UnixMilli()
	}
	ed25519, p384, p521 := wait(1), wait(7), wait(5)
	if ed25519 < 60_000 || ed25519 >= p384 || p384 >= p521 {
		t.Errorf("S waits %d ms with Ed25519, %d ms with P-384, %d ms with P-521", ed25519, p384, p521)
	}
}

// TestMissingMemberProposal: "a missing member proposal is never a reason to refuse" (profile, section 5).
func TestMissingMemberProposal(t *testing.T) {
	p := newPlay(t)
	proposal := p.group.Propose(0, p.group.Update(0))
	if _, err := p.submit(serverA, alice, &api.SubmitRequest{Message: proposal}); err != nil {
		t.Fatal(err)
	}
	p.move(serverA, serverB, bob)
	p.expectHosted(serverB, 1)
}

// TestReferencedAdd: "Welcomes for Adds it references travel in the same request" (profile, section 5). S sends the
// Welcome to the joiner, and T serves it to a joiner who asks T.
func TestReferencedAdd(t *testing.T) {
	p := newPlay(t)
	p.Room.Joined[carol] = true
	proposal := p.group.Propose(0, p.group.Add(p.group.NewClient(mlstest.Identity(carol, "CAROL"))))
	if _, err := p.submit(serverA, alice, &api.SubmitRequest{Message: proposal}); err != nil {
		t.Fatal(err)
	}
	a, err := p.request(serverA, serverB, bob, func(o *mlstest.CommitOptions) { o.References = [][]byte{proposal} })
	if err != nil {
		t.Fatal(err)
	}
	without := *a.init
	without.Welcome = nil
	if _, err := p.services[serverA].InitMigration(t.Context(), caller(bob), a.id,
		&without); mimiport.KindOf(err) != mimiport.KindInvalid {
		t.Errorf("without its Welcome: %v", err)
	}
	if _, err := p.initiate(a); err != nil {
		t.Fatal(err)
	}
	p.run()
	p.expect(a, "moved", "active")
	p.group = a.commit.Next
	p.expectHosted(serverB, 1)
	delivered := false
	for _, d := range p.Got {
		delivered = delivered || d.User == carol && d.Kind == "welcome" && string(d.Message) == string(a.commit.Welcome)
	}
	log, err := p.services[serverB].Messages(t.Context(), caller(carol), p.id, api.MessagesQuery{Term: new(uint64)})
	if err != nil {
		t.Fatal(err)
	}
	last := log.Messages[len(log.Messages)-1]
	if !delivered || last.Kind != "welcome" || string(last.Message) != string(a.commit.Welcome) {
		t.Errorf("delivered: %v; the last message at T is a %s", delivered, last.Kind)
	}
}

// TestVoteIsPromise: "A vote is a promise: T activates whatever has changed since" (profile, section 6).
func TestVoteIsPromise(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "confirmation" }
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(a, "decided", "staged")
	if _, err := p.services[serverB].SetPolicy(t.Context(),
		json.RawMessage(`{"target":"nobody","deny_servers":["a.example"],"quotas":{"members":1}}`)); err != nil {
		t.Fatal(err)
	}
	p.Room.Joined[bob], p.Room.Denied = false, []string{serverA}
	p.lost = func(string, string) bool { return false }
	p.now = p.now.Add(time.Hour)
	p.run()
	p.expect(a, "moved", "active")
}

// TestExternalJoin: a member that has lost its state enters by external Commit, which "checks the joiner's own
// membership" (profile, section 7), and can do everything that a member can do afterwards.
func TestExternalJoin(t *testing.T) {
	p := newPlay(t)
	join := func(user string) error {
		c := p.group.Commit(mlstest.CommitOptions{Joiner: p.group.NewClient(mlstest.Identity(user, "NEW"))})
		_, err := p.submit(serverA, user, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo})
		if err == nil {
			p.group = c.Next
		}
		return err
	}
	expectKind(t, join(carol), mimiport.KindForbidden)
	p.Room.Joined[carol] = true
	if err := join(carol); err != nil {
		t.Fatal(err)
	}
	p.say(serverA, carol)
	p.expectHosted(serverA, 0)
	stolen := p.group.Commit(mlstest.CommitOptions{Joiner: p.group.NewClient(mlstest.Identity(alice, "NEW"))})
	_, err := p.submit(serverA, bob, &api.SubmitRequest{Message: stolen.Message, GroupInfo: stolen.GroupInfo})
	expectKind(t, err, mimiport.KindForbidden)
}

// TestForeignID: "Foreign ids … enter by migration only, per policy (default: of local users' groups and allow-listed
// servers)" (profile, section 3).
func TestForeignID(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	data, err := p.stores[serverA].Content(t.Context(), a.id)
	if err != nil {
		t.Fatal(err)
	}
	foreign := p.resign(data, func(s *mimiport.GroupState) { s.Lineage.Preimage = nil })
	put := func() error {
		_, err := p.services[serverB].PutContent(t.Context(), serverA,
			&api.ContentUpload{ID: a.id, KeyID: "ed25519:1", Data: foreign, DecideBy: p.now})
		return err
	}
	p.nameInRoom(p.id)
	p.Room.Strangers = []string{bob} // bob has no account here, like a remote user
	if _, err := p.services[serverB].SetPolicy(t.Context(), json.RawMessage(`{"target":"joined_servers"}`)); err != nil {
		t.Fatal(err)
	}
	expectKind(t, put(), mimiport.KindForbidden)
	p.Room.Strangers = nil
	if err := put(); err != nil {
		t.Errorf("a local user's group: %v", err)
	}
}

// TestUnknownSection: T skips an unknown section that is optional, and refuses one that is critical. An unknown section
// is "never passed on".
func TestUnknownSection(t *testing.T) {
	for name, c := range map[string]struct {
		typ  uint16
		want mimiport.Kind
	}{"optional": {0x7f00, mimiport.KindInternal}, "critical": {0xff00, mimiport.KindUnsupported}} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			a := p.begin(serverA, serverB, bob)
			data, err := p.stores[serverA].Content(t.Context(), a.id)
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.services[serverB].PutContent(t.Context(), serverA, &api.ContentUpload{
				ID: a.id, KeyID: "ed25519:1", DecideBy: p.now, Data: p.resign(data, func(s *mimiport.GroupState) {
					s.Unknown = append(s.Unknown, mimiport.Section{Type: mimiport.SectionType(c.typ), Data: section()})
				}),
			})
			if mimiport.KindOf(err) != c.want {
				t.Fatalf("got %v, want kind %d", err, c.want)
			}
			if c.want != mimiport.KindInternal {
				return
			}
			if _, err := p.services[serverB].ConfirmMigration(t.Context(), caller(bob), a.id, p.confirmation(a)); err != nil {
				t.Fatal(err)
			}
			p.group = a.commit.Next
			b := p.begin(serverB, serverA, alice)
			onward, err := p.stores[serverB].Content(t.Context(), b.id)
			if err != nil {
				t.Fatal(err)
			}
			content, err := mimiport.UnmarshalMigrationContent(onward)
			if err != nil {
				t.Fatal(err)
			}
			state, err := mimiport.UnmarshalGroupState(content.GroupState)
			if err != nil || len(state.Unknown) != 0 {
				t.Errorf("passed on: %+v, %v", state.Unknown, err)
			}
		})
	}
}

// section is the contents of a section of an unknown type.
func section() []byte {
	var b cryptobyte.Builder
	wire.AddOpaque(&b, []byte("from the future"))
	return b.BytesOrPanic()
}

// TestLimitsAskedFirst: "Size and suite are checked before anything freezes" (profile, section 6), also against the
// limits of the target.
func TestLimitsAskedFirst(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*delivery.Deps)
		want mimiport.Kind
	}{
		"size":     {func(d *delivery.Deps) { d.Limits.GroupStateBytes = 1000 }, mimiport.KindTooLarge},
		"protocol": {func(d *delivery.Deps) { d.Engines = nil }, mimiport.KindUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			deps := p.services[serverB].Deps
			c.edit(&deps)
			p.services[serverB] = delivery.New(deps)
			_, err := p.initiate(p.mustRequest(serverA, serverB, bob))
			expectKind(t, err, c.want)
			p.expectHosted(serverA, 0)
		})
	}
}

// TestAnotherLineage: "Another lineage for a known id is refused" (profile, section 3): one of its steps differs from
// the step that this server knows.
func TestAnotherLineage(t *testing.T) {
	p := newPlay(t)
	p.addServer("c.example")
	p.move(serverA, serverB, bob)
	a := p.begin(serverB, serverA, alice)
	data, err := p.stores[serverB].Content(t.Context(), a.id)
	if err != nil {
		t.Fatal(err)
	}
	other := p.resignAs(serverB, data, func(s *mimiport.GroupState) {
		step := &s.Lineage.Steps[0]
		response, err := mimiport.UnmarshalMigrationResponse(step.Response.Message)
		if err != nil {
			t.Fatal(err)
		}
		response.Nonce[0] ^= 1 // A has never had this offer
		confirmation := &mimiport.MigrationConfirmation{DomainName: serverB, Nonce: response.Nonce, GroupID: p.id}
		for m, signer := range map[interface {
			mimiport.Signed
			Marshal() ([]byte, error)
		}]string{response: serverB, confirmation: serverA} {
			if err := mimiport.Sign(m, p.Key(signer)); err != nil {
				t.Fatal(err)
			}
		}
		if step.Response.Message, err = response.Marshal(); err != nil {
			t.Fatal(err)
		}
		if step.Confirmation.Message, err = confirmation.Marshal(); err != nil {
			t.Fatal(err)
		}
	})
	_, err = p.services[serverA].PutContent(t.Context(), serverB,
		&api.ContentUpload{ID: a.id, KeyID: "ed25519:1", Data: other, DecideBy: p.now})
	expectRule(t, err, "lineage")
}

// TestOperatorDrop: "the operator can list and drop rows, with a warning" (profile, section 6); T keeps the staged
// group for a confirmation.
func TestOperatorDrop(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "confirmation" }
	a := p.begin(serverA, serverB, bob)
	p.run()
	if st, err := p.services[serverB].DropStaged(t.Context(), a.id); err != nil || st.State != "dropped" {
		t.Fatalf("the drop gives %+v, %v", st, err)
	}
	_, err := p.services[serverA].DropStaged(t.Context(), a.id)
	expectKind(t, err, mimiport.KindInvalid) // A is the source
	p.lost = func(string, string) bool { return false }
	p.now = p.now.Add(time.Hour)
	p.run()
	p.expect(a, "moved", "active")
}

// TestSignedAgain: "S signs again with its current key when it repeats a decision", and T accepts "any key of S that
// was current at any time since T made the offer" (profile, section 2).
func TestSignedAgain(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "confirmation" }
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(a, "decided", "staged")
	p.Rotate(serverA)
	p.lost = func(_, what string) bool { return what == "status" } // T cannot ask S: S must tell T
	p.now = p.now.Add(time.Hour)
	p.run()
	p.expect(a, "moved", "active")
}

// TestRotatedKeys: "for a row T has STAGED, confirmation and abort are accepted under any key of S that was current at
// any time since T made the offer" (profile, section 2), and under no other.
func TestRotatedKeys(t *testing.T) {
	p := newPlay(t)
	first := p.Key(serverA)
	p.Rotate(serverA)
	second := p.Key(serverA)
	p.now = p.now.Add(time.Second)
	p.lost = func(_, what string) bool { return what == "vote" || what == "confirmation" || what == "abort" }
	aborted := p.begin(serverA, serverB, bob)
	p.run()
	must(p.services[serverA].AbortMigration(t.Context(), caller(bob), aborted.id))(t)
	abort := must(p.stores[serverA].Migration(t.Context(), aborted.id))(t).Abort
	p.Rotate(serverA)
	drop := func(keyID string, message []byte) error {
		return p.services[serverB].AbortFromSource(t.Context(), serverA, aborted.id,
			&api.SignedRequest{Message: message, KeyID: keyID})
	}
	early := &mimiport.MigrationAbort{MigrationID: aborted.id, SourceDomain: serverA}
	if err := mimiport.Sign(early, first); err != nil {
		t.Fatal(err)
	}
	expectKind(t, drop("ed25519:1", must(early.Marshal())(t)), mimiport.KindBadSignature)
	if err := drop(abort.KeyID, abort.Message); err != nil {
		t.Error(err)
	}
	p.expect(aborted, "aborted", "dropped")

	p.now = p.now.Add(time.Second)
	p.lost = func(_, what string) bool { return what == "confirmation" }
	a := p.begin(serverA, serverB, bob)
	p.run()
	decision := must(p.stores[serverA].Migration(t.Context(), a.id))(t).Confirmation
	p.Rotate(serverA)
	p.now = p.now.Add(time.Second)
	show := func(keyID string, message []byte) error {
		_, err := p.services[serverB].ConfirmMigration(t.Context(), caller(alice), a.id,
			&api.SignedRequest{Message: message, KeyID: keyID})
		return err
	}
	old := must(mimiport.UnmarshalMigrationConfirmation(decision.Message))(t)
	if err := mimiport.Sign(old, second); err != nil {
		t.Fatal(err)
	}
	expectKind(t, show("ed25519:2", must(old.Marshal())(t)), mimiport.KindBadSignature) // rotated away before this offer
	if err := show(decision.KeyID, decision.Message); err != nil {
		t.Error(err)
	}
	p.expect(a, "decided", "active")
}

// TestDraftTarget: "A target that speaks only the draft (activates on import) is safe while S and members keep these
// rules; after an abort it keeps a dead copy" (profile, section 6).
func TestDraftTarget(t *testing.T) {
	t.Run("moves", func(t *testing.T) {
		p := newPlay(t)
		p.Draft = serverB
		p.move(serverA, serverB, bob)
		p.expectHosted(serverB, 1)
		p.expectMoved(serverA, serverB)
	})
	t.Run("dead copy", func(t *testing.T) {
		p := newPlay(t)
		p.Draft = serverB
		p.lost = func(_, what string) bool { return what == "vote" }
		a := p.begin(serverA, serverB, bob)
		p.run()
		p.now = p.now.Add(2 * time.Minute)
		p.run()
		p.expect(a, "aborted", "active")
		if rows, _, err := p.stores[serverA].Due(t.Context(), p.now.Add(time.Hour), 10); err != nil || len(rows) != 0 {
			t.Errorf("A goes on with %+v, %v", rows, err) // a target with only the draft has no route for the abort
		}
		p.commit(serverA, alice, mlstest.CommitOptions{}) // the group goes on at A
		p.expectHosted(serverA, 0)
		p.lost = func(string, string) bool { return false }
		p.now = p.now.Add(time.Hour)
		b := p.begin(serverA, serverB, bob) // the dead copy stops the move, but the group does not stay frozen
		p.run()
		p.now = p.now.Add(2 * time.Minute)
		p.run()
		if st, err := p.services[serverA].Migration(t.Context(), caller(bob), b.id); err != nil || st.State != "aborted" {
			t.Errorf("the second migration is %+v, %v", st, err)
		}
		p.expectHosted(serverA, 0)
	})
}
