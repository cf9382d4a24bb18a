package delivery_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

var update = flag.Bool("update", false, "write the golden files")

// client is C. The homeserver of C is H. alice is another member, M.
const client = "@c:h.example"

// tracer writes down every request of a play between C, M, S and T: its body, its answer, and the states of S and T
// after it.
type tracer struct {
	*play
	out    bytes.Buffer
	stand  map[string]string // the last written state, by server
	ids    map[mimiport.MigrationID]string
	nonces map[mimiport.Nonce]string
	begun  time.Time
}

var parties = map[string]string{serverA: "S", serverB: "T", "h.example": "H"}

func newTracer(t *testing.T) *tracer {
	p := &play{world: newWorld(t)}
	p.Room.Joined[client], p.Room.Power[client] = true, 100
	p.id = must(p.services[serverA].ReserveGroup(t.Context(), caller(alice),
		&api.ReserveGroupRequest{RoomID: room}))(t).GroupID
	p.group = mlstest.New(mlstest.Options{Seed: 1, GroupID: p.id,
		Members: [][]byte{mlstest.Identity(alice, "M"), mlstest.Identity(client, "C")}})
	p.bind(serverA)
	for _, ds := range []string{serverA, serverB} {
		p.allow(ds, `{"target":"joined_servers"}`)
	}
	tr := &tracer{play: p, stand: map[string]string{}, ids: map[mimiport.MigrationID]string{},
		nonces: map[mimiport.Nonce]string{}, begun: p.now}
	for name, service := range p.services {
		deps := service.Deps
		deps.Sender = traced{deps.Sender, tr}
		p.services[name] = delivery.New(deps)
	}
	tr.stands()
	return tr
}

func (tr *tracer) line(format string, args ...any) { fmt.Fprintf(&tr.out, format+"\n", args...) }

// ask writes down a request and its answer.
func (tr *tracer) ask(from, to, operation, body string, request func() (string, error)) error {
	tr.stands() // the changes since the last request
	tr.line("%s → %s  %s  %s", from, to, operation, body)
	answer, err := request()
	if err != nil {
		answer = tr.refusal(err)
	}
	tr.line("%s → %s  %s", to, from, answer)
	tr.stands()
	return err
}

// refusal is an error in its form on the wire.
func (tr *tracer) refusal(err error) string {
	text, known := map[mimiport.Kind]string{
		mimiport.KindPeer: "(lost)", mimiport.KindForbidden: "403 M_FORBIDDEN",
		mimiport.KindUnrecognized: "404 M_UNRECOGNIZED",
		mimiport.KindInProgress:   "409 M_MIGRATION_IN_PROGRESS", mimiport.KindInvalid: "400 M_INVALID",
		mimiport.KindMoved: "410 M_GROUP_MOVED",
	}[mimiport.KindOf(err)]
	if !known {
		tr.t.Fatal(err)
	}
	if moved := asError(err).Info.Moved; moved != nil {
		text += fmt.Sprintf(" to %s in term %d", parties[moved.Server], moved.Term)
	}
	return text
}

// stands writes down the state of each server whose state has changed.
func (tr *tracer) stands() {
	ctx := tr.t.Context()
	for _, server := range []string{serverA, serverB} {
		text := "no group"
		g, err := tr.stores[server].Group(ctx, tr.id)
		if err == nil {
			text = fmt.Sprintf("term %d %s at epoch %d", g.Term, g.State, g.Epoch)
		} else if !errors.Is(err, storage.ErrNotFound) {
			tr.t.Fatal(err)
		}
		records := must(tr.stores[server].Migrations(ctx, storage.MigrationFilter{}, mimiport.MigrationID{}, 10))(tr.t)
		migrations := map[string]string{}
		for _, m := range records {
			migrations[tr.ids[m.ID]] = string(m.State)
		}
		for _, name := range slices.Sorted(maps.Keys(migrations)) {
			text += fmt.Sprintf("; %s %s", name, migrations[name])
		}
		if tr.stand[server] != text {
			tr.stand[server] = text
			tr.line("        %s: %s", parties[server], text)
		}
	}
}

