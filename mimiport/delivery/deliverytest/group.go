package deliverytest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Group is a group in a World. Its members run concurrently.
type Group struct {
	ID []byte

	w     *World
	mu    sync.Mutex                  // guards all calls of mlstest
	after map[[32]byte]*mlstest.Group // by the hash of a Commit: the epoch that it leads to
}

// Member is a member with its state so far. Only the methods that send may run concurrently.
type Member struct {
	*Group
	User string
	DS   string
	Term uint64

	leaf  uint32
	next  uint64 // the number of the next message to read
	state *mlstest.Group
}

// NewGroup joins some users to the room and makes a group of them at a server. The first user binds it.
func NewGroup(ctx context.Context, w *World, host string, users ...string) (*Group, []*Member, error) {
	w.Room.Join(users...)
	reserved, err := w.Service(host).ReserveGroup(ctx, Caller(users[0]), &api.ReserveGroupRequest{RoomID: RoomID})
	if err != nil {
		return nil, nil, err
	}
	g := &Group{ID: reserved.GroupID, w: w, after: map[[32]byte]*mlstest.Group{}}
	o := mlstest.Options{Seed: w.seed, GroupID: g.ID}
	for _, u := range users {
		o.Members = append(o.Members, mlstest.Identity(u, "DEVICE"))
	}
	state := mlstest.New(o)
	_, err = w.Service(host).BindGroup(ctx, Caller(users[0]), g.ID, &api.BindGroupRequest{
		Protocol: "mls10", GroupInfo: state.GroupInfo(), RatchetTree: state.RatchetTree(),
	})
	members := make([]*Member, len(users))
	for i, u := range users {
		members[i] = &Member{Group: g, User: u, DS: host, leaf: uint32(i), next: 1, state: state}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range members {
		w.members[membership{string(g.ID), m.User}] = m
	}
	return g, members, err
}

// membership is a user in a group.
type membership struct{ group, user string }

// Member returns a user's member of a group, or nil.
func (w *World) Member(groupID []byte, user string) *Member {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.members[membership{string(groupID), user}]
}

// Answer lets devices follow the first n requests of Asked, each to its first target, and takes these requests out.
func (w *World) Answer(ctx context.Context, n int) error {
	followed := w.Asked[:n]
	w.Asked = w.Asked[n:]
	for i := range followed {
		m := w.Member(followed[i].GroupID, followed[i].UserID)
		proposed, err := m.NewMigration(ctx, followed[i].Targets[0])
		if err == nil {
			_, err = m.Initiate(ctx, proposed)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.User, err)
		}
	}
	return nil
}

// State identifies the member's epoch among all epochs of all branches. It is the hash of the epoch's GroupInfo.
func (m *Member) State() [32]byte { return sha256.Sum256(m.state.GroupInfo()) }

// Look asks the Delivery Service that the member holds as current for the group's state, in the form of State.
func (m *Member) Look(ctx context.Context) (state [32]byte, err error) {
	err = m.ask(m.DS, func(d *delivery.Service) error {
		g, err := d.Group(ctx, Caller(m.User), m.ID)
		if err == nil {
			state = sha256.Sum256(g.GroupInfo)
		}
		return err
	})
	return state, err
}

// ask makes a request to a server through the member's homeserver.
func (m *Member) ask(server string, request func(*delivery.Service) error) error {
	return m.w.exchange(Message{serverOf(m.User), server, "request"}, request)
}

// Sync reads the log and follows it.
func (m *Member) Sync(ctx context.Context) error { return m.SyncAt(ctx, m.DS) }

// SyncAt is Sync for a member whose Delivery Service is lost: another one serves its log of the member's term.
func (m *Member) SyncAt(ctx context.Context, server string) error {
	for {
		var log *api.MessagesResponse
		err := m.ask(server, func(d *delivery.Service) (err error) {
			log, err = d.Messages(ctx, Caller(m.User), m.ID, api.MessagesQuery{From: m.next, Term: &m.Term})
			return err
		})
		if err != nil {
			return err
		}
		if log.Term == m.Term {
			m.next = log.Next
		}
		switch moved := m.read(log.Messages); {
		case moved:
			server = m.DS
		case log.End:
			return nil
		}
	}
}

