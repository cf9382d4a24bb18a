package delivery_test

import (
	"errors"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// TestStagedAnswers: a group that is only offered is unknown at T. While a group is staged, T answers every route of it
// with M_MIGRATION_IN_PROGRESS and a time, but refuses a stranger, and answers each route of the migration as the
// profile, section 6, says.
func TestStagedAnswers(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "confirmation" || what == "vote" }
	a := p.mustRequest(serverA, serverB, bob)
	offer := must(p.services[serverB].Migration(t.Context(), caller(bob), a.id))(t)
	if offer.State != "offered" || offer.Term != 0 || offer.Limits == nil {
		t.Errorf("the offer: %+v", offer)
	}
	_, err := p.services[serverB].Group(t.Context(), caller(bob), p.id)
	expectKind(t, err, mimiport.KindUnknownGroup)
	if _, err := p.initiate(a); err != nil {
		t.Fatal(err)
	}
	p.run()
	p.expect(a, "frozen", "staged")
	b, ctx := p.services[serverB], t.Context()
	message := p.group.Application(nil, 10)
	for name, ask := range map[string]func() error{
		"getGroup":    func() error { _, err := b.Group(ctx, caller(bob), p.id); return err },
		"getHost":     func() error { _, err := b.Host(ctx, caller(bob), p.id); return err },
		"getTree":     func() error { _, err := b.RatchetTree(ctx, caller(bob), p.id, 1); return err },
		"getMessages": func() error { _, err := b.Messages(ctx, caller(bob), p.id, api.MessagesQuery{}); return err },
		"getDrift":    func() error { _, err := b.Drift(ctx, caller(bob), p.id); return err },
		"closeGroup":  func() error { _, err := b.CloseGroup(ctx, caller(bob), p.id); return err },
		"submit": func() error {
			_, err := b.Submit(ctx, caller(bob), p.id, &api.SubmitRequest{Message: message})
			return err
		},
		"reportCommit": func() error {
			_, err := b.Report(ctx, caller(bob), p.id, &api.ReportRequest{Seq: 1})
			return err
		},
	} {
		if info := infoOf(t, ask(), mimiport.KindInProgress); info.RetryAfter <= 0 {
			t.Errorf("%s: no time to try again", name)
		}
	}
	_, err = b.Group(ctx, caller("@eve:a.example"), p.id)
	expectKind(t, err, mimiport.KindForbidden)
	staged := must(b.Migration(ctx, api.Caller{Server: serverA}, a.id))(t)
	if staged.State != "staged" || staged.Term != 1 || staged.Complete == nil || staged.Limits != nil {
		t.Errorf("the status: %+v", staged)
	}
	_, err = b.AbortMigration(ctx, caller(bob), a.id)
	expectKind(t, err, mimiport.KindForbidden)
	_, err = b.InitMigration(ctx, caller(bob), a.id, a.init)
	expectKind(t, err, mimiport.KindInvalid)
	host, err := b.ShowLineage(ctx, caller(bob), p.id, p.lineage(serverA))
	if err != nil || host.DeliveryService != serverB || host.Term != 1 {
		t.Errorf("a lineage that says nothing new: %+v, %v", host, err)
	}
}

// infoOf returns the Info of an error, which must have the kind.
func infoOf(t *testing.T, err error, kind mimiport.Kind) mimiport.Info {
	t.Helper()
	expectKind(t, err, kind)
	var e *mimiport.Error
	if !errors.As(err, &e) {
		t.FailNow()
	}
	return e.Info
}

// TestOfferForUnknownSuite: T makes no offer for a cipher suite that T does not speak.
func TestOfferForUnknownSuite(t *testing.T) {
	p := newPlay(t)
	req := must((&mimiport.MigrationRequest{
		SourceDomain: serverA, TargetDomain: serverB, GroupID: p.id, Epoch: p.group.Epoch(),
	}).Marshal())(t)
	ask := func(cipherSuite uint16) error {
		_, err := p.services[serverB].RequestMigration(t.Context(), caller(bob), &api.MigrationRequestRequest{
			MigrationRequest: req, RoomID: room,
			SuiteRequest: api.SuiteRequest{Protocol: suite.Protocol, CipherSuite: cipherSuite},
		})
		return err
	}
	expectKind(t, ask(0xfeed), mimiport.KindUnsupported)
	if err := ask(suite.CipherSuite); err != nil {
		t.Error(err)
	}
}