// signed names the server that has signed a message.
func (tr *tracer) signed(m mimiport.Signed) string {
	for _, server := range []string{serverA, serverB} {
		if tr.Verify(server, "ed25519:1", m) == nil {
			return "signed by " + parties[server]
		}
	}
	tr.t.Fatal("a message that nobody has signed")
	return ""
}

func (tr *tracer) response(r *mimiport.MigrationResponse) string {
	if tr.nonces[r.Nonce] == "" {
		tr.nonces[r.Nonce] = fmt.Sprintf("nonce-%d", len(tr.nonces)+1)
		tr.ids[r.ID()] = fmt.Sprintf("migration-%d", len(tr.ids)+1)
	}
	return fmt.Sprintf("MigrationResponse{%s, nonce: %s} %s", tr.request(&r.Request), tr.nonces[r.Nonce], tr.signed(r))
}

func (tr *tracer) request(r *mimiport.MigrationRequest) string {
	return fmt.Sprintf("MigrationRequest{source_domain_name: %s, target_domain_name: %s, group_id: G, epoch: %d}",
		parties[r.SourceDomain], parties[r.TargetDomain], r.Epoch)
}

func (tr *tracer) confirmation(data []byte) string {
	c := must(mimiport.UnmarshalMigrationConfirmation(data))(tr.t)
	return fmt.Sprintf("MigrationConfirmation{domain_name: %s, nonce: %s, group_id: G} %s", parties[c.DomainName],
		tr.nonces[c.Nonce], tr.signed(c))
}

// receipt describes the receipt beside a decision.
func (tr *tracer) receipt(shown *api.SignedInfo) string {
	if shown == nil {
		return ""
	}
	r := must(mimiport.UnmarshalCommitReceipt(shown.Message))(tr.t)
	return fmt.Sprintf(", CommitReceipt{term: %d, epoch: %d, seq: %d} %s", r.Term, r.Epoch, r.Seq, tr.signed(r))
}

// reads lets a user read the log of a term.
func (tr *tracer) reads(party, user, server string, term uint64) {
	tr.t.Helper()
	_ = tr.ask(party, parties[server], "getMessages", fmt.Sprintf("term: %d", term), func() (string, error) {
		log, err := tr.services[server].Messages(tr.t.Context(), caller(user), tr.id, api.MessagesQuery{Term: &term})
		if err != nil {
			return "", err
		}
		text := "200"
		for _, m := range log.Messages {
			text += fmt.Sprintf(" %s %d of term %d, epoch %d", m.Kind, m.Seq, log.Term, m.Epoch)
			if m.Migration != nil {
				text += ", with " + tr.confirmation(m.Migration.MigrationConfirmation) + tr.receipt(m.Receipt) + ";"
			}
		}
		return text + " moved to " + parties[log.Moved.DeliveryService], nil
	})
}

func (tr *tracer) abort(data []byte) string {
	a := must(mimiport.UnmarshalMigrationAbort(data))(tr.t)
	return fmt.Sprintf("MigrationAbort{migration_id: %s, source_domain: %s} %s", tr.ids[a.MigrationID],
		parties[a.SourceDomain], tr.signed(a))
}

func (tr *tracer) status(st *api.MigrationStatus) string {
	text := fmt.Sprintf("200 state: %s", st.State)
	if st.Confirmation != nil {
		text += ", " + tr.confirmation(st.Confirmation.Message) + tr.receipt(st.Receipt)
	}
	if st.Abort != nil {
		text += ", " + tr.abort(st.Abort.Message)
	}
	return text
}

func (tr *tracer) content(up *api.ContentUpload) string {
	c := must(mimiport.UnmarshalMigrationContent(up.Data))(tr.t)
	s := must(mimiport.UnmarshalGroupState(c.GroupState))(tr.t)
	return fmt.Sprintf("MigrationContent{MigrationResponse{nonce: %s}, group_state: {base: epoch %d, commit, "+
		"proposals: %d, lineage: %s, welcomes: %d, log: %d}} %s, decide_by: %s",
		tr.nonces[c.Response.Nonce], c.Response.Request.Epoch, len(s.Proposals),
		tr.lineageText(&s.Lineage), len(s.Welcomes), len(s.Log), tr.signed(c), tr.clock(up.DecideBy))
}

