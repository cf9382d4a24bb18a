package mimiport

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func draw[M any](t *rapid.T, gen func(*rapid.T) M) *M {
	m := gen(t)
	return &m
}

func genBytes(t *rapid.T) []byte   { return rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bytes") }
func genMessage(t *rapid.T) []byte { return rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "message") }
func genName(t *rapid.T) string    { return rapid.StringN(0, 80, 255).Draw(t, "name") }
func genText(t *rapid.T) string    { return rapid.StringN(1, 80, 255).Draw(t, "text") }
func genEpoch(t *rapid.T) uint64   { return rapid.Uint64Range(0, MaxEpoch).Draw(t, "epoch") }
func genNonce(t *rapid.T) Nonce {
	return Nonce(rapid.SliceOfN(rapid.Byte(), NonceSize, NonceSize).Draw(t, "nonce"))
}

func genList[M any](t *rapid.T, gen func(*rapid.T) M) []M {
	return rapid.SliceOfN(rapid.Custom(gen), 0, 4).Draw(t, "list")
}

func genRequest(t *rapid.T) MigrationRequest {
	return MigrationRequest{genName(t), genName(t), genBytes(t), genEpoch(t)}
}

func genResponse(t *rapid.T) MigrationResponse {
	return MigrationResponse{genRequest(t), genNonce(t), genBytes(t)}
}

func genInit(t *rapid.T) MigrationInit { return MigrationInit{genResponse(t), genBytes(t)} }

func genAAD(t *rapid.T) MigrationCommitAAD { return MigrationCommitAAD{genName(t)} }

func genContent(t *rapid.T) MigrationContent {
	return MigrationContent{genResponse(t), genBytes(t), genBytes(t)}
}

func genComplete(t *rapid.T) TargetMigrationComplete {
	return TargetMigrationComplete{genBytes(t), genBytes(t)}
}

func genVote(t *rapid.T) MigrationVote {
	return MigrationVote{MigrationID(genNonce(t)), genEpoch(t), genBytes(t), genBytes(t)}
}

func genConfirmation(t *rapid.T) MigrationConfirmation {
	return MigrationConfirmation{genName(t), genNonce(t), genBytes(t), genBytes(t)}
}

func genAbort(t *rapid.T) MigrationAbort {
	return MigrationAbort{MigrationID(genNonce(t)), genName(t), genBytes(t)}
}

func genIdentity(t *rapid.T) LeafIdentity {
	return LeafIdentity{genText(t), genText(t)}
}

func genSigned(t *rapid.T) SignedMessage {
	return SignedMessage{genMessage(t), genText(t), genBytes(t)}
}

func genStep(t *rapid.T) LineageStep {
	kind := rapid.SampledFrom([]StepKind{StepMigration, StepReclaim, StepRecover}).Draw(t, "kind")
	if kind != StepMigration {
		claim := genSigned(t)
		return LineageStep{Kind: kind, Claim: &claim}
	}
	step := LineageStep{Kind: kind, Response: genSigned(t), Confirmation: genSigned(t)}
	if rapid.Bool().Draw(t, "voted") {
		step.Vote = genSigned(t)
	}
	return step
}

func genSenderOffer(t *rapid.T) ExternalSenderOffer {
	return ExternalSenderOffer{MigrationID(genNonce(t)), genMessage(t), genBytes(t)}
}

func genMoveRequest(t *rapid.T) MoveRequest {
	return MoveRequest{
		SourceDomain: genName(t), GroupID: genBytes(t), Term: genEpoch(t), RoomID: genName(t), UserID: genName(t),
		Targets:   rapid.SliceOfN(rapid.Custom(genName), 0, MaxMoveTargets).Draw(t, "targets"),
		ExpiresAt: genEpoch(t), Signature: genBytes(t),
	}
}

func genClaim(t *rapid.T) LineageClaim {
	return LineageClaim{
		Kind: rapid.SampledFrom([]StepKind{StepReclaim, StepRecover}).Draw(t, "kind"), DomainName: genName(t),
		GroupID: genBytes(t), Term: genEpoch(t), Epoch: genEpoch(t), Signature: genBytes(t),
	}
}

