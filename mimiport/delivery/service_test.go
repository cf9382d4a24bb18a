package delivery_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

func asError(err error) *mimiport.Error {
	e := new(mimiport.Error)
	errors.As(err, &e)
	return e
}

func expectKind(t *testing.T, err error, want mimiport.Kind) {
	t.Helper()
	if mimiport.KindOf(err) != want || err == nil {
		t.Errorf("got %v (kind %d), want kind %d", err, mimiport.KindOf(err), want)
	}
}

// TestMoveThereAndBack is the whole life of a group: it moves from A to B and back to A, with messages and Commits at
// each place. "Clients can now send messages to the group using the Target Delivery Service" (draft); "Moving back to a
// former host works, at once" (profile, section 3).
func TestMoveThereAndBack(t *testing.T) {
	p := newPlay(t)
	p.commit(serverA, bob, mlstest.CommitOptions{})
	p.say(serverA, alice)
	p.expectHosted(serverA, 0)

	p.move(serverA, serverB, bob)
	p.expectHosted(serverB, 1)
	p.expectMoved(serverA, serverB)
	p.say(serverB, alice)
	p.commit(serverB, alice, mlstest.CommitOptions{})
	p.expectHosted(serverB, 1)

	p.move(serverB, serverA, alice)
	p.expectHosted(serverA, 2)
	p.expectMoved(serverB, serverA)
	p.commit(serverA, bob, mlstest.CommitOptions{})

	p.move(serverA, serverB, bob)
	p.expectHosted(serverB, 3)
	host, err := p.services[serverB].Host(t.Context(), caller(alice), p.id)
	if err != nil {
		t.Fatal(err)
	}
	lineage, err := mimiport.UnmarshalLineage(host.Lineage)
	if err != nil || lineage.Term() != 3 || lineage.CreatingServer != serverA {
		t.Errorf("the lineage is %+v: %v", lineage, err)
	}
}

// TestFanOut: each accepted message reaches each device of the epoch once, in the order of the log. The messages that a
// device gets are those of the log.
func TestFanOut(t *testing.T) {
	p := newPlay(t)
	p.say(serverA, alice)
	p.commit(serverA, bob, mlstest.CommitOptions{})
	p.say(serverA, bob)
	p.run()
	p.move(serverA, serverB, bob)

	log, err := p.services[serverA].Messages(t.Context(), caller(bob), p.id, api.MessagesQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if len(log.Messages) != 4 || !log.End || log.Moved == nil || log.Moved.DeliveryService != serverB {
		t.Fatalf("the log of term 0 is %+v", log)
	}
	if m := log.Messages[3].Migration; m == nil || len(m.MigrationConfirmation) == 0 {
		t.Error("the migration Commit comes without its evidence")
	}
	for _, user := range []string{alice, bob} {
		var seqs []uint64
		for _, d := range p.Got {
			if d.User == user && d.Term == 0 {
				seqs = append(seqs, d.Seq)
				if string(d.Message) != string(log.Messages[d.Seq-1].Message) {
					t.Errorf("%s was sent another message %d than the log has", user, d.Seq)
				}
			}
		}
		if len(seqs) != 4 || seqs[0] != 1 || seqs[1] != 2 || seqs[2] != 3 || seqs[3] != 4 {
			t.Errorf("%s was sent %v", user, seqs)
		}
	}
}

// TestWelcome: a Welcome reaches the joiner's device. The log shows it to nobody else.
func TestWelcome(t *testing.T) {
	const carol = "@carol:b.example"
	p := newPlay(t)
	add := func() *mlstest.Commit {
		return p.group.Commit(mlstest.CommitOptions{
			Sender: 0, Path: true,
			Proposals: []*mlstest.Proposal{p.group.Add(p.group.NewClient(mlstest.Identity(carol, "CAROL")))},
		})
	}
	c := add()
	req := &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo, Welcome: c.Welcome}
	_, err := p.submit(serverA, alice, req)
	expectKind(t, err, mimiport.KindForbidden) // carol is not in the room
	p.Room.Joined[carol] = true
	if _, err := p.submit(serverA, alice, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}); err == nil {
		t.Error("a Commit that adds was accepted without a Welcome")
	}
	if _, err := p.submit(serverA, alice, req); err != nil {
		t.Fatal(err)
	}
	p.run()
	got := 0
	for _, d := range p.Got {
		if d.Kind == "welcome" {
			got++
			if d.User != carol || d.Device != "CAROL" || string(d.Message) != string(c.Welcome) {
				t.Errorf("a Welcome went to %s %s", d.User, d.Device)
			}
		}
	}
	if got != 1 {
		t.Errorf("%d Welcomes were delivered", got)
	}
	for user, want := range map[string]int{alice: 1, carol: 2} {
		log, err := p.services[serverA].Messages(t.Context(), caller(user), p.id, api.MessagesQuery{})
		if err != nil {
			t.Fatal(err)
		}
		if len(log.Messages) != want {
			t.Errorf("%s is shown %d messages, want %d", user, len(log.Messages), want)
		}
	}
}

