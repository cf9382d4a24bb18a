package adminapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
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
	groups storage.GroupFilter
	log    []storage.AuditEntry
	health error

	drain       *api.DrainRequest
	drainStates []api.DrainGroupState
	planned     []string

	evidence storage.EvidenceFilter
}

func (s *service) Health(context.Context) error { return s.health }

func (s *service) Status(context.Context) (*api.Status, error) {
	return &api.Status{
		Server: "hs.example", About: api.About{Module: "v1", Host: "Dendrite", Database: "SQLite", Schema: 13},
		Policy: map[string]api.PolicyValue{"source": {Value: "nobody", Origin: api.OriginSection}},
		Groups: map[string]int{"active": 1}, Migrations: map[string]map[string]int{"source": {"moved": 2}, "target": {}},
		Evidence: map[string]int{}, Outbox: []api.Backlog{{Destination: "b.example", Rows: 1, Oldest: 5, Age: 6}},
		Peers: []api.FailingPeer{{Server: "b.example", Since: 1, Attempts: 5, LastAt: 2, Error: "gone", Remedy: "wait"}},
	}, nil
}

func (s *service) Record(_ context.Context, e storage.AuditEntry, act func() (any, error)) error {
	after, err := act()
	e.After, _ = json.Marshal(after)
	s.log = append(s.log, e)
	return err
}

func (s *service) AuditLog(_ context.Context, before storage.AuditID, limit int) ([]api.AuditEntry, error) {
	id := storage.NewAuditID(time.UnixMilli(5), [8]byte{})
	if before == id {
		return nil, nil
	}
	return []api.AuditEntry{{
		ID: id.String(), At: 5, Actor: "@a:hs.example", Action: "reclaim", GroupID: []byte{1},
		Before: json.RawMessage(`{"state":"moved"}`), After: json.RawMessage(`{"state":"active"}`),
	}}, nil
}

// Drain shows a drain of two groups, from StartDrain on.
func (s *service) Drain(context.Context) (*api.Drain, error) {
	d := &api.Drain{
		State: api.DrainNone, Targets: []string{}, Away: []api.AwayServer{}, Groups: map[api.DrainGroupState]int{},
	}
	if s.drain != nil {
		d = &api.Drain{
			State: api.DrainRunning, Targets: s.drain.Targets, Rate: s.drain.Rate, StartedAt: 5, Deadline: 6,
			Groups: map[api.DrainGroupState]int{api.DrainAsked: 1, api.DrainMoved: 1}, Total: 2, Left: 1,
			Away: []api.AwayServer{{Server: "c.example", Until: 7, Error: "no route"}},
		}
	}
	return d, nil
}

func (s *service) StartDrain(ctx context.Context, req *api.DrainRequest) (*api.Drain, error) {
	s.drain = req
	return s.Drain(ctx)
}

func (s *service) StopDrain(ctx context.Context) (*api.Drain, error) {
	if s.drain == nil {
		return nil, mimiport.Errorf("stop drain", mimiport.KindConflict, "there is no drain")
	}
	s.drain = nil
	return s.Drain(ctx)
}

func (s *service) DrainGroups(
	_ context.Context, states []api.DrainGroupState, after []byte, limit int,
) (groups []api.DrainGroup, total int, err error) {
	s.drainStates = states
	all := []api.DrainGroup{
		{GroupID: []byte{1}, RoomID: "!r", State: api.DrainAsked, Why: []api.DrainReason{},
			Asked: &api.AskedMember{UserID: "@a:hs.example", At: 5, Until: 6, Tried: 1}},
		{GroupID: []byte{2}, RoomID: "!r", State: api.DrainMoved, Why: []api.DrainReason{},
			MovedTo: &api.MovedTo{Server: "b.example", Term: 1}},
	}
	for _, g := range all {
		if string(g.GroupID) > string(after) && len(groups) < limit {
			groups = append(groups, g)
		}
	}
	return groups, len(all), nil
}

func (s *service) PlanDrain(
	_ context.Context, targets []string, _ []byte, _ int,
) (plan []api.DrainPlan, total int, err error) {
	s.planned = targets
	return []api.DrainPlan{{
		GroupID: []byte{1}, RoomID: "!r", Members: 3,
		Moves: []api.DrainMove{{Target: "b.example", Users: []string{"@b:b.example"}, Total: 1}},
		Why: []api.DrainReason{{
			Target: "c.example", Reason: api.Reason{Rule: "target_away", Text: "It does not answer.", Remedy: "Start it."},
		}},
	}}, 1, nil
}

func (s *service) Policy(context.Context) (policy.Policy, error) { return s.policy, nil }

func (s *service) SetPolicy(_ context.Context, patch json.RawMessage) (p policy.Policy, err error) {
	if p, err = s.policy.Merge(patch); err == nil {
		s.policy = p
	}
	return p, err
}