func genReceipt(t *rapid.T) CommitReceipt {
	return CommitReceipt{genBytes(t), genEpoch(t), genEpoch(t), genEpoch(t), genNonce(t), genBytes(t)}
}

func genDirect(t *rapid.T) DirectRequest {
	return DirectRequest{
		Service: genName(t), Method: genName(t), URI: genName(t), BodyHash: genNonce(t), UserID: genName(t),
		DeviceID: genName(t), Time: genEpoch(t), Nonce: genNonce(t), Signature: genBytes(t),
	}
}

func genLineage(t *rapid.T) Lineage {
	l := Lineage{CreatingServer: genName(t), RoomID: genName(t), Steps: genList(t, genStep)}
	if rapid.Bool().Draw(t, "native") {
		l.Preimage = &GroupIDPreimage{l.CreatingServer, genName(t), genNonce(t)}
	}
	return l
}

func genJoiners(t *rapid.T) Joiners {
	return Joiners{genEpoch(t), genBytes(t), genMessage(t), genList(t, genIdentity)}
}

func genLogEntry(t *rapid.T) LogEntry {
	e := LogEntry{Term: genEpoch(t), Seq: genEpoch(t) | 1, Epoch: genEpoch(t), Sender: genName(t), Message: genMessage(t)}
	if rapid.Bool().Draw(t, "receipt") {
		e.Receipt, e.ReceiptKeyID = genMessage(t), "ed25519:a"
	}
	return e
}

// genLog draws a log whose entries are in order.
func genLog(t *rapid.T) []LogEntry {
	log := genList(t, genLogEntry)
	slices.SortFunc(log, func(a, b LogEntry) int {
		return cmp.Or(cmp.Compare(a.Term, b.Term), cmp.Compare(a.Seq, b.Seq))
	})
	log = slices.CompactFunc(log, func(a, b LogEntry) bool { return a.Term == b.Term && a.Seq == b.Seq })
	epochs := make([]uint64, len(log))
	for i := range log {
		epochs[i] = log[i].Epoch
	}
	slices.Sort(epochs)
	for i := range log {
		log[i].Epoch = epochs[i]
	}
	return log
}

// genWelcomes draws Welcomes that are in order.
func genWelcomes(t *rapid.T) []Joiners {
	welcomes := genList(t, genJoiners)
	slices.SortFunc(welcomes, func(a, b Joiners) int { return cmp.Compare(a.Epoch, b.Epoch) })
	return slices.CompactFunc(welcomes, func(a, b Joiners) bool { return a.Epoch == b.Epoch })
}

func genFormer(t *rapid.T) Former { return Former{genLog(t), genWelcomes(t)} }

func genUnknown(t *rapid.T) Section {
	return Section{SectionType(rapid.Uint16Range(7, 0x7fff).Draw(t, "type")), genBytes(t)}
}

func genGroupState(t *rapid.T) GroupState {
	g := GroupState{
		Base:      BaseState{genName(t), genMessage(t), genBytes(t)},
		Commit:    CommitState{genMessage(t), genMessage(t)},
		Proposals: genList(t, genMessage),
		Lineage:   genLineage(t),
		Welcomes:  genWelcomes(t),
		Log:       genLog(t),
		Unknown:   genList(t, genUnknown),
	}
	slices.SortFunc(g.Unknown, func(a, b Section) int { return cmp.Compare(a.Type, b.Type) })
	g.Unknown = slices.CompactFunc(g.Unknown, func(a, b Section) bool { return a.Type == b.Type })
	return g
}

type marshaler interface{ Marshal() ([]byte, error) }

