package integration

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// maxHeld is the most memory that a server may use under open uploads, in bytes.
const maxHeld = 300 << 20

// halfSent is a request whose body is still missing.
type halfSent struct {
	net.Conn
	in *bufio.Reader
}

// open sends the head of a request. It returns when the server asks for the body (begun), or refuses the request.
func open(t *testing.T, u *harness.User, method, path string, length int) (up *halfSent, begun bool) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(u.Server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	up = &halfSent{conn, bufio.NewReader(conn)}
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", method, path, u.Token, length)
	resp := up.answer(t)
	if resp.StatusCode != http.StatusContinue && resp.StatusCode != http.StatusTooManyRequests {
		t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
	return up, resp.StatusCode == http.StatusContinue
}

// answer waits for the next answer.
func (u *halfSent) answer(t *testing.T) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(u.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// logPeak logs a server's peak memory, and returns it in bytes.
func logPeak(t *testing.T, s *harness.Server, when string) int64 {
	t.Helper()
	peak, err := s.PeakMemory()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("peak memory %s: %d MiB", when, peak>>20)
	return peak
}

// TestIdleUploads: a user begins 200 uploads of 64 MiB and sends no body, and so do 200 strangers. These uploads take
// no memory and delay nobody. The server ends them.
func TestIdleUploads(t *testing.T) {
	s := harness.StartServers(t, 1)[0]
	alice := harness.RegisterUser(t, s, "alice", false)
	ds := clientapi.PathPrefix + "/ds/" + s.Name + "/groups"
	reserved, path := reserve(t, alice, ds)
	logPeak(t, s, "at rest")

	var idle []*halfSent
	stranger := &harness.User{Server: s}
	for range 200 {
		mine, begun := open(t, alice, http.MethodPut, path, 64<<20)
		_, theirs := open(t, stranger, http.MethodPut, federation.PathPrefix+"/groups/AAAA?user_id=%40a%3Ax", 8<<20)
		if !begun || !theirs {
			t.Fatalf("the server refused an upload after %d others", len(idle))
		}
		idle = append(idle, mine)
	}
	if peak := logPeak(t, s, "under 400 idle uploads"); peak > maxHeld {
		t.Errorf("the server used %d MiB", peak>>20)
	}
	members := [][]byte{mlstest.Identity(alice.ID, alice.DeviceID)}
	group := mlstest.New(mlstest.Options{GroupID: reserved.GroupID, Members: members})
	if err := alice.PublishKey(t.Context(), "ed25519", group.Client(0).SignatureKey()); err != nil {
		t.Fatal(err)
	}
	bind := &api.BindGroupRequest{Protocol: "mls10", GroupInfo: group.GroupInfo(), RatchetTree: group.RatchetTree()}
	if err := alice.Do(t.Context(), http.MethodPut, path, bind, nil); err != nil {
		t.Error("beside the idle uploads:", err)
	}
	for _, up := range idle {
		if resp := up.answer(t); resp.StatusCode != http.StatusTooManyRequests || !resp.Close {
			t.Errorf("an idle upload: %s", resp.Status)
		}
	}
}

// TestStuckUploads: uploads without their last byte share the memory for bodies. The server refuses an upload when the
// memory is in use, and one user cannot take the memory of another.
func TestStuckUploads(t *testing.T) {
	s := harness.StartServers(t, 1)[0]
	logPeak(t, s, "at rest")
	ds := clientapi.PathPrefix + "/ds/" + s.Name + "/groups"
	for i, want := range []int{2, 2, 0} {
		u := harness.RegisterUser(t, s, fmt.Sprint("user", i), false)
		_, path := reserve(t, u, ds)
		stuck := 0
		for range 10 {
			up, begun := open(t, u, http.MethodPut, path, 47<<20)
			if !begun {
				continue
			}
			if _, err := up.Write(make([]byte, 47<<20-1)); err != nil {
				t.Fatal(err)
			}
			stuck++
		}
		if stuck != want {
			t.Errorf("the server took %d uploads of user %d, not %d", stuck, i, want)
		}
		if peak := logPeak(t, s, fmt.Sprintf("with user %d", i)); peak > maxHeld {
			t.Errorf("the server used %d MiB", peak>>20)
		}
	}
}

// reserve reserves a group id for the user, and returns the path to bind it.
func reserve(t *testing.T, u *harness.User, groups string) (res *api.ReserveGroupResponse, path string) {
	t.Helper()
	room, err := u.CreateRoom(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Do(t.Context(), http.MethodPost, groups, &api.ReserveGroupRequest{RoomID: room}, &res); err != nil {
		t.Fatal(err)
	}
	return res, groups + "/" + res.GroupID.String()
}
