package adminapi_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/mux"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api/openapitest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

var id = mimiport.MigrationID{1}

// service has five groups and one migration.
type service struct {
	policy policy.Policy
	filter storage.MigrationFilter
}

func (s *service) Policy(context.Context) (policy.Policy, error) { return s.policy, nil }

func (s *service) SetPolicy(_ context.Context, patch json.RawMessage) (p policy.Policy, err error) {
	if p, err = s.policy.Merge(patch); err == nil {
		s.policy = p
	}
	return p, err
}

func (s *service) AdminGroups(_ context.Context, after []byte, limit int) (groups []storage.Group, err error) {
	for b := byte(1); b <= 5 && len(groups) < limit; b++ {
		if string([]byte{b}) > string(after) {
			groups = append(groups, storage.Group{
				ID: []byte{b}, State: migration.GroupMoved, Server: "hs.example", RoomID: "!r", Creator: "@a:hs.example",
				Protocol:    "mls10",
				CipherSuite: 1, Epoch: 7, NextSeq: 9, Migration: id, CreatedAt: time.UnixMilli(5),
			})
		}
	}
	return groups, nil
}

func (s *service) Drift(_ context.Context, c api.Caller, _ []byte) (*api.Drift, error) {
	if !c.Admin {
		return nil, mimiport.Errorf("compare", mimiport.KindForbidden, "not an administrator")
	}
	return &api.Drift{
		Epoch: 7, WithoutLeaf: []string{"@b:hs.example"}, Unasked: []string{},
		Leaves: []api.DriftLeaf{{Leaf: 2, UserID: "@a:hs.example", DeviceID: "D", Faults: []api.Fault{api.FaultOtherKey}}},
	}, nil
}

func (s *service) Expel(context.Context, []byte) (*api.Expelled, error) {
	return &api.Expelled{Leaves: 3, Unasked: []string{"hs.example"}}, nil
}

func (s *service) AdminGroup(ctx context.Context, id []byte) (*storage.Group, error) {
	if len(id) != 1 {
		return nil, mimiport.Errorf("load group", mimiport.KindUnknownGroup, "none")
	}
	return &storage.Group{ID: id, State: migration.GroupReserved, CreatedAt: time.UnixMilli(5)}, nil
}

func (s *service) AdminMigrations(
	_ context.Context, f storage.MigrationFilter, after mimiport.MigrationID, _ int,
) ([]*api.MigrationStatus, error) {
	s.filter = f
	if after == id {
		return []*api.MigrationStatus{}, nil
	}
	return []*api.MigrationStatus{status()}, nil
}

func (s *service) AdminMigration(_ context.Context, asked mimiport.MigrationID) (*api.MigrationStatus, error) {
	if asked != id {
		return nil, mimiport.Errorf("load migration", mimiport.KindUnknownMigration, "none")
	}
	return status(), nil
}

func (s *service) AdminReports(context.Context, []byte) ([]api.Report, error) {
	return []api.Report{{Term: 1, Seq: 2, Epoch: 3, UserID: "@a:x", Reason: "no", At: 5}}, nil
}

func (s *service) AdminEvidence(_ context.Context, id []byte) ([]storage.Evidence, error) {
	e := storage.Evidence{GroupID: id, Kind: migration.EvidenceHigherTerm, Data: []byte{1}, At: time.UnixMilli(5)}
	return []storage.Evidence{e}, nil
}

func (s *service) DropStaged(ctx context.Context, id mimiport.MigrationID) (*api.MigrationStatus, error) {
	st, err := s.AdminMigration(ctx, id)
	if err == nil {
		st.State = "dropped"
	}
	return st, err
}

func (s *service) Reclaim(_ context.Context, id []byte, req *api.LineageRequest) (*api.HostResponse, error) {
	res := &api.HostResponse{GroupID: id, DeliveryService: "hs.example", Term: 2, Lineage: []byte{1}}
	if len(req.Lineage) > 0 {
		res.Term, res.Lineage = 3, req.Lineage
	}
	return res, nil
}

func (s *service) Yield(_ context.Context, id []byte, req *api.LineageRequest) (*api.HostResponse, error) {
	return &api.HostResponse{GroupID: id, DeliveryService: "elsewhere.example", Term: 2, Lineage: req.Lineage}, nil
}

