package integration

import (
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// TestDirectRequests: a member whose homeserver lacks the module uses the group by requests that the member's device
// signs. The test runs on SQLite and on PostgreSQL.
func TestDirectRequests(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { testDirectRequests(t, harness.NewTestNetwork(t)) })
	t.Run("postgres", func(t *testing.T) { testDirectRequests(t, harness.NewPostgresNetwork(t)) })
}

func testDirectRequests(t *testing.T, network *harness.TestNetwork) {
	a, stock := network.StartServer(t, harness.Section), network.StartServer(t, "")
	alice, carol := harness.RegisterUser(t, a, "alice", false), harness.RegisterUser(t, stock, "carol", false)
	r := newRoll(t, harness.SharedRoom(t, alice, carol), alice, carol)
	reader := newReader(carol, r.mls.Client(1))
	phone := reader.Device
	ask := func(d *harness.Device, method, route string, in, out any) error {
		return d.Ask(harness.Within(t), a, method, r.path(route), in, out)
	}

	var group api.GroupResponse
	err := ask(phone, http.MethodGet, "", nil, &group)
	if err != nil || group.Members != 2 || group.DeliveryService != a.Name {
		t.Fatalf("the group: %+v, %v", group, err)
	}
	commit := r.mls.Commit(mlstest.CommitOptions{Sender: 1, Path: true})
	req := &api.SubmitRequest{Message: commit.Message, GroupInfo: commit.GroupInfo}
	var accepted api.SubmitResponse
	if err := ask(phone, http.MethodPost, "/messages", req, &accepted); err != nil || accepted.Seq == 0 {
		t.Fatalf("a Commit: %+v, %v", accepted, err)
	}
	r.mls = commit.Next
	var log api.MessagesResponse
	if err := ask(phone, http.MethodGet, "/messages?from=1", nil, &log); err != nil || len(log.Messages) != 1 ||
		log.Messages[0].Sender != carol.ID {
		t.Errorf("the log: %+v, %v", log, err)
	}
	reader.requireTree(r)

	thief := &harness.Device{User: carol, Scheme: "ed25519", Sign: r.mls.NewClient([]byte("thief")).SignContent}
	harness.RequireRefused(t, ask(thief, http.MethodGet, "", nil, nil), prefix+"M_BAD_SIGNATURE")
	bare, err := carol.Login(t.Context(), "BARE")
	if err != nil {
		t.Fatal(err)
	}
	keyless := &harness.Device{User: bare, Scheme: "ed25519", Sign: phone.Sign}
	harness.RequireRefused(t, ask(keyless, http.MethodGet, "", nil, nil), prefix+"M_BAD_SIGNATURE")
	local := &harness.Device{User: alice, Scheme: "ed25519", Sign: r.mls.Client(0).SignContent}
	harness.RequireRefused(t, ask(local, http.MethodGet, "", nil, nil), "M_FORBIDDEN")
	requireOnce(t, phone, a, r.path(""))

	if err := carol.Leave(t.Context(), group.RoomID); err != nil {
		t.Fatal(err)
	}
	err = harness.Poll(harness.Within(t), func(context.Context) error {
		err := ask(phone, http.MethodPost, "/messages", &api.SubmitRequest{Message: []byte{0}}, nil)
		if harness.CodeOf(err) == "M_FORBIDDEN" {
			return nil
		}
		return err
	})
	if err != nil {
		t.Errorf("after carol has left: %v", err)
	}
}

// requireOnce fails the test unless the server accepts a request only once, also after the server has restarted.
func requireOnce(t *testing.T, d *harness.Device, at *harness.Server, route string) {
	t.Helper()
	first, err := d.Request(t.Context(), at, http.MethodGet, route, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{http.StatusOK, http.StatusForbidden, 0, http.StatusForbidden} {
		if want == 0 {
			restart(t, at)
			continue
		}
		if status, body := send(t, first.Clone(t.Context())); status != want {
			t.Errorf("got %d %s, want %d", status, body, want)
		}
	}
}

func send(t *testing.T, r *http.Request) (status int, body []byte) {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}
