package adversary

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// offer is a target's signed offer to take a group.
type offer struct {
	id       string
	response *mimiport.MigrationResponse
	keyID    string
}

// askOffer asks a target, as a user, for an offer to take a group from a source.
func askOffer(t *testing.T, u *harness.User, target, source, room string, id []byte, epoch uint64) (*offer, error) {
	t.Helper()
	request := mimiport.MigrationRequest{SourceDomain: source, TargetDomain: target, GroupID: id, Epoch: epoch}
	in := &api.MigrationRequestRequest{MigrationRequest: encode(t, &request), RoomID: room}
	var out api.MigrationOffer
	if err := u.Do(harness.Within(t), http.MethodPost, at(target, "/migrations"), in, &out); err != nil {
		return nil, err
	}
	response, err := mimiport.UnmarshalMigrationResponse(out.MigrationResponse)
	return &offer{out.MigrationID, response, out.KeyID}, err
}

// offer asks a server, as a user, for an offer to take the group.
func (g *group) offer(t *testing.T, u *harness.User, to *harness.Server) *offer {
	t.Helper()
	o, err := askOffer(t, u, to.Name, g.host.Name, g.room, g.id, g.mls.Epoch())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// initiate asks the host, as a member, to move the group. after is the group in the epoch at the target.
func (g *group) initiate(t *testing.T, o *offer, u *harness.User, leaf uint32) (
	st api.MigrationStatus, after *mlstest.Group, err error,
) {
	t.Helper()
	c := commitTo(t, g.mls, leaf, o)
	init := &mimiport.MigrationInit{Response: *o.response}
	tbs, err := init.TBS()
	if err != nil {
		t.Fatal(err)
	}
	init.Signature = g.mls.Sign(leaf, mimiport.MigrationInitLabel, tbs)
	err = g.ask(t, u, http.MethodPut, "/migrations/"+o.id+"/init", &api.MigrationInitRequest{
		MigrationInit: encode(t, init), KeyID: o.keyID,
		SubmitRequest: api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo},
	}, &st)
	return st, c.Next, err
}

// commitTo returns the migration Commit for an offer.
func commitTo(t *testing.T, g *mlstest.Group, leaf uint32, o *offer) *mlstest.Commit {
	t.Helper()
	aad := &mimiport.MigrationCommitAAD{TargetDomain: o.response.Request.TargetDomain}
	return g.Commit(mlstest.CommitOptions{Sender: leaf, Path: true, AuthenticatedData: encode(t, aad)})
}

// stranger returns an identity with a server's name and a new key, which no server publishes.
func stranger(t *testing.T, name string) *fclient.SigningIdentity {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &fclient.SigningIdentity{ServerName: spec.ServerName(name), KeyID: "ed25519:own", PrivateKey: private}
}

