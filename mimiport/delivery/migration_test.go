package delivery_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// TestClientAbort: FROZEN ends with "client abort", and while it lasts "other handshakes get M_MIGRATION_IN_PROGRESS;
// application messages still flow" (profile, section 6). After the abort the group is as before, for good.
func TestClientAbort(t *testing.T) {
	p := newPlay(t)
	a := p.mustRequest(serverA, serverB, bob)
	if st, err := p.initiate(a); err != nil || st.State != "frozen" {
		t.Fatalf("the Init gives %+v, %v", st, err)
	}
	p.say(serverA, alice)
	other := p.group.Commit(mlstest.CommitOptions{Sender: 0, Path: true})
	_, err := p.submit(serverA, alice, &api.SubmitRequest{Message: other.Message, GroupInfo: other.GroupInfo})
	expectKind(t, err, mimiport.KindInProgress)
	if asError(err).Info.RetryAfter <= 0 {
		t.Error("no time to try again")
	}
	_, err = p.services[serverA].AbortMigration(t.Context(), caller("@eve:a.example"), a.id)
	if mimiport.KindOf(err) != mimiport.KindForbidden {
		t.Errorf("a stranger's abort gives %v", err)
	}
	if st, err := p.services[serverA].AbortMigration(t.Context(), caller(bob), a.id); err != nil || st.State != "aborted" {
		t.Fatalf("the abort gives %+v, %v", st, err)
	}
	p.run()
	p.expect(a, "aborted", "dropped")
	p.expectHosted(serverA, 0)
	p.expectAbortedForGood(a)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	p.move(serverA, serverB, bob) // the group moves with a new Response
}

// expectNoVote lets a migration of a group in its first term go on. It fails the test unless A gets no vote that counts
// from B until decide_by, and then aborts and keeps the group.
func (p *play) expectNoVote(a *attempt) {
	p.t.Helper()
	p.run()
	p.expect(a, "frozen", "staged")
	p.now = p.now.Add(2 * time.Minute)
	p.run()
	p.expect(a, "aborted", "dropped")
	p.expectHosted(serverA, 0)
}

// expectAbortedForGood checks that a repeated Init gets the outcome, and that the server refuses the dropped Commit on
// every path.
func (p *play) expectAbortedForGood(a *attempt) {
	p.t.Helper()
	if st, err := p.initiate(a); err != nil || st.State != "aborted" || st.Abort == nil {
		p.t.Errorf("the Init again gives %+v, %v", st, err)
	}
	_, err := p.submit(a.from, a.user, &a.init.SubmitRequest)
	expectKind(p.t, err, mimiport.KindInvalid)
}

// TestDecideBy: FROZEN ends with "`decide_by` → ACTIVE, the Commit dropped, a durable abort record, C told" (profile,
// section 6), and a later vote changes nothing.
func TestDecideBy(t *testing.T) {
	p := newPlay(t)
	// B votes, but the vote does not reach A
	p.lost = func(_, what string) bool { return what == "vote" }
	a := p.begin(serverA, serverB, bob)
	p.expectNoVote(a)
	p.expectAbortedForGood(a)
}

