package adversary

import (
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// attack is one row of the table: a new attack is a new row.
type attack struct {
	name string
	who  string // the attacker
	rule string // the rule that the attack tests
	// play attacks alice's group at a, and checks the answers. after checks the group afterwards; nil means goesOn.
	play  func(*testing.T, *group)
	after func(*testing.T, *group)
	open  string // why the attack still succeeds; the test then prints open and plays nothing
}

// attacks are the attacks, in the order of play.
var attacks = []attack{
	{
		name: "reclaim of a group that has never moved", who: "member of power 0, or a server in the room",
		rule: "a reclaim needs a former host; a server checks a name before its key, and a refused name is no dead server",
		play: reclaimNeverMoved,
	},
	{
		name: "reclaim by a former host that is down", who: "member of power 0",
		rule: "a key object that comes with a claim ends no hosting",
		play: reclaimForDownHost,
	},
	{
		name: "recover of a live group", who: "a member's own server",
		rule: "accept_claims is for imports; a healthy host stops only for a claim that the room supports",
		play: recoverLive,
	},
	{
		name: "import of another group's id", who: "user of the target",
		rule: "a foreign id needs the room's binding, and gives way to the group that has its preimage",
		play: squatID,
	},
	{
		name: "Commits of epochs to come", who: "two members of power 0",
		rule: "a handshake message of a later epoch without a receipt only alarms the operator",
		play: laterEpochs,
	},
	{
		name: "decision by a key that expired a year ago", who: "thief of an old key of the source",
		rule: "a key counts only for the time in which it was valid",
		play: expiredKey,
	},
	{
		name: "an archive without preimage and keys", who: "the source",
		rule: "a server keeps its own records, and never loses a preimage",
		play: poorArchive, after: archiveIsWhole,
	},
	{
		name: "a status with term 2^53-1", who: "the source",
		rule: "the pointer holds only terms that signatures prove, and a server is bound by its own",
		play: hugeTerm, after: boundByItsWord,
	},
	{
		name: "a backup made while the group was away", who: "a restored host",
		rule: "a restored host stops at a later term that leads back to it, and says so",
		play: restoredWhileAway, after: goesOnClaimed,
	},
	{
		name: "two recovers into one term", who: "two operators",
		rule: "all servers choose the same of two chains; the room's pointer decides",
		play: twoRecovers, after: goesOnClaimed,
	},
	{
		name: "another group's vote beside an old offer", who: "a former host",
		rule: "a vote counts only for the migration that it names",
		play: borrowedVote, after: goesOnClaimed,
	},
	{
		name: "a recover shown to a target that has voted", who: "member of power 0",
		rule: "only the source's signature, the room or the operator ends a staged migration",
		play: recoverShownToStaged,
	},
	{
		name: "the room's word for a claim of one's own", who: "member of power 0",
		rule: "a pointer counts only if its sender has the power to move the group",
		play: forgedPointer,
	},
	{
		name: "a successor's claim to a healthy host", who: "a server that the room lists",
		rule: "a successor may take a lost group, not a healthy one",
		play: succeedHealthy,
	},
	{
		name: "another server's receipt", who: "member of power 0",
		rule: "a receipt counts only in the present term, under a key of the host",
		play: forgedReceipt,
	},
	{
		name: "a hand-over by a server that is not the host", who: "a server in the room",
		rule: "the chain of hosts ends at the source",
		play: foreignHandOver,
	},
	{
		name: "two contents for one offer, and both outcomes", who: "the source",
		rule: "the first content stays; a confirmation wins over an abort; both pairs are evidence",
		play: secondContent,
	},
	{
		name: "12 sources and 1,000 servers that never answer", who: "remote servers",
		rule: "rows that dial a server wait for that server only",
		play: silentHosts,
	},
	{
		name: "200 uploads of 64 MiB that send nothing", who: "remote server",
		rule: "all bodies share one budget of memory, and take it only as they arrive",
		play: idleUploads,
	},
	{
		name: "300 offers at once, 400 reservations at once", who: "local user",
		rule: "a quota is counted in the transaction that stores the row",
		play: quotaRaces,
	},
	{
		name: "a lineage with 1,000 signers", who: "member of power 0",
		rule: "a server asks at most 8 servers for the keys of one message, and remembers failures",
		play: manySigners,
	},
	{
		name: "a refusal of 7 MB with control characters", who: "the target",
		rule: "a server clips text of a peer before it stores it, logs it or passes it on",
		play: longRefusal,
	},
	{
		name: "bad content again and again", who: "the source",
		rule: "the third refused content ends the offer",
		play: badContents,
	},
	{
		name: "users of a server that the room's ACL denies", who: "members on a denied server",
		rule: "every route applies the ACL, which matches whole names without regard to case",
		play: deniedServer,
	},
	{
		name: "a leaf that becomes somebody else", who: "member of power 0",
		rule: "the successor of a leaf has the same user and device",
		play: renameLeaf,
	},
	{
		name: "one device with two leaves", who: "member of power 0",
		rule: "a group has one leaf for a device",
		play: secondLeaf,
	},
	{
		name: "a ghost in another's name", who: "member of power 0",
		rule: "a leaf has the key that its device publishes",
		play: ghost,
	},
	{
		name: "power 0 removes the creator", who: "member of power 0",
		rule: "removing a leaf of another user takes the power to kick in the room",
		play: removeCreator,
	},
	{
		name: "power 0 ends the group", who: "member of power 0",
		rule: "ReInit and GroupContextExtensions take the power to point the room to the group",
		play: endGroup,
	},
	{
		name: "poison proposals", who: "member of power 0",
		rule: "the host refuses a proposal that no Commit could carry out",
		play: poison,
	},
	{
		name: "a kicked member with an Update pending", who: "member of power 0",
		rule: "the host's own Remove wins over an Update",
		play: preparedLeaver, after: malloryIsOut,
	},
	{
		name: "three aborts by one member", who: "member who may move the group",
		rule: "aborts are counted for the group and the user",
		play: threeAborts,
	},
	{
		name: "lists of successors that do not count, for a host that was out for a day", who: "member of power 0",
		rule: "a list counts for one room and group, and its sender needs the power to send the pointer",
		play: voidSuccessors,
	},
}

func TestAdversary(t *testing.T)           { playAll(t, harness.NewTestNetwork(t)) }
func TestAdversaryOnPostgres(t *testing.T) { playAll(t, harness.NewPostgresNetwork(t)) }

// playAll plays each attack on a group of its own, on the same homeservers.
func playAll(t *testing.T, n *harness.TestNetwork) {
	x := newArena(t, n)
	for i := range attacks {
		a := &attacks[i]
		if a.open != "" {
			t.Logf("KNOWN TO SUCCEED: %s, by %s: %s", a.name, a.who, a.open)
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			start := time.Now()
			g := x.newGroup(t)
			t.Run("attack", func(t *testing.T) { a.play(t, g) }) // its cleanup ends before after begins
			after := a.after
			if after == nil {
				after = goesOn
			}
			after(t, g)
			t.Logf("%s by %s: %.1f s", a.rule, a.who, time.Since(start).Seconds())
		})
	}
	for _, s := range []*harness.Server{x.a, x.b} {
		logPeak(t, s, "at the end")
	}
}