// codecs has a generator and a decoder for every structure.
var codecs = []struct {
	name   string
	draw   func(*rapid.T) marshaler
	decode func([]byte) (marshaler, error)
}{
	{"MigrationRequest", drawn(genRequest), decoder(UnmarshalMigrationRequest)},
	{"MigrationResponse", drawn(genResponse), decoder(UnmarshalMigrationResponse)},
	{"MigrationInit", drawn(genInit), decoder(UnmarshalMigrationInit)},
	{"MigrationCommitAAD", drawn(genAAD), decoder(UnmarshalMigrationCommitAAD)},
	{"MigrationContent", drawn(genContent), decoder(UnmarshalMigrationContent)},
	{"TargetMigrationComplete", drawn(genComplete), decoder(UnmarshalTargetMigrationComplete)},
	{"MigrationVote", drawn(genVote), decoder(UnmarshalMigrationVote)},
	{"MigrationConfirmation", drawn(genConfirmation), decoder(UnmarshalMigrationConfirmation)},
	{"MigrationAbort", drawn(genAbort), decoder(UnmarshalMigrationAbort)},
	{"LeafIdentity", drawn(genIdentity), decoder(UnmarshalLeafIdentity)},
	{"Former", drawn(genFormer), decoder(UnmarshalFormer)},
	{"LineageStep", drawn(genStep), decoder(UnmarshalLineageStep)},
	{"LineageClaim", drawn(genClaim), decoder(UnmarshalLineageClaim)},
	{"CommitReceipt", drawn(genReceipt), decoder(UnmarshalCommitReceipt)},
	{"DirectRequest", drawn(genDirect), decoder(UnmarshalDirectRequest)},
	{"ExternalSenderOffer", drawn(genSenderOffer), decoder(UnmarshalExternalSenderOffer)},
	{"MoveRequest", drawn(genMoveRequest), decoder(UnmarshalMoveRequest)},
	{"Lineage", drawn(genLineage), decoder(UnmarshalLineage)},
	{"GroupState", drawn(genGroupState), decoder(UnmarshalGroupState)},
}

func drawn[M any, P interface {
	*M
	marshaler
}](gen func(*rapid.T) M) func(*rapid.T) marshaler {
	return func(t *rapid.T) marshaler { return P(draw(t, gen)) }
}

func decoder[M marshaler](unmarshal func([]byte) (M, error)) func([]byte) (marshaler, error) {
	return func(data []byte) (marshaler, error) { return unmarshal(data) }
}

// TestRoundTrip: every value encodes, and decodes to a value that encodes identically. Neither a part of the encoding
// nor the encoding with more bytes decodes.
func TestRoundTrip(t *testing.T) {
	for _, c := range codecs {
		t.Run(c.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				want, err := c.draw(t).Marshal()
				if err != nil {
					t.Fatal(err)
				}
				m, err := c.decode(want)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := m.Marshal(); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%x encodes to %x, %v", want, got, err)
				}
				cut := rapid.IntRange(0, len(want)-1).Draw(t, "cut")
				for _, bad := range [][]byte{want[:cut], append(want[:len(want):len(want)], 0)} {
					if _, err := c.decode(bad); KindOf(err) != KindBadMessage {
						t.Fatalf("%d of %d bytes: %v", len(bad), len(want), err)
					}
				}
			})
		})
	}
}