// TestLateVote: "S's clock alone decides" (profile, section 6). If the vote and the deadline come together, the order
// of the rows decides nothing.
func TestLateVote(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	p.now = p.now.Add(2 * time.Minute)
	rows, _, err := p.stores[serverA].Due(t.Context(), p.now, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if row.Kind == migration.RowContent {
			if err := p.services[serverA].Do(t.Context(), row); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.run()
	p.expect(a, "aborted", "dropped")
}

// TestTargetRefuses: "The Target Delivery Service MUST ensure that the client is authorized … before issuing a
// MigrationResponse and importing the MLS group state" (draft): T asks its policy "before it votes" (profile, section
// 8), and T's final refusal aborts at once.
func TestTargetRefuses(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	if _, err := p.services[serverB].SetPolicy(t.Context(), json.RawMessage(`{"target":"nobody"}`)); err != nil {
		t.Fatal(err)
	}
	p.run()
	p.expect(a, "aborted", "dropped")
	p.expectHosted(serverA, 0)
}

// TestTargetQuota: T may see only in the content that a quota is exceeded. Then the migration aborts at once, too.
func TestTargetQuota(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	if _, err := p.services[serverB].SetPolicy(t.Context(), json.RawMessage(`{"quotas":{"members":1}}`)); err != nil {
		t.Fatal(err)
	}
	p.run()
	p.expect(a, "aborted", "dropped")
}

// TestSourcePolicyBeforeContent: "The Source Delivery Service MUST NOT allow a client to migrate an MLS group if the
// client is not authorized to do so" (draft): S asks its policy again "just before content leaves" (profile, section
// 8).
func TestSourcePolicyBeforeContent(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	p.Room.Power[bob] = 0
	p.lost = func(_, what string) bool {
		if what == "content" {
			t.Error("content left")
		}
		return false
	}
	p.run()
	p.expect(a, "aborted", "dropped")
}

// TestConfirmationLost: while STAGED, "handshakes [are] refused with a retry time; after `decide_by` it asks S; it
// never infers an abort from silence" (profile, section 6).
func TestConfirmationLost(t *testing.T) {
	p := newPlay(t)
	silent := true
	p.lost = func(to, what string) bool {
		return silent && (what == "confirmation" || what == "status" && to == serverA)
	}
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(a, "decided", "staged")
	_, err := p.submit(serverB, bob, &api.SubmitRequest{Message: a.commit.Next.Application(nil, 10)})
	expectKind(t, err, mimiport.KindInProgress)
	p.now = p.now.Add(24 * time.Hour)
	p.run()
	p.expect(a, "decided", "staged")
	silent = false
	p.now = p.now.Add(time.Hour)
	p.run()
	p.expect(a, "moved", "active")
	p.group = a.commit.Next
	p.expectHosted(serverB, 1)
}

// TestMemberShowsConfirmation: STAGED ends with "MigrationConfirmation, from S or shown by any member → ACTIVE"
// (profile, section 6), even if T cannot reach S.
func TestMemberShowsConfirmation(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "confirmation" }
	a := p.begin(serverA, serverB, bob)
	p.run()
	st, err := p.initiate(a) // the answer to a repeated Init carries the confirmation
	if err != nil || st.State != "decided" || st.Confirmation == nil {
		t.Fatalf("the Init gives %+v, %v", st, err)
	}
	shown := &api.SignedRequest{Message: st.Confirmation.Message, KeyID: st.Confirmation.KeyID}
	if st, err := p.services[serverB].ConfirmMigration(t.Context(), caller(alice), a.id, shown); err != nil ||
		st.State != "active" {
		t.Fatalf("T says %+v, %v", st, err)
	}
	p.group = a.commit.Next
	p.expectHosted(serverB, 1)
	if _, err := p.services[serverB].ConfirmMigration(t.Context(), caller(bob), a.id, shown); err != nil {
		t.Errorf("shown again: %v", err)
	}
}

// TestEachStepRepeats: "Content is stored and resent byte for byte, signature included", and "An Init for an ended id
// gets that outcome, never a second freeze" (profile, section 6): every message of the hand-over may come twice, even
// after the end, and changes nothing the second time.
func TestEachStepRepeats(t *testing.T) {
	p := newPlay(t)
	seen := map[string]int{}
	p.lost = func(_, what string) bool {
		seen[what]++
		return seen[what] == 1 && what != "status" && what != "to-device"
	}
	a := p.begin(serverA, serverB, bob)
	data, err := p.stores[serverA].Content(t.Context(), a.id)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		p.run()
		p.now = p.now.Add(2 * time.Second)
	}
	p.expect(a, "moved", "active")
	vote, err := p.services[serverB].PutContent(t.Context(), serverA,
		&api.ContentUpload{ID: a.id, KeyID: "ed25519:1", Data: data})
	if err != nil || vote == nil {
		t.Errorf("the content again gives %+v, %v", vote, err)
	}
	if st, err := p.initiate(a); err != nil || st.State != "moved" {
		t.Errorf("the Init again gives %+v, %v", st, err)
	}
	p.group = a.commit.Next
	p.expectHosted(serverB, 1)
}