// TestRepeatedSubmit: a repeated message gets the first answer, and the server writes nothing.
func TestRepeatedSubmit(t *testing.T) {
	p := newPlay(t)
	c := p.group.Commit(mlstest.CommitOptions{Sender: 0, Path: true})
	req := &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}
	first, err := p.submit(serverA, alice, req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := p.submit(serverA, alice, req)
	if diff := cmp.Diff(first, again); err != nil || diff != "" {
		t.Errorf("the second answer is another (%v, -first +again):\n%s", err, diff)
	}
	_, err = p.submit(serverA, bob, req)
	expectKind(t, err, mimiport.KindConflict)
	p.group = c.Next
	p.expectHosted(serverA, 0)
}

// TestLostRace: the server accepts one of two Commits of one epoch. The refusal of the other names the epoch.
func TestLostRace(t *testing.T) {
	p := newPlay(t)
	one := p.group.Commit(mlstest.CommitOptions{Sender: 0, Path: true})
	two := p.group.Commit(mlstest.CommitOptions{Sender: 1, Path: true})
	if _, err := p.submit(serverA, alice, &api.SubmitRequest{Message: one.Message, GroupInfo: one.GroupInfo}); err != nil {
		t.Fatal(err)
	}
	_, err := p.submit(serverA, bob, &api.SubmitRequest{Message: two.Message, GroupInfo: two.GroupInfo})
	expectKind(t, err, mimiport.KindWrongEpoch)
	if e := asError(err).Info.Epoch; e == nil || *e != one.Next.Epoch() {
		t.Errorf("the loser is told epoch %v", e)
	}
}

// TestSubmitRefusals: the server refuses each bad message with the right kind, and the group does not change.
func TestSubmitRefusals(t *testing.T) {
	const mallory = "@mallory:b.example"
	p := newPlay(t)
	p.Room.Joined[mallory] = true
	good := p.group.Commit(mlstest.CommitOptions{Sender: 0, Path: true})
	adding := p.group.Commit(mlstest.CommitOptions{
		Sender: 0, Path: true, Proposals: []*mlstest.Proposal{p.group.Add(p.group.NewClient(mlstest.Identity(bob, "OTHER")))},
	})
	aad, _ := (&mimiport.MigrationCommitAAD{TargetDomain: serverB}).Marshal()
	announced := p.group.Commit(mlstest.CommitOptions{Sender: 0, Path: true, AuthenticatedData: aad})
	tampered := append([]byte(nil), good.Message...)
	tampered[len(tampered)/2] ^= 1
	commit := func(c *mlstest.Commit) *api.SubmitRequest {
		return &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}
	}
	for name, c := range map[string]struct {
		user string
		req  *api.SubmitRequest
		want mimiport.Kind
	}{
		"not in the room": {"@eve:a.example", commit(good), mimiport.KindForbidden},
		"not in the group": {mallory, &api.SubmitRequest{Message: p.group.Application(nil, 10)},
			mimiport.KindForbidden},
		"another user's leaf": {bob, commit(good), mimiport.KindForbidden},
		// no version 1
		"garbage":      {alice, &api.SubmitRequest{Message: []byte("garbage")}, mimiport.KindUnsupported},
		"truncated":    {alice, &api.SubmitRequest{Message: good.Message[:50]}, mimiport.KindBadMessage},
		"empty":        {alice, &api.SubmitRequest{}, mimiport.KindBadMessage},
		"too large":    {alice, &api.SubmitRequest{Message: make([]byte, 2<<20)}, mimiport.KindTooLarge},
		"no GroupInfo": {alice, &api.SubmitRequest{Message: good.Message}, mimiport.KindBadMessage},
		"GroupInfo of another commit": {alice, &api.SubmitRequest{Message: good.Message, GroupInfo: announced.GroupInfo},
			mimiport.KindInvalid},
		"tampered": {alice, &api.SubmitRequest{Message: tampered, GroupInfo: good.GroupInfo},
			mimiport.KindBadSignature},
		"Welcome without an add": {alice,
			&api.SubmitRequest{Message: good.Message, GroupInfo: good.GroupInfo, Welcome: adding.Welcome}, mimiport.KindInvalid},
		"garbage as a Welcome": {alice,
			&api.SubmitRequest{Message: adding.Message, GroupInfo: adding.GroupInfo, Welcome: []byte{1}},
			mimiport.KindBadMessage},
		"announces a migration":    {alice, commit(announced), mimiport.KindInvalid},
		"a GroupInfo as a message": {alice, &api.SubmitRequest{Message: good.GroupInfo}, mimiport.KindInvalid},
		"future epoch": {alice, &api.SubmitRequest{Message: good.Next.Application(nil, 10)},
			mimiport.KindWrongEpoch},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := p.submit(serverA, c.user, c.req)
			expectKind(t, err, c.want)
			p.expectHosted(serverA, 0)
		})
	}
	if _, err := p.services[serverA].Submit(t.Context(), caller(alice), []byte("nowhere"),
		commit(good)); mimiport.KindOf(err) != mimiport.KindUnknownGroup {
		t.Errorf("an unknown group gives %v", err)
	}
}

