package draft09

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	engine "github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// group is the client's state of its group.
type group struct {
	id        []byte
	room      string
	ds        string // the current Delivery Service
	term      uint64
	next      uint64   // the number of the next message in the log
	proposals [][]byte // of this epoch, without the client's own Update
	update    []byte   // the client's own Update of this epoch, which the client cannot commit
	sent      []byte   // the client's own last application message, which it cannot decrypt
}

func (g *group) route() string { return "/groups/" + base64.RawURLEncoding.EncodeToString(g.id) }

// heard handles a to-device event. It ignores events that do not come from the group's current Delivery Service.
func (c *client) heard(ctx context.Context, e *harness.Event) error {
	server, ok := strings.CutPrefix(e.Sender, federation.SenderID(""))
	if !ok || e.Type != api.EventMessage {
		return nil
	}
	var m api.FanOut
	if err := json.Unmarshal(e.Content, &m); err != nil {
		return err
	}
	g := c.group
	switch {
	case g == nil && m.Kind == string(storage.EntryWelcome):
		return c.welcomed(ctx, server, &m)
	case g == nil || server != g.ds || m.Term != g.term || m.Seq < g.next:
		return nil
	case m.Seq > g.next || len(m.Message) == 0:
		return c.catchUp(ctx)
	}
	return c.take(&m.LogMessage)
}

func (c *client) welcomed(ctx context.Context, server string, m *api.FanOut) error {
	if m.Protocol != engine.Protocol {
		return fmt.Errorf("the Welcome is for the protocol %q", m.Protocol)
	}
	if err := c.member.Join(m.Message); err != nil {
		return err
	}
	c.group = &group{id: m.GroupID, room: m.RoomID, ds: server, term: m.Term, next: m.Seq + 1}
	return c.catchUp(ctx)
}

// catchUp reads the log to its end, or to the end of the term.
func (c *client) catchUp(ctx context.Context) error {
	g := c.group
	for term := g.term; g.term == term; {
		from := g.next
		var page api.MessagesResponse
		route := fmt.Sprintf("%s/messages?term=%d&from=%d", g.route(), term, from)
		if err := c.ask(ctx, g.ds, http.MethodGet, route, nil, &page); err != nil {
			return err
		}
		for i := range page.Messages {
			if err := c.take(&page.Messages[i]); err != nil {
				return fmt.Errorf("log of %s, term %d, from %d: %w", g.ds, term, from, err)
			}
		}
		if page.End {
			return nil
		}
		if g.next == from {
			return fmt.Errorf("the log of %s has no message %d", g.ds, from)
		}
	}
	return nil
}

// take handles the next message of the current Delivery Service's log. The log of a target begins with messages of
// former terms, which take ignores by their epoch.
func (c *client) take(m *api.LogMessage) error {
	g := c.group
	g.next = m.Seq + 1
	if m.Epoch < c.member.Epoch() {
		return nil
	}
	switch storage.EntryKind(m.Kind) {
	case storage.EntryApplication:
		return c.read(m)
	case storage.EntryProposal:
		if !bytes.Equal(m.Message, g.update) {
			g.proposals = append(g.proposals, m.Message)
		}
		return c.member.Handle(m.Message)
	case storage.EntryCommit:
		if err := c.member.Handle(m.Message); err != nil {
			return fmt.Errorf("handle the Commit of %s: %w", m.Sender, err)
		}
		return g.entered(m.Message)
	}
	return nil
}

func (c *client) read(m *api.LogMessage) error {
	if bytes.Equal(m.Message, c.group.sent) {
		return nil
	}
	text, err := c.member.Unprotect(m.Message)
	if err != nil {
		return fmt.Errorf("decrypt the message of %s: %w", m.Sender, err)
	}
	c.inbox = append(c.inbox, received{m.Sender, string(text)})
	return nil
}

// entered updates the group after a Commit. A migration Commit names the next Delivery Service (profile, section 5).
// The source's log has the Commit only after the source's decision, so the client needs no confirmation (section 6).
func (g *group) entered(commit []byte) error {
	g.proposals, g.update = nil, nil
	m, err := engine.New().Parse(commit)
	if err != nil || len(m.AuthenticatedData) == 0 {
		return err
	}
	aad, err := mimiport.UnmarshalMigrationCommitAAD(m.AuthenticatedData)
	if err != nil {
		return err
	}
	g.ds, g.term, g.next = aad.TargetDomain, g.term+1, 1
	return nil
}