// FuzzDecode: a structure that decodes encodes to the same bytes. Any other input gives a typed error.
func FuzzDecode(f *testing.F) {
	for i, c := range codecs {
		gen := rapid.Custom(c.draw)
		for seed := range 3 {
			if data, err := gen.Example(seed).Marshal(); err == nil {
				f.Add(uint8(i), data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, i uint8, data []byte) {
		c := codecs[int(i)%len(codecs)]
		m, err := c.decode(data)
		if err != nil {
			if kind := KindOf(err); kind != KindBadMessage && kind != KindUnsupported {
				t.Fatalf("%s: kind %d: %v", c.name, kind, err)
			}
			return
		}
		if got, err := m.Marshal(); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%s: %x encodes to %x, %v", c.name, data, got, err)
		}
		if r, ok := m.(*MigrationRequest); ok && r.Validate() != nil && KindOf(r.Validate()) != KindBadMessage {
			t.Fatal(r.Validate())
		}
	})
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// liveAfter returns by how many bytes f makes the live heap grow.
func liveAfter(f func()) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

// TestDecodingIsBounded: the decoder allocates nothing for a length before it has checked the length. The worst lists
// take at most 16 times their size, or 24 MiB.
func TestDecodingIsBounded(t *testing.T) {
	for _, c := range codecs {
		if n := allocated(func() { c.decode([]byte{0xbf, 0xff, 0xff, 0xff}) }); n > 1<<14 {
			t.Errorf("%s: four bytes allocate %d", c.name, n)
		}
		if n := allocated(func() { c.decode([]byte{0x00, 0x01, 0xbf, 0xff, 0xff, 0xff}) }); n > 1<<14 {
			t.Errorf("%s: six bytes allocate %d", c.name, n)
		}
	}
	for name, g := range worstLists(maxElements) {
		data, err := g.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var got *GroupState
		live := liveAfter(func() { got, err = UnmarshalGroupState(data) })
		if err != nil || live > max(16*int64(len(data)), 24<<20) {
			t.Errorf("%s: %d bytes take %d (%v)", name, len(data), live, err)
		}
		runtime.KeepAlive(got)
	}
	for name, g := range worstLists(maxElements + 1) {
		data, err := g.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := UnmarshalGroupState(data); KindOf(err) != KindBadMessage {
			t.Errorf("%s of %d: %v", name, maxElements+1, err)
		}
	}
}

// worstLists makes group states that each have one list of n elements of the shortest form.
func worstLists(n int) map[string]*GroupState {
	with := func(change func(*GroupState)) *GroupState {
		g := &GroupState{Base: BaseState{GroupInfo: []byte{0}}, Commit: CommitState{[]byte{0}, []byte{0}}}
		change(g)
		return g
	}
	signed := SignedMessage{Message: []byte{0}, KeyID: "a"}
	return map[string]*GroupState{
		"proposals": with(func(g *GroupState) { g.Proposals = slices.Repeat([][]byte{{0}}, n) }),
		"log": with(func(g *GroupState) {
			for i := range n {
				g.Log = append(g.Log, LogEntry{Seq: uint64(i) + 1, Message: []byte{0}})
			}
		}),
		"steps": with(func(g *GroupState) {
			g.Lineage.Steps = slices.Repeat(
				[]LineageStep{{Kind: StepMigration, Response: signed, Confirmation: signed, Vote: signed}}, n,
			)
		}),
		"claims": with(func(g *GroupState) {
			for range n {
				g.Lineage.Steps = append(g.Lineage.Steps, LineageStep{Kind: StepReclaim, Claim: &signed})
			}
		}),
		"joiners": with(func(g *GroupState) {
			g.Welcomes = []Joiners{{Welcome: []byte{0}, Identities: slices.Repeat([]LeafIdentity{{"u", "d"}}, n)}}
		}),
	}
}

func TestValidateRequest(t *testing.T) {
	valid := MigrationRequest{"a.example", "b.example:8448", []byte{0}, MaxEpoch}
	if err := valid.Validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*MigrationRequest){
		"source":       func(m *MigrationRequest) { m.SourceDomain = "a b" },
		"target":       func(m *MigrationRequest) { m.TargetDomain = "" },
		"same":         func(m *MigrationRequest) { m.TargetDomain = m.SourceDomain },
		"no group id":  func(m *MigrationRequest) { m.GroupID = nil },
		"long id":      func(m *MigrationRequest) { m.GroupID = make([]byte, MaxGroupID+1) },
		"epoch":        func(m *MigrationRequest) { m.Epoch = MaxEpoch + 1 },
		"invalid UTF8": func(m *MigrationRequest) { m.SourceDomain = "\xff.example" },
	} {
		m := valid
		change(&m)
		if err := m.Validate(); KindOf(err) != KindBadMessage {
			t.Errorf("%s: %v", name, err)
		}
	}
	sameButForCase := MigrationRequest{"a.example", "A.example", []byte{0}, 0}
	if err := sameButForCase.Validate(); err != nil {
		t.Errorf("names are compared byte for byte: %v", err)
	}
}

func TestError(t *testing.T) {
	cause := errors.New("cause")
	err := &Error{Op: "submit", Kind: KindInvalid, Group: []byte{0xff, 0xfe}, Err: cause}
	err.Info = Info{Rule: "ValSem201", RetryAfter: time.Second}
	if got, want := err.Error(), "submit (group __4): ValSem201: cause"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	wrapped := fmt.Errorf("outer: %w", err)
	if !errors.Is(wrapped, cause) || KindOf(wrapped) != KindInvalid || KindOf(cause) != KindInternal ||
		KindOf(nil) != KindInternal {
		t.Error("the kind or the cause is lost")
	}
}
