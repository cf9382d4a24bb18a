package mls

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/hexjson"
	"github.com/matrix-org/dendrite/contrib/mimi/internal/needs"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// tsClients is a process of clients on ts-mls: see testdata/tsmls.mjs.
type tsClients struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

type fields map[string]any

// answer is the answer to any command.
type answer struct {
	Error                                   string
	Context, Tree                           hexjson.Bytes
	Message, GroupInfo, Welcome, KeyPackage hexjson.Bytes
}

// startTS starts the clients.
func startTS(t *testing.T) *tsClients {
	t.Helper()
	cmd := exec.Command(needs.Client(t), filepath.Join("testdata", "tsmls.mjs"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	scanner := bufio.NewScanner(out)
	scanner.Buffer(nil, 16<<20)
	return &tsClients{t, in, scanner}
}

// try sends one command. The clients report a failure in the answer's Error.
func (c *tsClients) try(command string, args fields) (out answer) {
	c.t.Helper()
	args["command"] = command
	line, err := json.Marshal(args)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		c.t.Fatal(err)
	}
	if !c.out.Scan() {
		c.t.Fatalf("%s: no answer: %v", command, c.out.Err())
	}
	if err := json.Unmarshal(c.out.Bytes(), &out); err != nil {
		c.t.Fatal(err)
	}
	return out
}

// do sends one command, which must succeed.
func (c *tsClients) do(command string, args fields) answer {
	c.t.Helper()
	out := c.try(command, args)
	if out.Error != "" {
		c.t.Fatalf("%s: %s", command, out.Error)
	}
	return out
}

// duet takes a group through random changes. An engine and ts-mls clients follow them. Some members are synthetic: they
// have no secrets and can only propose.
type duet struct {
	*tsClients
	random    *rand.Rand
	suite     uint16
	ds        *mlstest.Client
	engine    Group
	live      []string                   // the clients in the group
	clients   map[string]string          // names by identity
	synthetic map[string]*mlstest.Client // by identity
	count     map[string]int             // how often each change was made
}

func TestDifferential(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprintf("seed%d", seed), func(t *testing.T) {
			d := newDuet(t, seed)
			d.adds()
			for range 40 {
				d.step()
			}
			t.Logf("%d members at the end of %v", d.engine.NumMembers(), d.count)
		})
	}
}

func newDuet(t *testing.T, seed uint64) *duet {
	suite := uint16(1 + 2*(seed%2))
	d := &duet{
		tsClients: startTS(t), random: rand.New(rand.NewPCG(seed, 1)), suite: suite,
		ds:      mlstest.NewClient(seed, suite, []byte("example.org")),
		clients: make(map[string]string), synthetic: make(map[string]*mlstest.Client), count: make(map[string]int),
	}
	founder := d.name()
	first := d.do("create", fields{
		"name": founder, "group": "0a0b", "suite": suite,
		"sender": fields{"key": hexOf(d.ds.SignatureKey()), "identity": hexOf([]byte("example.org"))},
	})
	g, err := RFC9420(DefaultLimits()).Open(first.GroupInfo, first.Tree)
	if err != nil {
		t.Fatal(err)
	}
	d.engine, d.live = g, []string{founder}
	d.agree(first)
	return d
}

var hexOf = hex.EncodeToString

// agree checks that a client and the engine have the same group, byte for byte.
func (d *duet) agree(a answer) {
	d.t.Helper()
	if want := d.engine.(*group).encodedContext; !bytes.Equal(a.Context, want) {
		d.t.Fatalf("the group context is\n%x for the client and\n%x for the engine", a.Context, want)
	}
	if want := d.engine.RatchetTree(); !bytes.Equal(a.Tree, want) {
		d.t.Fatalf("the tree is\n%x for the client and\n%x for the engine", a.Tree, want)
	}
}

// name makes a name for a new client.
func (d *duet) name() string {
	name := fmt.Sprintf("client%d", len(d.clients))
	d.clients[string(mlstest.Identity("@"+name+":ts.example", "TS"))] = name
	return name
}

func (d *duet) someone() string { return d.live[d.random.IntN(len(d.live))] }

