package integration

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// BenchmarkCommitBesideMessage: a user of a real server sends a Commit and a room message of the same size, in turns.
func BenchmarkCommitBesideMessage(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) { besideMessage(b, harness.NewTestNetwork(b)) })
	b.Run("postgres", func(b *testing.B) { besideMessage(b, harness.NewPostgresNetwork(b)) })
}

func besideMessage(b *testing.B, network *harness.TestNetwork) {
	server := network.StartServer(b, harness.Section+"  policy: {device_keys: published}\n") // the devices publish no keys
	alice := harness.RegisterUser(b, server, "alice", false)
	room := harness.SharedRoom(b, alice)
	ask := func(method, path string, in, out any) {
		b.Helper()
		if err := alice.Do(b.Context(), method, clientapi.PathPrefix+"/ds/"+server.Name+path, in, out); err != nil {
			b.Fatal(err)
		}
	}
	const members = 100 // all are devices of alice
	var reserved api.ReserveGroupResponse
	ask(http.MethodPost, "/groups", &api.ReserveGroupRequest{RoomID: room}, &reserved)
	var identities [][]byte
	for i := range members {
		identities = append(identities, mlstest.Identity(alice.ID, fmt.Sprint("DEVICE", i)))
	}
	group := mlstest.New(mlstest.Options{GroupID: reserved.GroupID, Members: identities, Populated: true})
	path := "/groups/" + url.PathEscape(base64.RawURLEncoding.EncodeToString(reserved.GroupID))
	bind := &api.BindGroupRequest{Protocol: "mls10", GroupInfo: group.GroupInfo(), RatchetTree: group.RatchetTree()}
	ask(http.MethodPut, path, bind, nil)

	var commits, messages []time.Duration
	for i := range b.N {
		c := group.Commit(mlstest.CommitOptions{Sender: uint32(i % members), Path: true})
		group = c.Next
		begin := time.Now()
		ask(http.MethodPost, path+"/messages", &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}, nil)
		commits = append(commits, time.Since(begin))

		text := base64.RawStdEncoding.EncodeToString(append(c.Message, c.GroupInfo...))
		begin = time.Now()
		content := map[string]string{"msgtype": "m.text", "body": text}
		if _, err := alice.Send(b.Context(), room, "m.room.message", content); err != nil {
			b.Fatal(err)
		}
		messages = append(messages, time.Since(begin))
	}
	for name, took := range map[string][]time.Duration{"Commit": commits, "message": messages} {
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), name+"-p50-µs")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), name+"-p99-µs")
	}
}
