package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/internal/hexjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
)

// section is the servers' section mimi_portability. A migration that cannot end is given up after 20 s.
const section = harness.Section + "  decide_by: 20s\n"

// stage has the servers, the users and their room, and the wire between them.
type stage struct {
	*wire
	network *harness.Network
	hosts   []*host
	room    string

	acting sync.Mutex // held by the action that runs
}

// host is a homeserver with its user.
type host struct {
	*harness.Server
	label string // A or B
	user  *harness.User
	key   ed25519.PublicKey
	url   string // the client API behind a tap
}

func newStage(ctx context.Context, n *harness.Network, pace time.Duration) (*stage, error) {
	s := &stage{wire: newWire(newBoard(), pace), network: n}
	n.Front = s.front
	for _, who := range []struct{ label, user string }{{"A", "alice"}, {"B", "bob"}} {
		if err := s.add(ctx, who.label, who.user); err != nil {
			return nil, err
		}
	}
	alice, bob := s.hosts[0].user, s.hosts[1].user
	var err error
	if s.room, err = alice.CreateRoom(ctx); err != nil {
		return nil, err
	}
	if err := alice.Admit(ctx, s.room, bob); err != nil {
		return nil, err
	}
	return s, s.empower(ctx, alice, bob)
}

// empower lets a second user move the room's group, and lets the first kick the second: the second has less power, and
// the room asks for no more to send its pointer.
func (s *stage) empower(ctx context.Context, first, second *harness.User) error {
	const levels, mover, creator = "m.room.power_levels", 50, 100
	var content map[string]any
	if err := first.State(ctx, s.room, levels, &content); err != nil {
		return err
	}
	content["users"] = map[string]int{first.ID: creator, second.ID: mover}
	content["events"] = map[string]int{levels: creator, api.EventPointer: mover}
	return first.SetState(ctx, s.room, levels, content)
}

// add starts a homeserver with a user.
func (s *stage) add(ctx context.Context, label, user string) error {
	server, err := s.network.Start(ctx, section)
	if err != nil {
		return err
	}
	h := &host{Server: server, label: label}
	identity, err := server.Identity()
	if err != nil {
		return err
	}
	h.key = identity.PrivateKey.Public().(ed25519.PublicKey)
	if h.user, err = server.Register(ctx, user, false); err != nil {
		return err
	}
	t := &tap{wire: s.wire, to: server, name: s.label, user: user, next: http.DefaultTransport}
	proxy, err := t.proxy(server.URL)
	if err != nil {
		return err
	}
	if h.url, err = listen(ctx, proxy); err != nil {
		return err
	}
	s.hosts = append(s.hosts, h)
	s.become(h, running)
	return nil
}

// front listens for peers at a server's name.
func (s *stage) front(ctx context.Context, server *harness.Server) error {
	t := &tap{wire: s.wire, to: server, name: s.label, next: s.network.Client().Transport}
	proxy, err := t.proxy("https://" + server.Listen)
	if err != nil {
		return err
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", server.Name)
	if err != nil {
		return err
	}
	serveAt(ctx, s.breakable(proxy), func(at *http.Server) error {
		return at.ServeTLS(l, s.network.CertFile(), s.network.KeyFile())
	})
	return nil
}

// label returns A or B for a server's name.
func (s *stage) label(server string) string {
	for _, h := range s.hosts {
		if h.Name == server {
			return h.label
		}
	}
	return server
}

func (s *stage) become(h *host, c condition) {
	s.change(func(p *picture) { p.Servers[h.label] = c })
}

// host finds a server by its label.
func (s *stage) host(label string) (*host, error) {
	for _, h := range s.hosts {
		if h.label == label {
			return h, nil
		}
	}
	return nil, fmt.Errorf("there is no server %q", label)
}

// act does what a button of the page says. on is the label of a server, for the buttons of servers.
func (s *stage) act(ctx context.Context, what, on string) error {
	s.acting.Lock()
	defer s.acting.Unlock()
	alice, bob := s.hosts[0].user, s.hosts[1].user
	switch what {
	case "cut":
		s.cut()
		s.change(func(p *picture) { p.Cut = true })
		return nil
	case "mend":
		s.mend()
		s.change(func(p *picture) { p.Cut = false })
		return nil
	case "kick":
		return alice.Kick(ctx, s.room, bob.ID)
	case "admit":
		return alice.Admit(ctx, s.room, bob)
	}
	h, err := s.host(on)
	if err != nil {
		return err
	}
	return s.control(ctx, h, what)
}

// control pauses, resumes, kills or starts a server's process.
func (s *stage) control(ctx context.Context, h *host, what string) error {
	step, ok := map[string]struct {
		from, to condition
		do       func() error
	}{
		"pause":  {running, paused, h.Pause},
		"resume": {paused, running, h.Resume},
		"kill":   {running, stopped, h.Kill},
		"start":  {stopped, running, func() error { return h.Start(ctx) }},
	}[what]
	if !ok {
		return fmt.Errorf("there is no action %q", what)
	}
	if is := s.condition(h); is != step.from {
		return fmt.Errorf("%s is %s", h.label, is)
	}
	if err := step.do(); err != nil {
		return err
	}
	s.become(h, step.to)
	return nil
}

func (s *stage) condition(h *host) condition {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	return s.picture.Servers[h.label]
}

// redirect is a former host's signed word about where a group is.
type redirect struct {
	To           string          `json:"to"` // the label of a server
	Term         uint64          `json:"term"`
	KeyID        string          `json:"key_id"`
	Confirmation json.RawMessage `json:"confirmation"`
}

// redirect asks a server where a group is. It returns nil if the group has not moved away. It returns an error if the
// confirmation does not belong to the offer, or if the server's signature does not verify.
func (s *stage) redirect(ctx context.Context, h *host, group string) (*redirect, error) {
	path := clientapi.PathPrefix + "/ds/" + url.PathEscape(h.Name) + "/groups/" + url.PathEscape(group) + "/host"
	var answer api.HostResponse
	if err := h.user.Do(ctx, http.MethodGet, path, nil, &answer); err != nil {
		return nil, err
	}
	if answer.Moved == nil {
		return nil, nil
	}
	offer, err := mimiport.UnmarshalMigrationResponse(answer.Moved.MigrationResponse)
	if err != nil {
		return nil, err
	}
	m, err := proof.Decision(offer, answer.Moved.MigrationConfirmation)
	if err != nil {
		return nil, err
	}
	text, err := hexjson.Marshal(m)
	return &redirect{s.label(answer.Moved.DeliveryService), answer.Moved.Term, answer.Moved.KeyID, text},
		errors.Join(err, mimiport.Verify(m, h.key))
}