func (d *duet) step() {
	d.t.Helper()
	steps := []struct {
		name string
		do   func()
	}{
		{"commits", func() { d.commits(d.someone()) }},
		{"commits", func() { d.commits(d.someone()) }},
		{"adds", d.adds},
		{"updates", d.proposesUpdate},
		{"updates", d.proposesUpdate},
		{"proposed removes", d.proposesRemove},
		{"external removes", d.proposesExternally},
		{"proposed adds", d.proposesAdd},
		{"external joins", d.enters},
		{"resyncs", d.resyncs},
		{"offences", d.offends},
		{"forgeries", d.forges},
	}
	s := steps[d.random.IntN(len(steps))]
	d.count[s.name]++
	s.do()
}

// keyPackage makes a key package of a new member, a client or a synthetic one.
func (d *duet) keyPackage() string {
	if d.random.IntN(2) == 0 {
		return hexOf(d.do("keyPackage", fields{"name": d.name(), "suite": d.suite}).KeyPackage)
	}
	identity := mlstest.Identity(fmt.Sprintf("@synthetic%d:example.org", len(d.synthetic)), "NONE")
	c := mlstest.NewClient(d.random.Uint64(), d.suite, identity)
	d.synthetic[string(identity)] = c
	return hexOf(c.KeyPackage())
}

// outsider returns the leaf of a random member that is none of the named clients. It returns false when there is none.
func (d *duet) outsider(names ...string) (uint32, bool) {
	var leaves []uint32
	for m := range d.engine.Members() {
		if !slices.Contains(names, d.clients[string(m.Identity)]) {
			leaves = append(leaves, m.Leaf)
		}
	}
	if len(leaves) == 0 {
		return 0, false
	}
	return leaves[d.random.IntN(len(leaves))], true
}

// commits makes a Commit of all pending proposals and of some proposals by value.
func (d *duet) commits(sender string, proposals ...fields) {
	d.t.Helper()
	c := d.do("commit", fields{"name": sender, "proposals": append([]fields{}, proposals...), "aad": "aad0"})
	d.merge(sender, c)
}

func (d *duet) adds() {
	d.t.Helper()
	d.commits(d.someone(), fields{"add": d.keyPackage()}, fields{"add": d.keyPackage()})
}

// sends first tries mutants of a proposal. Then it gives the proposal to the engine and, if the engine accepts it, to
// all clients.
func (d *duet) sends(sender string, message []byte) {
	d.t.Helper()
	d.judge(sender, message, func(g Group, message []byte) error {
		_, _, err := g.Propose(message)
		return err
	})
	next, _, err := d.engine.Propose(message)
	if rule := ruleOf(err); err != nil && (rule == ruleTogether.name || rule == ruleNoCommitter.name) {
		d.count["not beside the others"]++ // a client checks this only when it commits, so no client may get the proposal
		return
	} else if err != nil {
		d.t.Fatal(err)
	}
	d.engine = next
	if sender != "" {
		d.do("accept", fields{"name": sender})
	}
	for _, name := range d.live {
		if name != sender {
			d.do("process", fields{"name": name, "message": hexOf(message)})
		}
	}
}

func (d *duet) proposes(p fields) {
	d.t.Helper()
	p["name"] = d.someone()
	d.sends(p["name"].(string), d.do("propose", p).Message)
}

func (d *duet) proposesAdd() { d.proposes(fields{"add": d.keyPackage()}) }

func (d *duet) proposesRemove() {
	if leaf, ok := d.outsider(); ok {
		d.proposes(fields{"remove": leaf})
	}
}

// follow makes the group as the synthetic members see it, and lists their leaves.
func (d *duet) follow() (g *mlstest.Group, leaves []uint32) {
	members := make(map[uint32]*mlstest.Client)
	for m := range d.engine.Members() {
		if c := d.synthetic[string(m.Identity)]; c != nil {
			members[m.Leaf] = c
			leaves = append(leaves, m.Leaf)
		}
	}
	return mlstest.Follow(d.random.Uint64(), d.engine.(*group).encodedContext, members), leaves
}