func (s *service) Recover(_ context.Context, id []byte, req *api.RecoverRequest) (*api.HostResponse, error) {
	return &api.HostResponse{GroupID: id, DeliveryService: "hs.example", Term: 2, Lineage: req.Lineage}, nil
}

// RequireTargetLost and RequireHostLost find a server that does not answer.
func (s *service) RequireTargetLost(_ context.Context, _ []byte, word api.Lost) error {
	if !word.Said {
		return mimiport.Errorf("reclaim", mimiport.KindConflict, "b.example does not answer")
	}
	return nil
}

func (s *service) RequireHostLost(ctx context.Context, id, _ []byte, word api.Lost) error {
	return s.RequireTargetLost(ctx, id, word)
}

func status() *api.MigrationStatus {
	return &api.MigrationStatus{MigrationID: id.String(), Role: "source", State: "frozen", GroupID: []byte{1}}
}

// call asks a fresh server and returns its answer.
func call(t *testing.T, svc *service, method, uri, body string) (int, map[string]any) {
	t.Helper()
	admin := func(*http.Request) (api.Caller, error) {
		return api.Caller{UserID: "@a:hs.example", Admin: true}, nil
	}
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	edge.Mount(router.PathPrefix(adminapi.PathPrefix).Subrouter(), adminapi.Routes(svc), admin,
		edge.NewBodies(256<<20), slog.New(slog.DiscardHandler))
	r := httptest.NewRequest(method, adminapi.PathPrefix+uri, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	openapitest.New(t).Handler(router).ServeHTTP(w, r)
	var answer map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatalf("%s %s: %v in %q", method, uri, err, w.Body)
	}
	return w.Code, answer
}

func TestPolicy(t *testing.T) {
	svc := &service{policy: policy.Default()}
	const patch = `{"source":"any_member","deny_servers":["spam.example"],"quotas":{"moves_per_hour":7}}`
	code, got := call(t, svc, "PUT", "/policy", patch)
	if code != 200 || got["source"] != "any_member" || got["target"] != "local_users" {
		t.Errorf("got %d %v", code, got)
	}
	if svc.policy.Quotas.MovesPerHour != 7 || svc.policy.Quotas.Groups != policy.Default().Quotas.Groups {
		t.Errorf("got %+v", svc.policy)
	}
	code, again := call(t, svc, "GET", "/policy", "")
	if code != 200 || !cmp.Equal(got, again) {
		t.Errorf("got %d %v", code, again)
	}
}

func TestBadPolicyChangesNothing(t *testing.T) {
	svc := &service{policy: policy.Default()}
	for _, body := range []string{
		``, `[]`, `{"sauce":"nobody"}`, `{"source":"everybody"}`, `{"quotas":{"groups":-1}}`, `{"source":"nobody"}{}`,
	} {
		code, got := call(t, svc, "PUT", "/policy", body)
		if code != 400 || got["errcode"] != "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE" {
			t.Errorf("%s: got %d %v", body, code, got)
		}
	}
	if !cmp.Equal(svc.policy, policy.Default()) {
		t.Errorf("now %+v", svc.policy)
	}
}

func TestGroupsArePaged(t *testing.T) {
	var ids []any
	uri := "/groups?limit=2"
	for range 3 {
		_, got := call(t, &service{}, "GET", uri, "")
		for _, g := range got["items"].([]any) {
			ids = append(ids, g.(map[string]any)["group_id"])
		}
		uri = "/groups?limit=2&after=" + asString(got["next"])
	}
	if !cmp.Equal(ids, []any{"AQ", "Ag", "Aw", "BA", "BQ"}) {
		t.Errorf("got %v", ids)
	}
}

func asString(v any) string { s, _ := v.(string); return s }

