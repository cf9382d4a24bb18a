package integration

import (
	"fmt"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
)

// TestStockMember: a member whose homeserver lacks the module can do all that other members can. The member can create
// a group at another server.
func TestStockMember(t *testing.T) {
	n := harness.NewTestNetwork(t)
	a, b, stock := n.StartServer(t, harness.Section), n.StartServer(t, harness.Section), n.StartServer(t, "")
	for _, s := range []*harness.Server{a, b} {
		open := policy{"target": "joined_servers", "creators": []string{a.Name, b.Name, stock.Name}}
		setPolicy(t, harness.RegisterUser(t, s, "admin", true), open)
	}
	for creator, name := range []string{"module", "other", "stock"} {
		t.Run(name, func(t *testing.T) {
			var users []*harness.User
			for _, s := range []*harness.Server{a, b, stock} {
				users = append(users, harness.RegisterUser(t, s, fmt.Sprintf("user-%d", creator), false))
			}
			users[0], users[creator] = users[creator], users[0]
			requireLife(t, a, b, users)
		})
	}
}

// requireLife lets the first user create a group of all users at the server a. It checks that each user can do all that
// a member can, at a and, after a move, at b.
func requireLife(t *testing.T, a, b *harness.Server, users []*harness.User) {
	t.Helper()
	room := harness.SharedRoom(t, users[0], users[1:]...)
	creator := harness.StartTestClient(t, users[0])
	var st harness.GroupState
	harness.Do(t, creator, "create_group", harness.Args{"room": room, "ds": a.Name}, &st)
	p := &party.Party{Room: room, Group: st.Group, Members: []*harness.Client{creator}}
	for _, u := range users[1:] {
		if err := p.Add(harness.Within(t), harness.StartTestClient(t, u)); err != nil {
			t.Fatal(err)
		}
	}
	term := uint64(0)
	for _, c := range p.Members {
		p.Move(t, c, b)
		p.RequireAt(t, b, term+1)
		harness.Do(t, c, "update", nil, nil)
		p.Talk(t)
		p.Move(t, c, a)
		p.RequireAt(t, a, term+2)
		harness.Do(t, c, "rejoin", harness.Args{"room": room}, nil)
		p.Talk(t)
		term += 2
	}
	p.RequireSettled(t)
}