func (d *duet) proposesUpdate() {
	g, leaves := d.follow()
	if len(leaves) == 0 {
		return
	}
	leaf := leaves[d.random.IntN(len(leaves))]
	message := hexOf(g.Propose(leaf, g.Update(leaf)))
	d.sends("", d.do("tag", fields{"name": d.someone(), "message": message}).Message)
}

func (d *duet) proposesExternally() {
	if leaf, ok := d.outsider(); ok {
		g, _ := d.follow()
		d.sends("", g.ProposeExternal(0, d.ds, g.Remove(leaf)))
	}
}

func (d *duet) entersAs(name string) {
	d.t.Helper()
	c := d.do("external", fields{
		"name": name, "suite": d.suite, "groupInfo": hexOf(d.engine.GroupInfo()), "tree": hexOf(d.engine.RatchetTree()),
	})
	d.merge(name, c)
}

func (d *duet) enters()  { d.entersAs(d.name()) }
func (d *duet) resyncs() { d.entersAs(d.someone()) }

// merge first tries mutants of a Commit. Then it gives the Commit to the engine and to all clients.
func (d *duet) merge(sender string, c answer) {
	d.t.Helper()
	d.judge(sender, c.Message, func(g Group, message []byte) error {
		_, _, err := g.Commit(message, c.GroupInfo)
		return err
	})
	next, effects, err := d.engine.Commit(c.Message, c.GroupInfo)
	if err != nil {
		d.t.Fatal(err)
	}
	d.engine = next
	d.agree(d.do("accept", fields{"name": sender}))
	present := make(map[string]bool)
	for m := range next.Members() {
		present[d.clients[string(m.Identity)]] = true
	}
	d.live = slices.DeleteFunc(d.live, func(name string) bool { return name == sender || !present[name] })
	for _, name := range d.live {
		d.agree(d.do("process", fields{"name": name, "message": hexOf(c.Message)}))
	}
	d.live = append(d.live, sender)
	for _, m := range effects.Added {
		if name := d.clients[string(m.Identity)]; name != "" {
			d.agree(d.do("join", fields{"name": name, "welcome": hexOf(c.Welcome)}))
			d.live = append(d.live, name)
		}
	}
}

// judge gives mutants of a message to the engine and to a client that did not send the message. Both must refuse each
// mutant, unless a disagreement explains why one accepts it.
func (d *duet) judge(sender string, message []byte, engine func(Group, []byte) error) {
	d.t.Helper()
	i := slices.IndexFunc(d.live, func(name string) bool { return name != sender })
	if i < 0 {
		return
	}
	for range 6 {
		mutant := d.mutant(message)
		theirs := d.try("judge", fields{"name": d.live[i], "message": hexOf(mutant)}).Error
		d.compare(message, mutant, engine(d.engine, mutant), theirs)
	}
}

// compare counts the answers of engine and client to a mutant. It fails when they differ and no disagreement explains
// it.
func (d *duet) compare(message, mutant []byte, ours error, theirs string) {
	d.t.Helper()
	d.count["mutants"]++
	if (ours == nil) == (theirs == "") {
		return
	}
	d.count["disagreements"]++
	if !slices.ContainsFunc(disagreements, func(row disagreement) bool {
		return row.accepted == (ours == nil) && row.explains(message, mutant)
	}) {
		d.t.Errorf("the engine says %v, the client %q of\n%x, made of\n%x", ours, theirs, mutant, message)
	}
}

// offends has a synthetic member sign proposals that nobody may commit. The engine must refuse each.
func (d *duet) offends() {
	g, leaves := d.follow()
	if len(leaves) == 0 {
		return
	}
	leaf := leaves[d.random.IntN(len(leaves))]
	psk, update := g.PSK([]byte("psk")), g.Update(leaf)
	psk.PSK.Nonce = nil
	update.Update.Signature = flip(update.Update.Signature)
	init := &mlstest.Proposal{Type: ProposalExternalInit, KEMOutput: []byte("kem")}
	for _, p := range []*mlstest.Proposal{g.Remove(1 << 20), psk, update, init} {
		name := d.someone()
		message := d.do("tag", fields{"name": name, "message": hexOf(g.Propose(leaf, p))}).Message
		_, _, err := d.engine.Propose(message)
		if err == nil {
			d.t.Errorf("the engine accepts %x", message)
		}
		d.compare(nil, message, err, d.try("judge", fields{"name": name, "message": hexOf(message)}).Error)
	}
}

