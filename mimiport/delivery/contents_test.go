package delivery_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/hexjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof/prooftest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// contentVectors has the form of mimiport/testdata/contents.json.
type contentVectors struct {
	Source, Target, User string
	RoomID               string        `json:"room_id"`
	Offer                hexjson.Bytes `json:"migration_response"`
	ExternalSender       hexjson.Bytes `json:"external_sender"`
	Live                 map[string]hexjson.Bytes
	Cases                []contentVector
}

type contentVector struct {
	Name, Outcome, Code, Rule string
	KeyID                     string `json:"key_id"`
	Content                   hexjson.Bytes
	Staged                    stagedVector
}

type stagedVector struct {
	ContentHash     hexjson.Bytes `json:"migration_content_hash"`
	Term, Epoch     uint64
	TreeHash        hexjson.Bytes   `json:"tree_hash"`
	Transcript      hexjson.Bytes   `json:"confirmed_transcript_hash"`
	ExternalSenders []hexjson.Bytes `json:"external_senders"`
	Members         []string
	Log             []struct {
		Term, Seq, Epoch uint64
		Kind, Sender     string
	}
}

// codes are the kinds of refusals by their codes in the vectors.
var codes = map[string]mimiport.Kind{
	"M_BAD_MESSAGE": mimiport.KindBadMessage, "M_BAD_SIGNATURE": mimiport.KindBadSignature,
	"M_INVALID": mimiport.KindInvalid, "M_UNSUPPORTED": mimiport.KindUnsupported, "M_FORBIDDEN": mimiport.KindForbidden,
}

// TestContentVectors: a target stages the group of each valid vector. It refuses each other content for the fault in
// the vector, and keeps nothing of it.
func TestContentVectors(t *testing.T) {
	data, err := os.ReadFile("../testdata/contents.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors contentVectors
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	for _, c := range vectors.Cases {
		t.Run(c.Name, func(t *testing.T) {
			w, m := vectors.target(t)
			_, err := w.services[m.Target].PutContent(t.Context(), m.Source, &api.ContentUpload{
				ID: m.ID, SHA256: sha256.Sum256(c.Content), KeyID: c.KeyID, Data: c.Content, DecideBy: w.now,
			})
			if c.Outcome == "staged" {
				if err != nil {
					t.Fatal(err)
				}
				vectors.expectStaged(w, m, &c.Staged)
				vectors.expectFormer(w, m, &c.Staged)
				return
			}
			expectKind(t, err, codes[c.Code])
			var refused *mimiport.Error
			if errors.As(err, &refused); refused == nil || c.Rule != "" && refused.Info.Rule != c.Rule {
				t.Errorf("refused as %v, want the rule %q", err, c.Rule)
			}
			_, err = w.stores[m.Target].GroupAt(t.Context(), storage.GroupKey{ID: m.GroupID, Term: 2})
			if !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("it has the group, or %v", err)
			}
		})
	}
	t.Logf("%d contents", len(vectors.Cases))
}

// target returns a world with the target that made the offer of the vectors.
func (v *contentVectors) target(t *testing.T) (*world, *migration.Migration) {
	t.Helper()
	w := newWorld(t)
	w.Room.Join(v.User)
	w.addServer(v.Target)
	w.RestartWith(v.Target, func(d *delivery.Deps) { d.Keys = &vectorKeys{d.Keys, v.keys()} })
	offer := must(mimiport.UnmarshalMigrationResponse(v.Offer))(t)
	m := &migration.Migration{
		ID: offer.ID(), Role: migration.Target, State: migration.Offered, GroupID: offer.Request.GroupID, RoomID: v.RoomID,
		Source: v.Source, Target: v.Target, User: v.User, Epoch: offer.Request.Epoch,
		CreatedAt: w.now, ExpiresAt: w.now.Add(delivery.DefaultLimits().OfferLife),
		Response: migration.Signed{Message: v.Offer, KeyID: "ed25519:a"},
	}
	store := w.stores[v.Target]
	if err := store.Apply(t.Context(), &storage.Change{Migration: m}); err != nil {
		t.Fatal(err)
	}
	private := must(json.Marshal(seedOf("external sender")))(t)
	if err := store.PutSetting(t.Context(), "external-sender/mls10/Ed25519", private); err != nil {
		t.Fatal(err)
	}
	return w, m
}

func (v *contentVectors) keys() *prooftest.Keys {
	k := &prooftest.Keys{Published: map[string][]byte{}}
	for server, object := range v.Live {
		k.Published[server] = object
	}
	return k
}

// vectorKeys signs with the keys of a World, and also knows the keys of the vectors.
type vectorKeys struct {
	delivery.Keys
	published *prooftest.Keys
}