// TestInitTwiceAtOnce: an Init that comes twice at once gets the outcome twice, even if the first one ends while the
// second one asks the target (profile, section 6).
func TestInitTwiceAtOnce(t *testing.T) {
	p := newPlay(t)
	a := p.mustRequest(serverA, serverB, bob)
	asked := 0
	p.meet(serverA, hostile{status: func() (*api.MigrationStatus, error) {
		if asked++; asked == 1 {
			if _, err := p.initiate(a); err != nil {
				t.Fatal(err)
			}
			p.run()
		}
		return p.Network().AskStatus(t.Context(), serverA, serverB, a.id)
	}})
	if st, err := p.initiate(a); err != nil || st.State != "moved" || asked != 2 {
		t.Errorf("the Init gives %+v, %v, after %d questions", st, err, asked)
	}
	p.expect(a, "moved", "active")
}

// TestInitRefusals: "A refused Init uses up neither the Response nor the epoch" (profile, section 5): S refuses a bad
// Init with the right kind and freezes nothing.
func TestInitRefusals(t *testing.T) {
	const mallory = "@mallory:b.example"
	p := newPlay(t)
	p.Room.Joined[mallory], p.Room.Power[mallory] = true, 100
	good := p.mustRequest(serverA, serverB, bob)
	variant := func(edit func(*mlstest.CommitOptions)) *api.MigrationInitRequest {
		a, err := p.request(serverA, serverB, bob, edit)
		if err != nil {
			t.Fatal(err)
		}
		init := *a.init
		init.MigrationInit = good.init.MigrationInit // from the same offer
		return &init
	}
	with := func(edit func(*api.MigrationInitRequest)) *api.MigrationInitRequest {
		init := *good.init
		edit(&init)
		return &init
	}
	response, err := mimiport.UnmarshalMigrationResponse(good.offer.MigrationResponse)
	if err != nil {
		t.Fatal(err)
	}
	forged := *response
	forged.Signature = append([]byte(nil), response.Signature...)
	forged.Signature[0] ^= 1
	elsewhere, err := (&mimiport.MigrationCommitAAD{TargetDomain: "c.example"}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		user string
		init *api.MigrationInitRequest
		want mimiport.Kind
	}{
		"not the sender of the Commit": {mallory, good.init, mimiport.KindForbidden},
		"not in the room":              {"@eve:b.example", good.init, mimiport.KindForbidden},
		"garbage": {bob, with(func(r *api.MigrationInitRequest) { r.MigrationInit = []byte("garbage") }),
			mimiport.KindBadMessage},
		"signed by another leaf": {bob,
			with(func(r *api.MigrationInitRequest) { r.MigrationInit = p.signInit(response, 0) }), mimiport.KindBadSignature},
		"forged response": {bob,
			with(func(r *api.MigrationInitRequest) { r.MigrationInit = p.signInit(&forged, 1) }), mimiport.KindBadSignature},
		"unknown key": {bob, with(func(r *api.MigrationInitRequest) { r.KeyID = "ed25519:2" }),
			mimiport.KindBadSignature},
		"wrong target in the AAD": {bob, variant(func(o *mlstest.CommitOptions) { o.AuthenticatedData = elsewhere }),
			mimiport.KindInvalid},
		"no AAD": {bob, variant(func(o *mlstest.CommitOptions) { o.AuthenticatedData = nil }),
			mimiport.KindInvalid},
		"a longer AAD": {bob, variant(func(o *mlstest.CommitOptions) {
			o.AuthenticatedData = append(o.AuthenticatedData, 0)
		}), mimiport.KindInvalid},
		"a Remove by value": {bob, variant(func(o *mlstest.CommitOptions) {
			o.Proposals = []*mlstest.Proposal{p.group.Remove(0)}
		}), mimiport.KindInvalid},
		"an application message": {bob, with(func(r *api.MigrationInitRequest) { r.Message = p.group.Application(nil, 10) }),
			mimiport.KindInvalid},
		"too large": {bob, with(func(r *api.MigrationInitRequest) { r.Welcome = make([]byte, 2<<20) }),
			mimiport.KindTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := p.services[serverA].InitMigration(t.Context(), caller(c.user), good.id, c.init)
			expectKind(t, err, c.want)
			p.expectHosted(serverA, 0)
		})
	}
	if _, err := p.initiate(good); err != nil {
		t.Fatalf("the good Init after all these: %v", err)
	}
	p.run()
	p.expect(good, "moved", "active")
}