func TestShow(t *testing.T) {
	_, got := call(t, &service{}, "GET", "/groups/AQ", "")
	want := map[string]any{
		"group_id": "AQ", "term": 0., "state": "reserved", "server": "", "room_id": "", "creator": "", "epoch": 0.,
		"next_seq": 0., "created_at": 5.,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, got := call(t, &service{}, "GET", "/migrations/"+id.String(), ""); got["migration_id"] != id.String() {
		t.Errorf("got %v", got)
	}
}

func TestMigrationsAreFiltered(t *testing.T) {
	svc := &service{}
	const query = "?limit=1&group_id=AQ&role=source&state=frozen&state=decided&user=%40a%3Ax&since=5"
	_, got := call(t, svc, "GET", "/migrations"+query, "")
	want := storage.MigrationFilter{
		GroupID: []byte{1}, Role: migration.Source, States: []migration.State{migration.Frozen, migration.Decided},
		User: "@a:x", Since: time.UnixMilli(5),
	}
	if diff := cmp.Diff(want, svc.filter); diff != "" {
		t.Error(diff)
	}
	if got["next"] != id.String() {
		t.Errorf("got %v", got)
	}
	if _, got := call(t, svc, "GET", "/migrations?after="+id.String(), ""); got["next"] != nil {
		t.Errorf("got %v", got)
	}
}

func TestBadRequests(t *testing.T) {
	for uri, want := range map[string]string{
		"/groups?limit=x":                        "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE",
		"/groups?after=%21":                      "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE",
		"/groups/A":                              "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE",
		"/groups/AQID":                           "IO.GITHUB.MIMIPORT.M_UNKNOWN_GROUP",
		"/migrations?limit=-1":                   "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE",
		"/migrations?after=AQ":                   "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE",
		"/migrations?since=now":                  "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE",
		"/migrations?role=a&role=b":              "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE",
		"/migrations?user=a&user=b":              "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE",
		"/migrations/AQID":                       "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE",
		"/migrations/" + strings.Repeat("A", 43): "IO.GITHUB.MIMIPORT.M_UNKNOWN_MIGRATION",
	} {
		if code, got := call(t, &service{}, "GET", uri, ""); asString(got["errcode"]) != want {
			t.Errorf("%s: got %d %v", uri, code, got)
		}
	}
}

// TestLeaves: an operator sees the drift of a group's leaves, and can have leaves removed.
func TestLeaves(t *testing.T) {
	code, got := call(t, &service{}, "GET", "/groups/AQ/drift", "")
	leaf := map[string]any{"leaf": 2., "user_id": "@a:hs.example", "device_id": "D", "faults": []any{"other_key"}}
	want := map[string]any{
		"epoch": 7., "leaves": []any{leaf}, "without_leaf": []any{"@b:hs.example"}, "unasked": []any{},
	}
	if diff := cmp.Diff(want, got); code != 200 || diff != "" {
		t.Errorf("%d: %s", code, diff)
	}
	code, got = call(t, &service{}, "POST", "/groups/AQ/removals", "")
	if diff := cmp.Diff(map[string]any{"leaves": 3., "unasked": []any{"hs.example"}}, got); code != 200 || diff != "" {
		t.Errorf("%d: %s", code, diff)
	}
}

// TestDrop: an operator can end a staged migration.
func TestDrop(t *testing.T) {
	code, got := call(t, &service{}, "DELETE", "/migrations/"+id.String(), "")
	if code != 200 || got["state"] != "dropped" {
		t.Errorf("got %d %v", code, got)
	}
}

// TestClaims: the API lists evidence, and passes on the answers of reclaim and recover.
func TestClaims(t *testing.T) {
	_, got := call(t, &service{}, "GET", "/groups/AQ/evidence", "")
	want := map[string]any{"items": []any{map[string]any{"group_id": "AQ", "kind": "higher-term", "data": "AQ", "at": 5.}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for uri, body := range map[string]string{
		"/reclaim": "", "/recover": `{"protocol":"mls10","group_info":"AQ","lineage":"AQ"}`,
	} {
		code, got := call(t, &service{}, "POST", "/groups/AQ"+uri, body)
		if code != 409 || !strings.Contains(asString(got["error"]), "b.example does not answer") {
			t.Errorf("%s without the operator's word: got %d %v", uri, code, got)
		}
	}
	for uri, body := range map[string]string{
		"/reclaim": `{"target_is_lost":true}`,
		"/recover": `{"protocol":"mls10","group_info":"AQ","lineage":"AQ","host_is_lost":true}`,
	} {
		code, got := call(t, &service{}, "POST", "/groups/AQ"+uri, body)
		if code != 200 || got["term"] != 2. || got["lineage"] != "AQ" {
			t.Errorf("%s: got %d %v", uri, code, got)
		}
	}
}