func (s *service) AdminGroups(
	_ context.Context, f storage.GroupFilter, after []byte, limit int,
) (groups []api.AdminGroup, total int, err error) {
	s.groups = f
	for b := byte(1); b <= 5 && len(groups) < limit; b++ {
		if string([]byte{b}) > string(after) {
			groups = append(groups, api.AdminGroup{
				GroupID: []byte{b}, State: "moved", Server: "hs.example", RoomID: "!r", Creator: "@a:hs.example",
				Protocol: "mls10", CipherSuite: 1, Epoch: 7, NextSeq: 9, MigrationID: id.String(), CreatedAt: 5, LastCommit: 6,
				MovedTo: &api.MovedTo{Server: "b.example", Term: 1},
				Hosted: &api.Hosted{
					Members: 1, Servers: []api.ServerMembers{{Server: "hs.example", Users: 1, Leaves: 1}},
					PendingRemovals: []api.PendingLeaf{{Leaf: 1, UserID: "@a:hs.example", DeviceID: "D"}},
					Moves: &api.Moves{
						Movable: api.MovableAsk, Users: []string{"@a:hs.example"}, Total: 1, Targets: []string{"b.example"},
						Why: []api.Reason{{Rule: "no_own_user", Text: "Nobody.", Remedy: "Ask."}},
					},
				},
			})
		}
	}
	return groups, 5, nil
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

func (s *service) AdminGroup(ctx context.Context, id []byte) (*api.AdminGroup, error) {
	if len(id) != 1 {
		return nil, mimiport.Errorf("load group", mimiport.KindUnknownGroup, "none")
	}
	return &api.AdminGroup{GroupID: id, State: "reserved", CreatedAt: 5}, nil
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

func (s *service) AdminMessages(_ context.Context, asked mimiport.MigrationID) (*api.MigrationMessages, error) {
	if asked != id {
		return nil, mimiport.Errorf("load migration", mimiport.KindUnknownMigration, "none")
	}
	message := api.MigrationMessage{
		Name: "MigrationRequest", From: "@a:hs.example", To: "b.example", Progress: api.ProgressDone,
		Fields: map[string]string{"epoch": "7"}, Note: "For people.",
	}
	return &api.MigrationMessages{
		Migration: status(), Peer: api.MigrationPeer{Server: "b.example", State: "offered", UpdatedAt: 5, Error: "slow"},
		Messages: slices.Repeat([]api.MigrationMessage{message}, 7),
	}, nil
}

// ListEvidence has a piece of evidence about group 1 and a report about group 2.
func (s *service) ListEvidence(
	_ context.Context, f storage.EvidenceFilter, after storage.EvidenceKey, limit int,
) (list []storage.Evidence, err error) {
	s.evidence = f
	for _, e := range []storage.Evidence{
		{GroupID: []byte{1}, Migration: id, Kind: migration.EvidenceHigherTerm, Data: []byte{1}, At: time.UnixMilli(5)},
		{GroupID: []byte{2}, Migration: id, Kind: storage.EvidenceReport, At: time.UnixMilli(5),
			Data: []byte(`{"term":1,"seq":2,"epoch":3,"user_id":"@a:x","reason":"no","at":5}`)},
	} {
		if len(list) < limit && e.Key().GroupID > after.GroupID {
			list = append(list, e)
		}
	}
	return list, nil
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

func (*service) Readers(_ context.Context, roomID string) (*api.Readers, error) {
	return &api.Readers{RoomID: roomID, Known: true, Users: []string{"@a:hs.example"}}, nil
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
	edge.Mount(router.PathPrefix(adminapi.PathPrefix).Subrouter(), adminapi.HealthRoutes(svc),
		func(*http.Request) (api.Caller, error) { return api.Caller{}, nil },
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

// The id of a room stands in the path, whatever characters it has.
func TestReaders(t *testing.T) {
	code, got := call(t, &service{}, "GET", "/rooms/%21a%2Fb:hs.example/readers", "")
	if code != 200 || got["room_id"] != "!a/b:hs.example" || got["known"] != true ||
		!cmp.Equal(got["users"], []any{"@a:hs.example"}) {
		t.Errorf("got %d %v", code, got)
	}
}

func TestGroupsArePaged(t *testing.T) {
	var ids []any
	uri := "/groups?limit=2"
	for range 3 {
		_, got := call(t, &service{}, "GET", uri, "")
		if got["total"] != 5. || got["limit"] != 2. || got["clamped"] != nil {
			t.Errorf("got %v", got)
		}
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

// TestGroupsAreFiltered: a state may come several times, and a limit that is too large is clamped and said so.
func TestGroupsAreFiltered(t *testing.T) {
	svc := &service{}
	_, got := call(t, svc, "GET", "/groups?state=active&state=frozen&room=%21r&server=hs.example&limit=5000", "")
	want := storage.GroupFilter{
		States: []migration.GroupState{migration.GroupActive, migration.GroupFrozen}, RoomID: "!r", Server: "hs.example",
	}
	if diff := cmp.Diff(want, svc.groups); diff != "" {
		t.Error(diff)
	}
	if got["limit"] != 100. || got["clamped"] != true {
		t.Errorf("got %v", got)
	}
}

// TestQueriesName: the refusal of a query names the parameters or values that are permitted.
func TestQueriesName(t *testing.T) {
	for uri, want := range map[string]string{
		"/groups?stat=active":          "state, room, server, after, limit",
		"/groups?state=gone":           "reserved, active, frozen, stopped, closed, ended, moved, staged",
		"/groups?state=dropped":        "reserved, active",
		"/groups?limit=0":              "1 to 100",
		"/migrations?state=stagd":      "frozen, decided, moved",
		"/migrations?role=both":        "source, target",
		"/migrations?group=AQ":         "group_id, role",
		"/migrations?group_id=%2B%2B":  "base64url",
		"/audit?since=1":               "after, limit",
		"/audit?after=AQ":              "16",
		"/evidence?kind=lie":           "second-content, both-outcomes",
		"/evidence?group=AQ":           "kind, group_id, after, limit",
		"/evidence?after=AQ":           "another page",
		"/policy?preset=default":       "has none",
		"/status?verbose=1":            "has none",
		"/groups/AQ?access_token=x&a=": "has none",
	} {
		code, got := call(t, &service{}, "GET", uri, "")
		if code != 400 || !strings.Contains(asString(got["error"]), want) {
			t.Errorf("%s: got %d %v, want %s", uri, code, got, want)
		}
	}
	if code, got := call(t, &service{}, "GET", "/groups?access_token=secret", ""); code != 200 {
		t.Errorf("the token in the query: %d %v", code, got)
	}
}

// TestStatus: the document has every field of the status.
func TestStatus(t *testing.T) {
	code, got := call(t, &service{}, "GET", "/status", "")
	if code != 200 || got["schema"] != 13. || got["module"] != "v1" {
		t.Errorf("got %d %v", code, got)
	}
}

// TestHealth: an unhealthy server answers 503 with the reason, also without a token.
func TestHealth(t *testing.T) {
	if code, got := call(t, &service{}, "GET", "/health", ""); code != 200 || got["healthy"] != true {
		t.Errorf("got %d %v", code, got)
	}
	code, got := call(t, &service{health: errors.New("the database is away")}, "GET", "/health", "")
	if code != 503 || got["healthy"] != false || got["reason"] != "the database is away" {
		t.Errorf("got %d %v", code, got)
	}
}

// TestAudit: every act is in the audit log, with the states before and after it.
func TestAudit(t *testing.T) {
	svc := &service{policy: policy.Default()}
	for _, act := range []struct{ method, uri, body string }{
		{"PUT", "/policy", `{"target":"nobody"}`}, {"POST", "/groups/AQ/removals", ""},
		{"POST", "/groups/AQ/reclaim", `{"target_is_lost":true}`},
		{"POST", "/groups/AQ/yield", `{"lineage":"AQ"}`},
		{"POST", "/groups/AQID/recover", `{"protocol":"mls10","group_info":"AQ","lineage":"AQ","host_is_lost":true}`},
		{"DELETE", "/migrations/" + id.String(), ""},
	} {
		if code, got := call(t, svc, act.method, act.uri, act.body); code != 200 {
			t.Errorf("%v: %d %v", act, code, got)
		}
	}
	var lines []string
	for _, e := range svc.log {
		before, after := map[string]any{}, map[string]any{}
		if err := json.Unmarshal(e.After, &after); err != nil {
			t.Fatal(err)
		}
		if e.Before != nil {
			if err := json.Unmarshal(e.Before, &before); err != nil {
				t.Fatal(err)
			}
		}
		lines = append(lines, fmt.Sprint(e.Actor, " ", e.Action, " ", api.GroupID(e.GroupID), " ", before["target"],
			before["state"], " ", after["target"], after["state"]))
	}
	want := []string{
		"@a:hs.example policy  local_users<nil> nobody<nil>", "@a:hs.example remove AQ <nil>reserved <nil>reserved",
		"@a:hs.example reclaim AQ <nil>reserved <nil>reserved", "@a:hs.example yield AQ <nil>reserved <nil>reserved",
		"@a:hs.example recover AQID <nil> <nil> <nil> <nil>", "@a:hs.example drop  <nil>frozen <nil>frozen",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
	_, got := call(t, svc, "GET", "/audit?limit=1", "")
	if items := got["items"].([]any); len(items) != 1 || got["next"] == nil {
		t.Errorf("got %v", got)
	}
	if _, got := call(t, svc, "GET", "/audit?after="+asString(got["next"]), ""); len(got["items"].([]any)) > 0 {
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

// TestDrain: an operator starts, watches and stops a drain. Each start and stop is in the audit log.
func TestDrain(t *testing.T) {
	svc := &service{}
	if code, _ := call(t, svc, "DELETE", "/drain", ""); code != 409 {
		t.Errorf("a stop without a drain: %d", code)
	}
	const start = `{"targets":["b.example","c.example"],"deadline_ms":1000,"rate_per_minute":7}`
	code, got := call(t, svc, "PUT", "/drain", start)
	if code != 200 || got["state"] != "running" || got["rate_per_minute"] != 7. || got["left"] != 1. {
		t.Errorf("got %d %v", code, got)
	}
	want := &api.DrainRequest{Targets: []string{"b.example", "c.example"}, Deadline: 1000, Rate: 7}
	if diff := cmp.Diff(want, svc.drain); diff != "" {
		t.Error(diff)
	}
	code, got = call(t, svc, "GET", "/drain/groups?state=stuck&state=asked&limit=1", "")
	if code != 200 || got["total"] != 2. || got["next"] != "AQ" || !cmp.Equal(svc.drainStates,
		[]api.DrainGroupState{api.DrainStuck, api.DrainAsked}) {
		t.Errorf("got %d %v", code, got)
	}
	code, got = call(t, svc, "GET", "/drain/plan?target=b.example&target=c.example", "")
	if code != 200 || got["total"] != 1. || !cmp.Equal(svc.planned, []string{"b.example", "c.example"}) {
		t.Errorf("got %d %v", code, got)
	}
	if code, got := call(t, svc, "DELETE", "/drain", ""); code != 200 || got["state"] != "none" {
		t.Errorf("got %d %v", code, got)
	}
	var lines []string
	for _, e := range svc.log {
		lines = append(lines, fmt.Sprintf("%s %s -> %s", e.Action, e.Before, e.After))
	}
	const none, running = `{"deadline_at":0,"left":0,"rate_per_minute":0,"state":"none","targets":[]}`,
		`{"deadline_at":6,"left":1,"rate_per_minute":7,"state":"running","targets":["b.example","c.example"]}`
	all := []string{
		"drain " + none + " -> null", // the service says why
		"drain " + none + " -> " + running, "drain " + running + " -> " + none,
	}
	if diff := cmp.Diff(all, lines); diff != "" {
		t.Error(diff)
	}
}

// TestAllEvidence: the evidence about all groups comes in pages, each piece once, and a report with its content.
func TestAllEvidence(t *testing.T) {
	svc := &service{}
	_, got := call(t, svc, "GET", "/evidence?limit=1&kind=report&kind=fork&group_id=AQ", "")
	want := storage.EvidenceFilter{
		GroupID: []byte{1}, Kinds: []storage.EvidenceKind{storage.EvidenceReport, storage.EvidenceFork},
	}
	if diff := cmp.Diff(want, svc.evidence); diff != "" {
		t.Error(diff)
	}
	first := got["items"].([]any)
	_, got = call(t, svc, "GET", "/evidence?limit=1&after="+asString(got["next"]), "")
	second := got["items"].([]any)
	wantFirst := []any{map[string]any{
		"group_id": "AQ", "migration_id": id.String(), "kind": "higher-term", "data": "AQ", "at": 5.,
	}}
	if diff := cmp.Diff(wantFirst, first); diff != "" {
		t.Error(diff)
	}
	report := second[0].(map[string]any)
	if report["group_id"] != "Ag" || report["migration_id"] != nil || report["report"].(map[string]any)["seq"] != 2. {
		t.Errorf("got %v", report)
	}
	if _, got = call(t, svc, "GET", "/evidence?limit=1&after="+asString(got["next"]), ""); len(got["items"].([]any)) > 0 {
		t.Errorf("got %v", got)
	}
}

// TestMessages: an operator sees a migration as seven messages, with its state on both sides.
func TestMessages(t *testing.T) {
	code, got := call(t, &service{}, "GET", "/migrations/"+id.String()+"/messages", "")
	if code != 200 || len(got["messages"].([]any)) != 7 || got["peer"].(map[string]any)["state"] != "offered" {
		t.Errorf("got %d %v", code, got)
	}
	unknown := "/migrations/" + strings.Repeat("A", 43) + "/messages"
	if _, got := call(t, &service{}, "GET", unknown, ""); got["errcode"] != "IO.GITHUB.MIMIPORT.M_UNKNOWN_MIGRATION" {
		t.Errorf("got %v", got)
	}
}