// TestRequestRefusals: "The Target Delivery Service MUST NOT allow a client to import an MLS group if the client is not
// authorized to do so" (draft): T gives no offer to a user whom its policy does not allow, and none for a request that
// is not for a migration to T.
func TestRequestRefusals(t *testing.T) {
	p := newPlay(t)
	_, err := p.request(serverA, serverB, alice, nil)
	expectKind(t, err, mimiport.KindForbidden) // local_users
	request := func(r *mimiport.MigrationRequest) error {
		data, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.services[serverB].RequestMigration(t.Context(), caller(bob),
			&api.MigrationRequestRequest{MigrationRequest: data, RoomID: room})
		return err
	}
	expectKind(t, request(&mimiport.MigrationRequest{SourceDomain: serverB, TargetDomain: serverB, GroupID: p.id}),
		mimiport.KindBadMessage)
	expectKind(t, request(&mimiport.MigrationRequest{SourceDomain: serverA, TargetDomain: "c.example", GroupID: p.id}),
		mimiport.KindInvalid)
	expectKind(t, request(&mimiport.MigrationRequest{SourceDomain: "not a name", TargetDomain: serverB, GroupID: p.id}),
		mimiport.KindBadMessage)
	_, err = p.services[serverB].RequestMigration(t.Context(), caller(bob),
		&api.MigrationRequestRequest{MigrationRequest: []byte("garbage"), RoomID: room})
	expectKind(t, err, mimiport.KindBadMessage)
	p.Room.Denied = []string{serverA}
	_, err = p.request(serverA, serverB, bob, nil)
	expectKind(t, err, mimiport.KindForbidden) // the room's ACL
}

// TestOfferExpires: an expired offer does not count, at S's probe and at T itself.
func TestOfferExpires(t *testing.T) {
	p := newPlay(t)
	a := p.mustRequest(serverA, serverB, bob)
	p.now = p.now.Add(11 * time.Minute)
	p.run()
	_, err := p.initiate(a)
	expectKind(t, err, mimiport.KindOfferExpired)
	p.expectHosted(serverA, 0)
}

// TestOfferIsBound: the nonce is "single use, bound to source, target, group, epoch, user" (profile, section 6).
func TestOfferIsBound(t *testing.T) {
	p := newPlay(t)
	a := p.mustRequest(serverA, serverB, bob)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	_, err := p.initiate(a)
	expectKind(t, err, mimiport.KindWrongEpoch)
	b := p.move(serverA, serverB, bob)
	stolen := *b
	stolen.user = alice
	_, err = p.initiate(&stolen)
	expectKind(t, err, mimiport.KindForbidden)
}

// TestTamperedContent: T votes only for a content that S has signed about the group of the offer; "a second, different
// content for one nonce is refused and kept as evidence" (profile, section 6).
func TestTamperedContent(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	data, err := p.stores[serverA].Content(t.Context(), a.id)
	if err != nil {
		t.Fatal(err)
	}
	put := func(origin string, data []byte) error { return p.putFrom(a, origin, data) }
	expectKind(t, put("c.example", data), mimiport.KindForbidden)
	expectKind(t, put(serverA, data[:len(data)-1]), mimiport.KindBadMessage)
	flipped := append([]byte(nil), data...)
	flipped[len(flipped)/2] ^= 1
	expectKind(t, put(serverA, flipped), mimiport.KindBadSignature)
	expectKind(t, put(serverA, p.resign(data, func(s *mimiport.GroupState) { s.Lineage.CreatingServer = serverB })),
		mimiport.KindBadMessage)
	expectKind(t, put(serverA, p.resign(data, func(s *mimiport.GroupState) { s.Lineage.Preimage.Nonce[0] ^= 1 })),
		mimiport.KindInvalid)
	expectKind(t, put(serverA, p.resign(data, func(s *mimiport.GroupState) { s.Lineage.RoomID = "!other:a.example" })),
		mimiport.KindInvalid)
	expectKind(t, put(serverA, p.resign(data, func(s *mimiport.GroupState) { s.Base.Protocol = "mls11" })),
		mimiport.KindUnsupported)
	expectKind(t, put(serverA, p.resign(data, func(s *mimiport.GroupState) { s.Commit.GroupInfo = s.Base.GroupInfo })),
		mimiport.KindInvalid)
	expectKind(t, put(serverA, p.resign(data, func(s *mimiport.GroupState) {
		s.Log = append(s.Log, mimiport.LogEntry{Seq: 1, Message: s.Base.GroupInfo})
	})), mimiport.KindInvalid)
	p.expect(a, "frozen", "offered")
	if err := put(serverA, data); err != nil {
		t.Fatal(err)
	}
	second := p.resign(data, func(s *mimiport.GroupState) { s.Lineage.RoomID = "!x:y" })
	expectKind(t, put(serverA, second), mimiport.KindConflict)
	kept, err := p.stores[serverB].Evidence(t.Context(), p.id)
	if err != nil || len(kept) != 1 || kept[0].Kind != migration.EvidenceSecondContent ||
		string(kept[0].Data) != string(second) {
		t.Errorf("the evidence is %+v, %v", kept, err)
	}
	p.expect(a, "frozen", "staged")
}