// keyObject returns a key object that an identity signs for itself. past maps its old keys to the times they expired.
func keyObject(t *testing.T, by *fclient.SigningIdentity, past map[*fclient.SigningIdentity]time.Time) []byte {
	t.Helper()
	public := func(id *fclient.SigningIdentity) spec.Base64Bytes {
		return spec.Base64Bytes(id.PrivateKey.Public().(ed25519.PublicKey))
	}
	old := map[string]any{}
	for id, expired := range past {
		old[string(id.KeyID)] = map[string]any{"key": public(id), "expired_ts": spec.AsTimestamp(expired)}
	}
	object, err := json.Marshal(map[string]any{
		"server_name": by.ServerName, "valid_until_ts": spec.AsTimestamp(time.Now().Add(24 * time.Hour)),
		"verify_keys":     map[string]any{string(by.KeyID): map[string]any{"key": public(by)}},
		"old_verify_keys": old,
	})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := gomatrixserverlib.SignJSON(string(by.ServerName), by.KeyID, by.PrivateKey, object)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// claimed returns the lineage l with one more step: the claim, signed by an identity.
func claimed(
	t *testing.T, l *mimiport.Lineage, by *fclient.SigningIdentity, claim *mimiport.LineageClaim, object []byte,
) []byte {
	t.Helper()
	signed := harness.Signed(t, by, claim)
	longer := *l
	longer.Steps = append(longer.Steps[:len(longer.Steps):len(longer.Steps)], mimiport.LineageStep{
		Kind:  claim.Kind,
		Claim: &mimiport.SignedMessage{Message: signed.Message, KeyID: signed.KeyID, KeyObject: object},
	})
	return encode(t, &longer)
}

// show sends a server a lineage of the group, first as mallory and then as the attacker's server.
func (g *group) show(t *testing.T, to *harness.Server, lineage []byte) (answers []answer) {
	t.Helper()
	in := &api.LineageRequest{Lineage: lineage}
	for _, query := range []string{as(g.mallory), ""} {
		answers = append(answers, g.peer(t, g.c.SigningIdentity, to, http.MethodPut, g.path("/lineage")+query, in))
	}
	return answers
}

// hoax is a migration to b of a group that only the attacker's server, its source, claims to host.
type hoax struct {
	*arena
	*offer
	state *mimiport.GroupState
	after *mlstest.Group
}

// newHoax makes a hoax, with an offer by b that bob asks for. id is the group's id. If nil, the attacker's server
// creates an id of its own, with a preimage.
func (x *arena) newHoax(t *testing.T, room string, id []byte) *hoax {
	t.Helper()
	lineage := mimiport.Lineage{CreatingServer: x.c.Name, RoomID: room}
	if id == nil {
		lineage.Preimage = &mimiport.GroupIDPreimage{CreatingServer: x.c.Name, RoomID: room}
		_, _ = rand.Read(lineage.Preimage.Nonce[:]) // crypto/rand does not fail
		id = lineage.Preimage.GroupID()
	}
	o, err := askOffer(t, x.bob, x.b.Name, x.c.Name, room, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	g := x.mlsGroup(id)
	c := commitTo(t, g, bobLeaf, o)
	return &hoax{x, o, &mimiport.GroupState{
		Base:    mimiport.BaseState{Protocol: protocol, GroupInfo: g.GroupInfo(), RatchetTree: g.RatchetTree()},
		Commit:  mimiport.CommitState{Commit: c.Message, GroupInfo: c.GroupInfo},
		Lineage: lineage,
	}, c.Next}
}

// put sends the hoax's content to its target, and returns the target's final answer.
func (h *hoax) put(t *testing.T, to *harness.Server, decideBy time.Time) answer {
	t.Helper()
	content := &mimiport.MigrationContent{Response: *h.response, GroupState: encode(t, h.state)}
	return h.upload(t, to, harness.Signed(t, h.c.SigningIdentity, content).Message, decideBy)
}

// upload sends body as the content of the offer, again and again until the target's answer is final.
func (h *hoax) upload(t *testing.T, to *harness.Server, body []byte, decideBy time.Time) answer {
	t.Helper()
	sum := sha256.Sum256(body)
	query := url.Values{
		"sha256": {base64.RawURLEncoding.EncodeToString(sum[:])}, "key_id": {string(h.c.KeyID)},
		"decide_by": {strconv.FormatInt(decideBy.UnixMilli(), 10)},
	}
	route := "/migrations/" + h.id + "/content?" + query.Encode()
	var a answer
	err := harness.Poll(harness.Within(t), func(context.Context) error {
		a = h.send(t, withBody(h.request(t, h.c.SigningIdentity, to, http.MethodPut, route, nil), body))
		if a.status == http.StatusAccepted {
			return errors.New("the target has not checked the content yet")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// stage sends b the content, and requires b's vote for the hoax.
func (h *hoax) stage(t *testing.T, decideBy time.Time) {
	t.Helper()
	if a := h.put(t, h.b, decideBy); a.status != http.StatusOK {
		t.Fatalf("the answer to the content is %v", a)
	}
	h.requireState(t, migration.Staged)
}

// confirm sends b the source's confirmation, signed by an identity.
func (h *hoax) confirm(t *testing.T, by *fclient.SigningIdentity) answer {
	t.Helper()
	m := harness.Signed(t, by, &mimiport.MigrationConfirmation{
		DomainName: h.b.Name, Nonce: h.response.Nonce, GroupID: h.response.Request.GroupID,
	})
	return h.peer(t, h.c.SigningIdentity, h.b, http.MethodPut, "/migrations/"+h.id+"/confirmation", m)
}

// requireState fails the test unless the hoax is in this state at b.
func (h *hoax) requireState(t *testing.T, want migration.State) {
	t.Helper()
	var st api.MigrationStatus
	if err := h.bob.Do(harness.Within(t), http.MethodGet, at(h.b.Name, "/migrations/"+h.id), nil, &st); err != nil {
		t.Fatal(err)
	}
	if st.State != string(want) {
		t.Errorf("the migration is %s, not %s: %s", st.State, want, st.Reason)
	}
}

// group returns the hoax's group after b has taken it.
func (h *hoax) group() *group {
	return &group{
		arena: h.arena, room: h.state.Lineage.RoomID, id: h.response.Request.GroupID, mls: h.after, host: h.b, term: 1,
	}
}