// TestProbe: before S freezes, it asks T once for the migration's status. S goes on only if T has an offer, or if T
// speaks only the draft.
func TestProbe(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*api.MigrationStatus)
		fail mimiport.Kind // T's answer in the place of a status, as an error kind
		want mimiport.Kind // KindInternal: S goes on
	}{
		"an offer":                {edit: func(*api.MigrationStatus) {}},
		"an offer without limits": {edit: func(m *api.MigrationStatus) { m.Limits = nil }},
		"staged": {
			edit: func(m *api.MigrationStatus) { m.State = "staged" }, want: mimiport.KindOfferExpired,
		},
		"a state that nobody knows": {
			edit: func(m *api.MigrationStatus) { m.State = "" }, want: mimiport.KindOfferExpired,
		},
		"another protocol": {
			edit: func(m *api.MigrationStatus) { m.Limits.Protocols = nil }, want: mimiport.KindUnsupported,
		},
		"room for less": {
			edit: func(m *api.MigrationStatus) { m.Limits.GroupStateBytes = 100 }, want: mimiport.KindTooLarge,
		},
		"no such route":        {fail: mimiport.KindUnrecognized},
		"unsupported":          {fail: mimiport.KindUnsupported, want: mimiport.KindUnsupported},
		"an unknown migration": {fail: mimiport.KindUnknownMigration, want: mimiport.KindUnknownMigration},
		"no answer":            {fail: mimiport.KindPeer, want: mimiport.KindPeer},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			a := p.mustRequest(serverA, serverB, bob)
			asked := 0
			p.meet(serverA, hostile{status: func() (*api.MigrationStatus, error) {
				asked++
				if c.edit == nil {
					return nil, mimiport.Errorf("ask", c.fail, "no")
				}
				m, err := p.services[serverB].Migration(t.Context(), api.Caller{Server: serverA}, a.id)
				c.edit(m)
				return m, err
			}})
			_, err := p.initiate(a)
			switch {
			case c.want != mimiport.KindInternal:
				expectKind(t, err, c.want)
				p.expectHosted(serverA, 0)
			case err != nil:
				t.Error(err)
			}
			if asked != 1 {
				t.Errorf("asked %d times", asked)
			}
		})
	}
}

// TestPieces: a piece of the log begins with the first message and has 100 messages, unless the request says otherwise.
// It never has more than 500.
func TestPieces(t *testing.T) {
	p := newPlay(t)
	for range 501 {
		p.say(serverA, alice)
	}
	for _, c := range []struct {
		q           api.MessagesQuery
		first, size uint64
	}{
		{api.MessagesQuery{}, 1, 100}, {api.MessagesQuery{From: 401}, 401, 100}, {api.MessagesQuery{From: 402}, 402, 100},
		{api.MessagesQuery{From: 1, Limit: 3}, 1, 3}, {api.MessagesQuery{Limit: 1000}, 1, 500},
		{api.MessagesQuery{From: 502}, 502, 0}, {api.MessagesQuery{From: 9000}, 9000, 0},
	} {
		res := must(p.services[serverA].Messages(t.Context(), caller(bob), p.id, c.q))(t)
		if uint64(len(res.Messages)) != c.size || res.Next != c.first+c.size || res.End != (res.Next > 501) {
			t.Errorf("%+v: %d messages, next %d, end %v", c.q, len(res.Messages), res.Next, res.End)
		}
	}
}

// TestDecideByOfTheTarget: T takes a content with any decide_by. It asks S at that time, or at once if that time is
// past.
func TestDecideByOfTheTarget(t *testing.T) {
	for _, at := range []time.Duration{-1000 * time.Hour, 0, time.Minute} {
		p := newPlay(t)
		a := p.begin(serverA, serverB, bob)
		data := must(p.stores[serverA].Content(t.Context(), a.id))(t)
		_, err := p.services[serverB].PutContent(t.Context(), serverA, &api.ContentUpload{
			ID: a.id, KeyID: "ed25519:1", Data: data, DecideBy: p.now.Add(at),
		})
		if err != nil {
			t.Fatal(err)
		}
		if ask := p.due(serverB, migration.RowAsk); !ask.Due.Equal(p.now.Add(at)) {
			t.Errorf("%v: T asks at %v, it is %v", at, ask.Due, p.now)
		}
	}
}

// TestTargetLosesModule: T votes, and then restarts without this module. S keeps sending its decision, and T takes the
// decision when it has the module again.
func TestTargetLosesModule(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "confirmation" }
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(a, "decided", "staged")
	p.lost = func(string, string) bool { return false }
	p.Draft = serverB // B has only the routes of the draft
	p.now = p.now.Add(30 * time.Second)
	p.run()
	p.expect(a, "decided", "staged")
	p.Draft = ""
	p.now = p.now.Add(time.Hour)
	p.run()
	p.expect(a, "moved", "active")
}

// TestLargePiece: a piece of the log ends before it has more than 4 MiB of messages. It always has its first message,
// of any size.
func TestLargePiece(t *testing.T) {
	p := newPlay(t)
	deps := p.services[serverA].Deps
	deps.Limits.MessageBytes = 8 << 20
	p.services[serverA] = delivery.New(deps)
	for _, size := range []int{5 << 20, 1 << 20, 2 << 20, 2 << 20} {
		must(p.submit(serverA, alice, &api.SubmitRequest{Message: p.group.Application(nil, size)}))(t)
	}
	for from, want := range map[uint64]int{1: 1, 2: 2, 3: 1, 4: 1} {
		res := must(p.services[serverA].Messages(t.Context(), caller(bob), p.id, api.MessagesQuery{From: from}))(t)
		if len(res.Messages) != want || res.Next != from+uint64(want) || res.End != (res.Next == 5) {
			t.Errorf("from %d: %d messages, next %d, end %v", from, len(res.Messages), res.Next, res.End)
		}
	}
}