// TestLargeSecondContent: of a second content of more than 64 KiB T keeps only its hash and its signature, 96 bytes. T
// keeps nothing of a third content.
func TestLargeSecondContent(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	data := must(p.stores[serverA].Content(t.Context(), a.id))(t)
	if err := p.put(a, data); err != nil {
		t.Fatal(err)
	}
	large := func(of string) []byte {
		return p.resign(data, func(s *mimiport.GroupState) {
			s.Proposals = append(s.Proposals, bytes.Repeat([]byte(of), 64<<10))
		})
	}
	second := large("2")
	expectKind(t, p.put(a, second), mimiport.KindConflict)
	expectKind(t, p.put(a, large("3")), mimiport.KindConflict)
	kept := must(p.stores[serverB].Evidence(t.Context(), p.id))(t)
	if len(kept) != 1 || len(kept[0].Data) != sha256.Size+ed25519.SignatureSize {
		t.Fatalf("the evidence is %+v", kept)
	}
	content := must(mimiport.UnmarshalMigrationContent(second))(t)
	content.Signature = kept[0].Data[sha256.Size:]
	err := mimiport.Verify(content, p.Key(serverA).Public().(ed25519.PublicKey))
	if sum := sha256.Sum256(second); err != nil || !bytes.Equal(kept[0].Data[:sha256.Size], sum[:]) {
		t.Errorf("the evidence does not fit the content: %v", err)
	}
}

// resign spoils a content's group_state and signs the content as S would.
func (p *play) resign(data []byte, edit func(*mimiport.GroupState)) []byte {
	p.t.Helper()
	return p.resignAs(serverA, data, edit)
}

func (p *play) resignAs(source string, data []byte, edit func(*mimiport.GroupState)) []byte {
	p.t.Helper()
	content, err := mimiport.UnmarshalMigrationContent(data)
	if err != nil {
		p.t.Fatal(err)
	}
	state, err := mimiport.UnmarshalGroupState(content.GroupState)
	if err != nil {
		p.t.Fatal(err)
	}
	edit(state)
	if content.GroupState, err = state.Marshal(); err != nil {
		p.t.Fatal(err)
	}
	if err := mimiport.Sign(content, p.Key(source)); err != nil {
		p.t.Fatal(err)
	}
	out, err := content.Marshal()
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// TestForgedDecisions: T "first look[s] up [its] own row and compare[s] every field before trusting a signature"
// (profile, section 2): a confirmation or an abort counts only if it is for this migration and S has signed it.
func TestForgedDecisions(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "confirmation" }
	a := p.begin(serverA, serverB, bob)
	p.run()
	response, err := mimiport.UnmarshalMigrationResponse(a.offer.MigrationResponse)
	if err != nil {
		t.Fatal(err)
	}
	confirm := func(signer string, edit func(*mimiport.MigrationConfirmation)) error {
		c := &mimiport.MigrationConfirmation{DomainName: serverB, Nonce: response.Nonce, GroupID: p.id}
		edit(c)
		if err := mimiport.Sign(c, p.Key(signer)); err != nil {
			t.Fatal(err)
		}
		data, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.services[serverB].ConfirmMigration(t.Context(), caller(alice), a.id,
			&api.SignedRequest{Message: data, KeyID: "ed25519:1"})
		return err
	}
	expectKind(t, confirm(serverB, func(*mimiport.MigrationConfirmation) {}), mimiport.KindBadSignature)
	expectKind(t, confirm(serverA, func(c *mimiport.MigrationConfirmation) { c.Nonce[0] ^= 1 }), mimiport.KindInvalid)
	expectKind(t, confirm(serverA, func(c *mimiport.MigrationConfirmation) { c.DomainName = serverA }),
		mimiport.KindInvalid)
	expectKind(t, confirm(serverA, func(c *mimiport.MigrationConfirmation) { c.GroupID = []byte("other") }),
		mimiport.KindInvalid)

	abort := func(signer, origin string, m *mimiport.MigrationAbort) error {
		if err := mimiport.Sign(m, p.Key(signer)); err != nil {
			t.Fatal(err)
		}
		data, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return p.services[serverB].AbortFromSource(t.Context(), origin, a.id,
			&api.SignedRequest{Message: data, KeyID: "ed25519:1"})
	}
	real := &mimiport.MigrationAbort{MigrationID: a.id, SourceDomain: serverA}
	expectKind(t, abort(serverB, serverA, real), mimiport.KindBadSignature)
	expectKind(t, abort(serverA, "c.example", real), mimiport.KindForbidden)
	expectKind(t, abort(serverA, serverA, &mimiport.MigrationAbort{SourceDomain: serverA}), mimiport.KindInvalid)
	expectKind(t, abort(serverA, serverA, &mimiport.MigrationAbort{MigrationID: a.id, SourceDomain: "c.example"}),
		mimiport.KindInvalid)
	p.expect(a, "decided", "staged")
}

