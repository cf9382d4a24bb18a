package hooks

import (
	"encoding/base64"
	"errors"
	"net/http"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/draft09test"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// A homeserver hosts groups of the protocols whose engines are built in. It refuses other protocols, and names them.
func TestEngines(t *testing.T) {
	for name, c := range map[string]struct {
		engines []mls.Engine
		code    string
	}{
		"built without": {nil, "IO.GITHUB.MIMIPORT.M_UNSUPPORTED"},
		"built with":    {[]mls.Engine{draft09.New()}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "s.example", newFabric())
			s.Engines = c.engines
			if err := plug(t, s, ""); err != nil {
				t.Fatal(err)
			}
			err := bindDraft09(t, s.register(t, "alice"))
			var refused *harness.Error
			if errors.As(err, &refused); (err == nil) != (c.code == "") || refused != nil && refused.Code != c.code {
				t.Errorf("got %v, want %q", err, c.code)
			}
		})
	}
}

// bindDraft09 makes a group of go-mls in a new room of a user, and binds it.
func bindDraft09(t *testing.T, u *harness.User) error {
	t.Helper()
	room, err := u.CreateRoom(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	groups := clientapi.PathPrefix + "/ds/" + u.Server.Name + "/groups"
	var reserved api.ReserveGroupResponse
	if err := u.Do(t.Context(), http.MethodPost, groups, &api.ReserveGroupRequest{RoomID: room}, &reserved); err != nil {
		t.Fatal(err)
	}
	member, err := draft09test.NewClient(1, mlstest.Identity(u.ID, u.DeviceID))
	if err != nil {
		t.Fatal(err)
	}
	if err := u.PublishKey(t.Context(), "ed25519", member.SignatureKey()); err != nil {
		t.Fatal(err)
	}
	if err := member.Create(reserved.GroupID); err != nil {
		t.Fatal(err)
	}
	info, err := member.GroupInfo()
	if err != nil {
		t.Fatal(err)
	}
	return u.Do(t.Context(), http.MethodPut, groups+"/"+base64.RawURLEncoding.EncodeToString(reserved.GroupID),
		&api.BindGroupRequest{Protocol: draft09.Protocol, GroupInfo: info}, nil)
}