// TestRestart: a service that starts on the same store knows the same group.
func TestRestart(t *testing.T) {
	p := newPlay(t)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	proposal := p.group.Propose(1, p.group.Update(1))
	if _, err := p.submit(serverA, bob, &api.SubmitRequest{Message: proposal}); err != nil {
		t.Fatal(err)
	}
	p.services[serverA] = delivery.New(p.services[serverA].Deps)
	p.expectHosted(serverA, 0)
	p.commit(serverA, alice, mlstest.CommitOptions{References: [][]byte{proposal}})
	p.expectHosted(serverA, 0)
}

// TestReservedIDs: the server hands out an id to a member of the room with the right to create groups. Only that user
// can bind the id, and only once.
func TestReservedIDs(t *testing.T) {
	p := newPlay(t)
	svc := p.services[serverA]
	_, err := svc.ReserveGroup(t.Context(), caller("@eve:a.example"), &api.ReserveGroupRequest{RoomID: room})
	expectKind(t, err, mimiport.KindForbidden)
	_, err = svc.ReserveGroup(t.Context(), caller(bob), &api.ReserveGroupRequest{RoomID: room})
	expectKind(t, err, mimiport.KindForbidden) // bob is no local user of A

	bind := &api.BindGroupRequest{Protocol: "mls10", GroupInfo: p.group.GroupInfo(), RatchetTree: p.group.RatchetTree()}
	if err := svc.RequireReserver(t.Context(), caller(alice), p.id); err != nil {
		t.Error(err)
	}
	expectKind(t, svc.RequireReserver(t.Context(), caller(bob), p.id), mimiport.KindForbidden)
	expectKind(t, svc.RequireReserver(t.Context(), caller("@eve:a.example"), p.id), mimiport.KindForbidden)
	expectKind(t, svc.RequireReserver(t.Context(), caller(alice), []byte("none")), mimiport.KindUnknownGroup)
	if _, err := svc.BindGroup(t.Context(), caller(alice), p.id, bind); err != nil {
		t.Errorf("the same bind again: %v", err)
	}
	_, err = svc.BindGroup(t.Context(), caller(bob), p.id, bind)
	expectKind(t, err, mimiport.KindForbidden)
	other := p.group.Commit(mlstest.CommitOptions{Sender: 0, Path: true}).Next
	_, err = svc.BindGroup(t.Context(), caller(alice), p.id,
		&api.BindGroupRequest{Protocol: "mls10", GroupInfo: other.GroupInfo(), RatchetTree: other.RatchetTree()})
	expectKind(t, err, mimiport.KindConflict)
	_, err = svc.BindGroup(t.Context(), caller(alice), p.id, &api.BindGroupRequest{Protocol: "mls11"})
	expectKind(t, err, mimiport.KindUnsupported)

	reserved, err := svc.ReserveGroup(t.Context(), caller(alice), &api.ReserveGroupRequest{RoomID: room})
	if err != nil {
		t.Fatal(err)
	}
	_, err = svc.BindGroup(t.Context(), caller(alice), reserved.GroupID, bind)
	expectKind(t, err, mimiport.KindInvalid) // a group of another id
	_, err = svc.Group(t.Context(), caller(alice), reserved.GroupID)
	expectKind(t, err, mimiport.KindUnknownGroup)
}

// TestReadersMeetWriters: while members commit, every reader gets one present or former epoch as a whole. Readers
// disturb no request.
func TestReadersMeetWriters(t *testing.T) {
	p := newPlay(t)
	svc := p.services[serverA]
	done := make(chan error)
	for range 4 {
		go func() {
			for range 200 {
				g, err := svc.Group(t.Context(), caller(bob), p.id)
				if err == nil {
					_, err = svc.RatchetTree(t.Context(), caller(bob), p.id, g.Epoch)
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 50 {
		p.commit(serverA, alice, mlstest.CommitOptions{})
		p.say(serverA, bob)
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	p.expectHosted(serverA, 0)
}
