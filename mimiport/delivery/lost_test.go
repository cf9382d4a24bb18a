package delivery_test

import (
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

var (
	said    = api.Lost{Said: true}
	insists = api.Lost{Said: true, AlthoughItAnswers: true}
)

// expectRefused checks that an operator's word does not suffice, and that the error says what was found.
func expectRefused(t *testing.T, err error, found string) {
	t.Helper()
	expectKind(t, err, mimiport.KindConflict)
	if err != nil && !strings.Contains(err.Error(), found) {
		t.Errorf("%q does not say %q", err, found)
	}
}

func expectPermitted(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// TestTargetIsLost: "a server asks the target before a reclaim, and reclaims the group only if the operator says that
// the target is lost and the target does not contradict" (profile, section 11).
func TestTargetIsLost(t *testing.T) {
	p := newPlay(t)
	svc := p.services[serverA]
	require := func(word api.Lost) error { return svc.RequireTargetLost(t.Context(), p.id, word) }
	expectPermitted(t, require(api.Lost{})) // the group is here: the reclaim says so
	p.move(serverA, serverB, bob)

	expectRefused(t, require(api.Lost{}), "b.example answers, and the migration is active there")
	expectRefused(t, require(said), `{"target_is_lost": true, "although_it_answers": true}`)
	expectPermitted(t, require(insists))

	p.lost = func(to, _ string) bool { return to == serverB }
	expectRefused(t, require(api.Lost{}), "b.example cannot be asked")
	expectRefused(t, require(api.Lost{AlthoughItAnswers: true}), `{"target_is_lost": true}`)
	expectPermitted(t, require(said))

	p.lost = func(string, string) bool { return false }
	p.Add(serverB, memory.New()) // B is back without its data
	expectRefused(t, require(api.Lost{}), "b.example answers, and does not know the migration")
	expectPermitted(t, require(said))
}

// TestHostIsLost: the same before a recover, for the host at the end of the lineage. A server needs no word about
// itself.
func TestHostIsLost(t *testing.T) {
	p := newPlay(t)
	lineage := p.lineage(serverA).Lineage
	require := func(ds string, word api.Lost) error {
		return p.services[ds].RequireHostLost(t.Context(), p.id, lineage, word)
	}
	expectPermitted(t, require(serverB, api.Lost{})) // the recover refuses: the policy does not allow it
	p.allow(serverB, `{"recover":true}`)
	p.allow(serverA, `{"recover":true}`)
	expectPermitted(t, require(serverA, api.Lost{}))

	expectRefused(t, require(serverB, api.Lost{}), "a.example answers")
	expectRefused(t, require(serverB, said), `{"host_is_lost": true, "although_it_answers": true}`)
	expectPermitted(t, require(serverB, insists))

	p.lost = func(to, _ string) bool { return to == serverA }
	expectRefused(t, require(serverB, api.Lost{}), "a.example cannot be asked")
	expectPermitted(t, require(serverB, said))

	lineage = []byte("garbage")
	expectPermitted(t, require(serverB, api.Lost{})) // the recover refuses
}