func (tr *tracer) lineageText(l *mimiport.Lineage) string {
	text := parties[l.CreatingServer]
	for i := range l.Steps {
		if claim := l.Steps[i].Claim; claim != nil {
			c := must(mimiport.UnmarshalLineageClaim(claim.Message))(tr.t)
			text += fmt.Sprintf(" → %s by LineageClaim{term: %d, epoch: %d}", parties[c.DomainName], c.Term, c.Epoch)
			continue
		}
		c := must(mimiport.UnmarshalMigrationConfirmation(l.Steps[i].Confirmation.Message))(tr.t)
		text += fmt.Sprintf(" → %s by %s", parties[c.DomainName], tr.nonces[c.Nonce])
	}
	return text
}

func (tr *tracer) clock(at time.Time) string {
	d := at.Sub(tr.begun)
	return fmt.Sprintf("%02d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

// traced is a server's way to other servers. It writes down each request.
type traced struct {
	delivery.Sender
	tr *tracer
}

func (s traced) PutContent(ctx context.Context, from, to string, up *api.ContentUpload) (
	vote *api.SignedRequest, err error) {
	err = s.tr.ask(parties[from], parties[to], "putContent", s.tr.content(up), func() (string, error) {
		if vote, err = s.Sender.PutContent(ctx, from, to, up); err != nil {
			return "", err
		}
		c := must(mimiport.UnmarshalTargetMigrationComplete(vote.Message))(s.tr.t)
		return "200 TargetMigrationComplete{migration_content_hash} " + s.tr.signed(c), nil
	})
	return vote, err
}

func (s traced) PutConfirmation(ctx context.Context, from, to string, id mimiport.MigrationID,
	m *api.SignedRequest) error {
	return s.tr.ask(parties[from], parties[to], "confirmMigration", s.tr.confirmation(m.Message)+s.tr.receipt(m.Receipt),
		func() (string, error) {
			return "200", s.Sender.PutConfirmation(ctx, from, to, id, m)
		})
}

func (s traced) PutAbort(ctx context.Context, from, to string, id mimiport.MigrationID, m *api.SignedRequest) error {
	return s.tr.ask(parties[from], parties[to], "putAbort", s.tr.abort(m.Message), func() (string, error) {
		return "200", s.Sender.PutAbort(ctx, from, to, id, m)
	})
}

func (s traced) PutLineage(ctx context.Context, from, to string, groupID []byte, r *api.LineageRequest) error {
	return s.tr.ask(parties[from], parties[to], "showLineage",
		s.tr.lineageText(must(mimiport.UnmarshalLineage(r.Lineage))(s.tr.t)), func() (string, error) {
			return "200", s.Sender.PutLineage(ctx, from, to, groupID, r)
		})
}

func (s traced) AskStatus(ctx context.Context, from, to string, id mimiport.MigrationID) (
	st *api.MigrationStatus, err error) {
	err = s.tr.ask(parties[from], parties[to], "getMigration", s.tr.ids[id], func() (string, error) {
		if st, err = s.Sender.AskStatus(ctx, from, to, id); err != nil {
			return "", err
		}
		return s.tr.status(st), nil
	})
	return st, err
}

func (s traced) ToDevice(
	ctx context.Context, from, to string, events []api.DeviceEvent,
) (arrived int, err error) {
	for i := range events {
		if err := s.toDevice(ctx, from, to, events[i:i+1]); err != nil {
			return i, err
		}
	}
	return len(events), nil
}

func (s traced) toDevice(ctx context.Context, from, to string, event []api.DeviceEvent) error {
	var m api.FanOut
	if err := json.Unmarshal(event[0].Content, &m); err != nil {
		return err
	}
	text := fmt.Sprintf("%s %d of term %d, epoch %d", m.Kind, m.Seq, m.Term, m.Epoch)
	if m.Migration != nil {
		text += ", with " + s.tr.confirmation(m.Migration.MigrationConfirmation)
	}
	_, err := s.Sender.ToDevice(ctx, from, to, event)
	if err != nil {
		text += "  " + s.tr.refusal(err)
	}
	s.tr.stands()
	for _, user := range slices.Sorted(maps.Keys(event[0].Devices)) {
		s.tr.line("%s ⇒ %s  %s", parties[from], event[0].Devices[user][0], text)
	}
	return err
}

// offer lets C ask for an offer and make its Commit.
func (tr *tracer) offer(from, to string) (a *attempt) {
	body := tr.request(&mimiport.MigrationRequest{SourceDomain: from, TargetDomain: to, Epoch: tr.group.Epoch()})
	err := tr.ask("C", parties[to], "requestMigration", body, func() (_ string, err error) {
		if a, err = tr.play.request(from, to, client, nil); err != nil {
			return "", err
		}
		return "200 " + tr.response(must(mimiport.UnmarshalMigrationResponse(a.offer.MigrationResponse))(tr.t)), nil
	})
	if err != nil {
		tr.t.Fatal(err)
	}
	return a
}

// init lets C send its MigrationInit.
func (tr *tracer) init(a *attempt) {
	init := must(mimiport.UnmarshalMigrationInit(a.init.MigrationInit))(tr.t)
	body := fmt.Sprintf("MigrationInit{MigrationResponse{nonce: %s}} signed by C, "+
		"Commit{epoch: %d, authenticated_data: MigrationCommitAAD{%s}}, GroupInfo{epoch: %d}",
		tr.nonces[init.Response.Nonce], tr.group.Epoch(), parties[a.to], tr.group.Epoch()+1)
	_ = tr.ask("C", parties[a.from], "initMigration", body, func() (string, error) {
		st, err := tr.initiate(a)
		if err != nil {
			return "", err
		}
		return tr.status(st), nil
	})
}

// commits lets a member submit a Commit.
func (tr *tracer) commits(member, user, ds string) {
	c := tr.group.Commit(mlstest.CommitOptions{Sender: leafOf[user], Path: true})
	_ = tr.ask(member, parties[ds], "submit",
		fmt.Sprintf("Commit{epoch: %d}, GroupInfo{epoch: %d}", tr.group.Epoch(), c.Next.Epoch()), func() (string, error) {
			res, err := tr.submit(ds, user, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo})
			if err != nil {
				return "", err
			}
			tr.group = c.Next
			return fmt.Sprintf("200 number %d of term %d, epoch %d", res.Seq, res.Term, res.Epoch), nil
		})
	tr.run()
}

// pass lets time pass, and the servers do their due rows.
func (tr *tracer) pass(d time.Duration) {
	tr.now = tr.now.Add(d)
	tr.line("        — %s —", tr.clock(tr.now))
	tr.run()
	tr.stands()
}

// traces are the main scenarios.
var traces = map[string]struct {
	about string
	play  func(*tracer)
}{
	"there_and_back": {"The group goes from S to T and comes back; a member who asks at the wrong place is redirected.",
		func(tr *tracer) {
			a := tr.offer(serverA, serverB)
			tr.init(a)
			tr.run()
			tr.init(a)
			tr.group = a.commit.Next
			tr.commits("M", alice, serverA)
			tr.commits("M", alice, serverB)
			b := tr.offer(serverB, serverA)
			tr.init(b)
			tr.run()
			tr.group = b.commit.Next
			tr.commits("C", client, serverA)
		}},
	"decide_by": {"T's vote is lost until decide_by: S aborts, T learns of it, and the Commit is dropped for good.",
		func(tr *tracer) {
			tr.lost = func(_, what string) bool { return what == "vote" }
			a := tr.offer(serverA, serverB)
			tr.init(a)
			tr.run()
			tr.commits("M", alice, serverA)
			tr.pass(61 * time.Second)
			tr.init(a)
			tr.commits("M", alice, serverA)
		}},
	"late_vote": {"T's vote arrives after decide_by: S's clock alone decides.", func(tr *tracer) {
		tr.lost = func(_, what string) bool {
			if what == "vote" {
				tr.now = tr.now.Add(61 * time.Second)
			}
			return false
		}
		tr.init(tr.offer(serverA, serverB))
		tr.run()
		tr.commits("M", alice, serverA)
	}},
	"target_refuses": {"T's operator has closed it since the offer: a final refusal aborts at once.", func(tr *tracer) {
		tr.init(tr.offer(serverA, serverB))
		tr.allow(serverB, `{"target":"nobody"}`)
		tr.run()
		tr.commits("M", alice, serverA)
	}},
	"client_abort": {"C gives up while S is frozen: the signed abort is for T, too.", func(tr *tracer) {
		tr.lost = func(_, what string) bool { return what == "vote" }
		a := tr.offer(serverA, serverB)
		tr.init(a)
		tr.run()
		_ = tr.ask("C", "S", "abortMigration", tr.ids[a.id], func() (string, error) {
			st, err := tr.services[serverA].AbortMigration(tr.t.Context(), caller(client), a.id)
			if err != nil {
				return "", err
			}
			return tr.status(st), nil
		})
		tr.run()
		tr.commits("M", alice, serverA)
	}},
	"source_dies": {"S dies when it has decided and told C: C shows T the decision, and S hears of it when it is back.",
		func(tr *tracer) {
			down := false
			tr.lost = func(to, what string) bool { return what == "confirmation" || down && to == serverA }
			a := tr.offer(serverA, serverB)
			tr.init(a)
			tr.run()
			tr.init(a)
			down = true
			tr.group = a.commit.Next
			tr.commits("M", alice, serverB)
			tr.pass(2 * time.Minute)
			told := must(tr.services[serverA].Migration(tr.t.Context(), caller(client), a.id))(tr.t)
			c := told.Confirmation
			shown := &api.SignedRequest{Message: c.Message, KeyID: c.KeyID, Receipt: told.Receipt}
			_ = tr.ask("C", "T", "confirmMigration", tr.confirmation(shown.Message)+tr.receipt(shown.Receipt),
				func() (string, error) {
					st, err := tr.services[serverB].ConfirmMigration(tr.t.Context(), caller(client), a.id, shown)
					if err != nil {
						return "", err
					}
					return tr.status(st), nil
				})
			tr.reads("M", alice, serverB, 0)
			tr.commits("M", alice, serverB)
			tr.lost = func(string, string) bool { return false }
			tr.pass(10 * time.Second)
		}},
	"draft_target": {"T speaks only the draft and activates what it imports: S decides by its vote, " +
		"and needs no acknowledgement.", func(tr *tracer) {
		tr.Draft = serverB
		a := tr.offer(serverA, serverB)
		tr.init(a)
		tr.run()
		tr.group = a.commit.Next
		tr.commits("M", alice, serverB)
	}},
	"reclaim": {"T is lost after the decision: S's operator takes the group back in a new term, " +
		"the room names the claim, and T yields.", func(tr *tracer) {
		a := tr.offer(serverA, serverB)
		tr.init(a)
		tr.run()
		tr.group = a.commit.Next
		tr.lost = func(to, _ string) bool { return to == serverB }
		_ = tr.ask("operator", "S", "reclaimGroup", "G", func() (string, error) {
			host, err := tr.services[serverA].Reclaim(tr.t.Context(), tr.id, &api.LineageRequest{})
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("200 at %s in term %d", parties[host.DeliveryService], host.Term), nil
		})
		tr.run()
		tr.commits("C", client, serverA)
		tr.support(serverA)
		tr.lost = func(string, string) bool { return false }
		tr.pass(10 * time.Second)
		tr.commits("M", alice, serverB)
	}},
}

// TestTraces compares the main scenarios with the traces in testdata, for the reader of profile, section 6.
func TestTraces(t *testing.T) {
	leafOf[client] = 1
	defer delete(leafOf, client)
	for name, c := range traces {
		t.Run(name, func(t *testing.T) {
			tr := newTracer(t)
			c.play(tr)
			got := "# " + c.about + "\n" + tr.out.String()
			golden := filepath.Join("testdata", "traces", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := must(os.ReadFile(golden))(t); got != string(want) {
				t.Errorf("the trace is not the reviewed one; it is:\n%s", got)
			}
		})
	}
}