// read takes messages of the log up to the Commit that moves the group.
func (m *Member) read(log []api.LogMessage) (moved bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range log {
		e := &log[i]
		if storage.EntryKind(e.Kind) != storage.EntryCommit || e.Epoch != m.state.Epoch() {
			continue
		}
		m.state = m.after[sha256.Sum256(e.Message)]
		if e.Migration != nil {
			m.DS, m.Term, m.next = e.Migration.DeliveryService, e.Migration.Term, 1
			return true
		}
	}
	return false
}

// Proposed is a Commit that a member has made.
type Proposed struct {
	Before, After [32]byte // the states that it leads from and to

	from    string // the Delivery Service
	message *mlstest.Commit
	init    *api.MigrationInitRequest
	id      mimiport.MigrationID
}

// commit makes a Commit on the member's epoch.
func (m *Member) commit(authenticatedData []byte) *Proposed {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.state.Commit(mlstest.CommitOptions{Sender: m.leaf, Path: true, AuthenticatedData: authenticatedData})
	m.after[sha256.Sum256(c.Message)] = c.Next
	return &Proposed{Before: m.State(), After: sha256.Sum256(c.GroupInfo), from: m.DS, message: c}
}

func (p *Proposed) submission() api.SubmitRequest {
	return api.SubmitRequest{Message: p.message.Message, GroupInfo: p.message.GroupInfo}
}

// NewCommit makes a Commit to submit.
func (m *Member) NewCommit() *Proposed { return m.commit(nil) }

// Submit submits a Commit.
func (m *Member) Submit(ctx context.Context, p *Proposed) error {
	req := p.submission()
	return m.submit(ctx, p.from, &req)
}

func (m *Member) submit(ctx context.Context, ds string, req *api.SubmitRequest) error {
	return m.ask(ds, func(d *delivery.Service) error {
		_, err := d.Submit(ctx, Caller(m.User), m.ID, req)
		return err
	})
}

// NewMessage makes an application message of the member's epoch.
func (m *Member) NewMessage() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Application(nil, 32)
}

// Send submits an application message.
func (m *Member) Send(ctx context.Context, message []byte) error {
	return m.submit(ctx, m.DS, &api.SubmitRequest{Message: message})
}

// NewMigration gets an offer from a target and makes the migration Commit for it.
func (m *Member) NewMigration(ctx context.Context, target string) (*Proposed, error) {
	r := &mimiport.MigrationRequest{SourceDomain: m.DS, TargetDomain: target, GroupID: m.ID, Epoch: m.state.Epoch()}
	request, err := r.Marshal()
	if err != nil {
		return nil, err
	}
	var offer *api.MigrationOffer
	err = m.ask(target, func(d *delivery.Service) (err error) {
		req := &api.MigrationRequestRequest{MigrationRequest: request, RoomID: RoomID}
		offer, err = d.RequestMigration(ctx, Caller(m.User), req)
		return err
	})
	if err != nil {
		return nil, err
	}
	response, err := mimiport.UnmarshalMigrationResponse(offer.MigrationResponse)
	if err != nil {
		return nil, err
	}
	aad, err := (&mimiport.MigrationCommitAAD{TargetDomain: target}).Marshal()
	if err != nil {
		return nil, err
	}
	p := m.commit(aad)
	p.id = response.ID()
	m.mu.Lock()
	defer m.mu.Unlock()
	init, err := SignInit(m.state, m.leaf, response)
	p.init = &api.MigrationInitRequest{MigrationInit: init, KeyID: offer.KeyID, SubmitRequest: p.submission()}
	return p, err
}

// SignInit is the MigrationInit that a leaf of a group signs for an offer, encoded.
func SignInit(g *mlstest.Group, leaf uint32, response *mimiport.MigrationResponse) ([]byte, error) {
	init := &mimiport.MigrationInit{Response: *response}
	tbs, err := init.TBS()
	if err != nil {
		return nil, err
	}
	init.Signature = g.Sign(leaf, mimiport.MigrationInitLabel, tbs)
	return init.Marshal()
}

// Initiate sends the MigrationInit, repeatedly if needed, and returns the migration's status at the source.
func (m *Member) Initiate(ctx context.Context, p *Proposed) (st *api.MigrationStatus, err error) {
	err = m.ask(p.from, func(d *delivery.Service) (err error) {
		st, err = d.InitMigration(ctx, Caller(m.User), p.id, p.init)
		return err
	})
	return st, err
}