func (k *vectorKeys) Known(ctx context.Context, server string) (map[string]proof.Key, error) {
	return k.published.Known(ctx, server)
}

func (k *vectorKeys) Live(ctx context.Context, server string, ids []string) (map[string]proof.Key, error) {
	return k.published.Live(ctx, server, ids)
}

// expectStaged compares the target's group and the target's vote with the vector.
func (v *contentVectors) expectStaged(w *world, m *migration.Migration, want *stagedVector) {
	t := w.t
	t.Helper()
	g := must(w.stores[m.Target].GroupAt(t.Context(), storage.GroupKey{ID: m.GroupID, Term: want.Term}))(t)
	snap := must(w.stores[m.Target].Snapshot(t.Context(), g.Key(), want.Epoch))(t)
	engine := mls.RFC9420(mls.DefaultLimits())
	state := must(engine.Open(snap.GroupInfo, snap.RatchetTree))(t)
	if g.State != migration.GroupStaged || state.Epoch() != want.Epoch || !bytes.Equal(state.TreeHash(), want.TreeHash) ||
		!bytes.Equal(state.ConfirmedTranscriptHash(), want.Transcript) {
		t.Errorf("%s: epoch %d, tree hash %x, transcript hash %x", g.State, state.Epoch(), state.TreeHash(),
			state.ConfirmedTranscriptHash())
	}
	var senders []hexjson.Bytes
	for _, s := range state.ExternalSenders() {
		b := new(cryptobyte.Builder)
		wire.AddOpaque(b, s.SignatureKey)
		b.AddUint16(1)
		wire.AddOpaque(b, s.Identity)
		senders = append(senders, b.BytesOrPanic())
	}
	if !slices.EqualFunc(senders, want.ExternalSenders, func(a, b hexjson.Bytes) bool { return bytes.Equal(a, b) }) ||
		len(senders) > 0 && !bytes.Equal(senders[0], v.ExternalSender) {
		t.Errorf("external senders %x", senders)
	}
	var members []string
	for member := range state.Members() {
		members = append(members, must(registry.Identity(member))(t).UserID)
	}
	if !slices.Equal(members, want.Members) {
		t.Errorf("members %v", members)
	}
	rec := must(w.stores[m.Target].Migration(t.Context(), m.ID))(t)
	vote := must(mimiport.UnmarshalTargetMigrationComplete(rec.Complete.Message))(t)
	err := mimiport.Verify(vote, w.Key(m.Target).Public().(ed25519.PublicKey))
	if err != nil || !bytes.Equal(vote.ContentHash, want.ContentHash) {
		t.Errorf("the vote is for %x, %v", vote.ContentHash, err)
	}
}

// seedOf is the seed of a signer of the vectors.
func seedOf(signer string) []byte {
	seed := sha256.Sum256([]byte("mimiport test vector key " + signer)) // as in the README
	return seed[:]
}

// expectFormer shows the target the source's decision, and then compares the logs of former terms that the target
// serves with the vector. Every user with a Welcome reads the logs.
func (v *contentVectors) expectFormer(w *world, m *migration.Migration, want *stagedVector) {
	t := w.t
	t.Helper()
	offer := must(mimiport.UnmarshalMigrationResponse(v.Offer))(t)
	decision := &mimiport.MigrationConfirmation{DomainName: m.Target, Nonce: offer.Nonce, GroupID: m.GroupID}
	if err := mimiport.Sign(decision, ed25519.NewKeyFromSeed(seedOf("source"))); err != nil {
		t.Fatal(err)
	}
	target := w.services[m.Target]
	_, err := target.ConfirmMigration(t.Context(), caller(m.User), m.ID, &api.SignedRequest{
		Message: must(decision.Marshal())(t), KeyID: "ed25519:a",
	})
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[uint64]api.LogMessage)
	for _, user := range []string{v.User, "@erin:third.example", "@frank:third.example"} {
		w.Room.Join(user)
		term := want.Term - 1
		log := must(target.Messages(t.Context(), caller(user), m.GroupID, api.MessagesQuery{Term: &term}))(t)
		if log.Term != term || !log.End || log.Moved == nil || log.Moved.DeliveryService != m.Target {
			t.Errorf("the log of term %d: %+v", term, log)
		}
		for _, e := range log.Messages {
			got[e.Seq] = e
		}
	}
	for _, e := range want.Log {
		if g := got[e.Seq]; g.Epoch != e.Epoch || g.Kind != e.Kind || g.Sender != e.Sender {
			t.Errorf("number %d is %+v, want %+v", e.Seq, g, e)
		}
	}
	if len(got) != len(want.Log) {
		t.Errorf("%d messages, want %d", len(got), len(want.Log))
	}
}