// forges has a client make Commits of lists that nobody may commit, each with the GroupInfo of its next epoch.
func (d *duet) forges() {
	if len(d.live) < 2 {
		return
	}
	by, other := d.live[0], d.live[1]
	leaf, ok := d.outsider(by, other)
	if !ok {
		return
	}
	var self uint32
	for m := range d.engine.Members() {
		if d.clients[string(m.Identity)] == by {
			self = m.Leaf
		}
	}
	add := fields{"add": d.keyPackage()}
	for name, f := range map[string]fields{
		// shows that the engine refuses the others for their offence
		"no offence":         {"proposals": []fields{{"remove": leaf}, add}},
		"removes itself":     {"proposals": []fields{{"remove": self}}},
		"removes twice":      {"proposals": []fields{{"remove": leaf}, {"remove": leaf}}},
		"removes nobody":     {"proposals": []fields{{"remove": 1 << 20}}},
		"adds twice":         {"proposals": []fields{add, add}},
		"has no such member": {"proposals": []fields{}, "reference": hexOf(key(1))},
		"enters from inside": {"proposals": []fields{{"init": hexOf(key(1))}}},
	} {
		f["name"] = by
		c := d.do("forge", f)
		_, _, err := d.engine.Commit(c.Message, c.GroupInfo)
		if (err == nil) != (name == "no offence") {
			d.t.Errorf("%s: %v", name, err)
		}
		d.compare(nil, c.Message, err, d.try("judge", fields{"name": other, "message": hexOf(c.Message)}).Error)
	}
}

// mutant makes one small change to a copy of a message.
func (d *duet) mutant(message []byte) []byte {
	out := bytes.Clone(message)
	at := d.random.IntN(len(out))
	switch d.random.IntN(8) {
	case 0:
		return out[:at]
	case 1:
		return append(out, byte(at))
	case 2: // near the end: tags and signature
		at = len(out) - 1 - d.random.IntN(min(130, len(out)))
	}
	out[at] ^= 1 << d.random.IntN(8)
	return out
}

// disagreement explains why the engine and ts-mls may judge a mutant differently.
type disagreement struct {
	accepted bool   // the engine accepts the mutant
	rfc      string // the reason, with a quotation of RFC 9420
	explains func(message, mutant []byte) bool
}

var disagreements = []disagreement{{
	accepted: true,
	rfc: "6.2: \"When decoding a PublicMessage into an AuthenticatedContent, the application MUST check " +
		"membership_tag and MUST check that the FramedContentAuthData is valid.\" The key of the tag is the " +
		"membership_key, a secret of the group.",
	explains: func(message, mutant []byte) bool { // only the membership tag differs
		var a, b rfc9420.Message
		return rfc9420.Unmarshal(message, &a) && rfc9420.Unmarshal(mutant, &b) && a.Public != nil && b.Public != nil &&
			bytes.Equal(a.Public.Raw, b.Public.Raw) && !bytes.Equal(a.Public.MembershipTag, b.Public.MembershipTag)
	},
}, {
	accepted: false,
	rfc: "12.1: \"On receiving a FramedContent containing a Proposal, a client MUST verify the signature inside " +
		"FramedContentAuthData and that the epoch field of the enclosing FramedContent is equal to the epoch field " +
		"of the current GroupContext object.\" A client need not check more before a Commit. A Delivery Service " +
		"that kept such a proposal would only waste its quota.",
	explains: func(message, mutant []byte) bool { // not a mutant: its sender signed this proposal
		var m rfc9420.Message
		return message == nil && rfc9420.Unmarshal(mutant, &m) && m.Public != nil &&
			m.Public.Content.ContentType == rfc9420.ContentProposal
	},
}}