// TestRacingInits: "S decides by compare-and-set" (profile, section 6). If two members begin at once, one freezes the
// group, and the other must wait.
func TestRacingInits(t *testing.T) {
	p := newPlay(t)
	if _, err := p.services[serverB].SetPolicy(t.Context(),
		json.RawMessage(`{"preset":"draft","creators":["a.example"]}`)); err != nil {
		t.Fatal(err)
	}
	one := p.mustRequest(serverA, serverB, bob)
	two := p.mustRequest(serverA, serverB, alice)
	if _, err := p.initiate(one); err != nil {
		t.Fatal(err)
	}
	_, err := p.initiate(two)
	expectKind(t, err, mimiport.KindInProgress)
	p.run()
	p.expect(one, "moved", "active")
	_, err = p.initiate(two)
	expectKind(t, err, mimiport.KindMoved)
}

// TestKicked: "a removed user is refused at once" (profile, section 6), even if the user's leaf is still in the group.
func TestKicked(t *testing.T) {
	p := newPlay(t)
	a := p.mustRequest(serverA, serverB, bob)
	p.Room.Joined[bob] = false
	_, err := p.submit(serverA, bob, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
	expectKind(t, err, mimiport.KindForbidden)
	_, err = p.initiate(a)
	expectKind(t, err, mimiport.KindForbidden)
	_, err = p.services[serverA].Messages(t.Context(), caller(bob), p.id, api.MessagesQuery{})
	expectKind(t, err, mimiport.KindForbidden)
	p.say(serverA, alice)
	p.run()
	for _, d := range p.Got {
		if d.User == bob {
			t.Error("a message reached a user who has left the room")
		}
	}
}

// TestConcurrentRequests: the server accepts the same Init, or the same Commit, once if it comes many times at once.
func TestConcurrentRequests(t *testing.T) {
	p := newPlay(t)
	a := p.mustRequest(serverA, serverB, bob)
	errs := make(chan error)
	for range 8 {
		go func() {
			_, err := p.services[serverA].InitMigration(context.WithoutCancel(t.Context()), caller(bob), a.id, a.init)
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	p.run()
	p.expect(a, "moved", "active")
	p.group = a.commit.Next
	p.expectHosted(serverB, 1)
}

// TestNothingWaitsForEver: the server holds no memory for a migration after it has answered all waiting requests: while
// the group is frozen, after the move, and after a repeated request.
func TestNothingWaitsForEver(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	requireNobodyWaits(p)
	p.run()
	if _, err := p.initiate(a); err != nil {
		t.Error(err)
	}
	p.group = a.commit.Next
	p.expect(a, "moved", "active")
	requireNobodyWaits(p)
}

func requireNobodyWaits(p *play) {
	p.t.Helper()
	if n := p.services[serverA].Waiting(); n != 0 {
		p.t.Errorf("%d migrations are waited for", n)
	}
}

// TestBothOutcomes: "If S signed both, the confirmation wins and both are kept as evidence" (profile, section 6), as
// long as T keeps the staged group.
func TestBothOutcomes(t *testing.T) {
	for name, c := range map[string]struct {
		after  time.Duration
		want   mimiport.Kind
		target string
	}{
		"within retention": {time.Hour, mimiport.KindInternal, "active"},
		"after retention":  {8 * 24 * time.Hour, mimiport.KindConflict, "dropped"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			a := p.mustRequest(serverA, serverB, bob)
			p.lost = func(_, what string) bool { return what == "vote" }
			if _, err := p.initiate(a); err != nil {
				t.Fatal(err)
			}
			p.run()
			if _, err := p.services[serverA].AbortMigration(t.Context(), caller(bob), a.id); err != nil {
				t.Fatal(err)
			}
			p.run()
			p.expect(a, "aborted", "dropped")
			p.now = p.now.Add(c.after)
			p.run()
			_, err := p.services[serverB].ConfirmMigration(t.Context(), caller(bob), a.id, p.confirmation(a))
			if mimiport.KindOf(err) != c.want {
				t.Errorf("the confirmation gives %v", err)
			}
			p.expect(a, "aborted", c.target)
			kept, err := p.stores[serverB].Evidence(t.Context(), p.id)
			if err != nil || len(kept) != 1 || kept[0].Kind != migration.EvidenceBothOutcomes {
				t.Errorf("the evidence is %+v, %v", kept, err)
			}
			if c.target == "active" { // for good: the purge does not touch the active group
				p.group = a.commit.Next
				p.now = p.now.Add(30 * 24 * time.Hour)
				p.run()
				p.restart(serverB)
				p.expectHosted(serverB, 1)
			}
		})
	}
}

// confirmation returns the decision to move, signed by the source. The source's records need not hold it.
func (p *play) confirmation(a *attempt) *api.SignedRequest {
	p.t.Helper()
	response, err := mimiport.UnmarshalMigrationResponse(a.offer.MigrationResponse)
	if err != nil {
		p.t.Fatal(err)
	}
	c := &mimiport.MigrationConfirmation{DomainName: a.to, Nonce: response.Nonce, GroupID: p.id}
	if err := mimiport.Sign(c, p.Key(a.from)); err != nil {
		p.t.Fatal(err)
	}
	data, err := c.Marshal()
	if err != nil {
		p.t.Fatal(err)
	}
	return &api.SignedRequest{Message: data, KeyID: "ed25519:1"}
}

// TestRetention: MOVED ends with "retention → state purged, redirect kept"; until then "reads of what S accepted … are
// served" (profile, section 6). The group can come back.
func TestRetention(t *testing.T) {
	p := newPlay(t)
	epoch := p.group.Epoch()
	p.move(serverA, serverB, bob)
	if _, err := p.services[serverA].RatchetTree(t.Context(), caller(alice), p.id, epoch); err != nil {
		t.Errorf("the tree before the move: %v", err)
	}
	p.now = p.now.Add(8 * 24 * time.Hour)
	p.run()
	for _, gone := range []uint64{epoch, epoch + 10} {
		_, err := p.services[serverA].RatchetTree(t.Context(), caller(alice), p.id, gone)
		expectKind(t, err, mimiport.KindWrongEpoch)
	}
	log, err := p.services[serverA].Messages(t.Context(), caller(alice), p.id, api.MessagesQuery{})
	if err != nil || len(log.Messages) != 0 || log.Moved == nil {
		t.Errorf("the log is %+v, %v", log, err)
	}
	acts := must(p.services[serverA].AuditLog(t.Context(), storage.AuditID{}, 10))(t)
	if len(acts) != 1 || acts[0].Action != "purge" || acts[0].Actor != serverA || string(acts[0].After) != `{"term":0}` {
		t.Errorf("the audit log of the purge: %+v", acts)
	}
	p.expectMoved(serverA, serverB)
	p.move(serverB, serverA, alice)
	p.expectHosted(serverA, 2)
}
