package harness

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// User is a logged-in Matrix user with one device.
type User struct {
	Server   *Server
	ID       string
	DeviceID string
	Token    string
	Password string
}

// Error is a homeserver's answer with a status other than 200.
type Error struct {
	Status int
	Code   string         // errcode
	Fields map[string]any // the whole body
}

func (e *Error) Error() string { return fmt.Sprintf("HTTP %d: %v", e.Status, e.Fields) }

// CodeOf returns the errcode of an *Error, or "" for any other error.
func CodeOf(err error) string {
	var refusal *Error
	if !errors.As(err, &refusal) {
		return ""
	}
	return refusal.Code
}

// RuleOf returns the rule that an *Error names, or "" for any other error.
func RuleOf(err error) string {
	var refusal *Error
	if !errors.As(err, &refusal) {
		return ""
	}
	rule, _ := refusal.Fields["rule"].(string)
	return rule
}

// Register makes an account with a device, with the shared secret.
func (s *Server) Register(ctx context.Context, localpart string, admin bool) (*User, error) {
	const path = "/_synapse/admin/v1/register"
	anybody := &User{Server: s}
	var nonce struct {
		Nonce string `json:"nonce"`
	}
	if err := anybody.Do(ctx, http.MethodGet, path, nil, &nonce); err != nil {
		return nil, err
	}
	role, password := "notadmin", rand.Text()
	if admin {
		role = "admin"
	}
	mac := hmac.New(sha1.New, []byte(SharedSecret))
	fmt.Fprintf(mac, "%s\x00%s\x00%s\x00%s", nonce.Nonce, localpart, password, role)
	var u account
	err := anybody.Do(ctx, http.MethodPost, path, map[string]any{
		"nonce": nonce.Nonce, "username": localpart, "password": password, "admin": admin,
		"mac": hex.EncodeToString(mac.Sum(nil)),
	}, &u)
	if err != nil {
		return nil, fmt.Errorf("register %s at %s: %w", localpart, s.Name, err)
	}
	made := u.at(s)
	made.Password = password
	return made, nil
}

// account is the homeserver's answer to a registration.
type account struct {
	UserID      string `json:"user_id"`
	DeviceID    string `json:"device_id"`
	AccessToken string `json:"access_token"`
}

func (a *account) at(s *Server) *User {
	return &User{Server: s, ID: a.UserID, DeviceID: a.DeviceID, Token: a.AccessToken}
}

// RegisterGuest makes a guest account.
func (s *Server) RegisterGuest(ctx context.Context) (*User, error) {
	var u account
	anybody := &User{Server: s}
	err := anybody.Do(ctx, http.MethodPost, "/_matrix/client/v3/register?kind=guest", map[string]any{}, &u)
	return u.at(s), err
}

// Request makes a request to the user's homeserver, with the user's token. body is JSON, or empty.
func (u *User) Request(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, u.Server.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if len(body) > 0 {
		r.Header.Set("Content-Type", "application/json")
	}
	if u.Token != "" {
		r.Header.Set("Authorization", "Bearer "+u.Token)
	}
	return r, nil
}

// Do sends one request to the user's homeserver, with the user's token, and decodes the answer into out, unless out is
// nil. It returns an *Error for an answer other than 200.
func (u *User) Do(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	r, err := u.Request(ctx, method, path, body)
	if err != nil {
		return err
	}
	return exchange(r, out)
}

// exchange sends a request and decodes the answer into out, unless out is nil. It returns an *Error for an answer other
// than 200.
func exchange(r *http.Request, out any) error {
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return parseError(resp.StatusCode, answer)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

func parseError(status int, body []byte) error {
	e := &Error{Status: status, Fields: map[string]any{}}
	if json.Unmarshal(body, &e.Fields) != nil {
		e.Fields["body"] = string(body)
	}
	e.Code, _ = e.Fields["errcode"].(string)
	return e
}

func (u *User) roomPath(roomID string, rest ...string) string {
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(roomID)
	for _, part := range rest {
		path += "/" + url.PathEscape(part)
	}
	return path
}

// CreateRoom makes a room that users join by invitation, and returns its id.
func (u *User) CreateRoom(ctx context.Context) (roomID string, err error) {
	return u.createRoom(ctx, map[string]any{"preset": "private_chat"})
}

// CreateRoomOf is CreateRoom for a room version.
func (u *User) CreateRoomOf(ctx context.Context, version string) (roomID string, err error) {
	return u.createRoom(ctx, map[string]any{"preset": "private_chat", "room_version": version})
}

func (u *User) createRoom(ctx context.Context, content map[string]any) (roomID string, err error) {
	var room struct {
		RoomID string `json:"room_id"`
	}
	err = u.Do(ctx, http.MethodPost, "/_matrix/client/v3/createRoom", content, &room)
	return room.RoomID, err
}

// Invite invites another user.
func (u *User) Invite(ctx context.Context, roomID, userID string) error {
	return u.Do(ctx, http.MethodPost, u.roomPath(roomID, "invite"), map[string]any{"user_id": userID}, nil)
}

// Join joins a room that this user is invited to. The homeserver joins through the server via.
func (u *User) Join(ctx context.Context, roomID, via string) error {
	path := "/_matrix/client/v3/join/" + url.PathEscape(roomID) + "?server_name=" + url.QueryEscape(via)
	return u.Do(ctx, http.MethodPost, path, map[string]any{}, nil)
}

// Admit invites another user, who then joins the room.
func (u *User) Admit(ctx context.Context, roomID string, other *User) error {
	if err := u.Invite(ctx, roomID, other.ID); err != nil {
		return err
	}
	return other.Join(ctx, roomID, u.Server.Name)
}

// Leave leaves the room.
func (u *User) Leave(ctx context.Context, roomID string) error {
	return u.Do(ctx, http.MethodPost, u.roomPath(roomID, "leave"), map[string]any{}, nil)
}

// Kick removes another user from the room.
func (u *User) Kick(ctx context.Context, roomID, userID string) error {
	return u.Do(ctx, http.MethodPost, u.roomPath(roomID, "kick"), map[string]any{"user_id": userID}, nil)
}

// Send sends a message event and returns its id.
func (u *User) Send(ctx context.Context, roomID, eventType string, content any) (eventID string, err error) {
	var sent struct {
		EventID string `json:"event_id"`
	}
	err = u.Do(ctx, http.MethodPut, u.roomPath(roomID, "send", eventType, rand.Text()), content, &sent)
	return sent.EventID, err
}

// AwaitPointer reads a room's pointer until it names a server in a term, or in a later term, and returns it.
func (u *User) AwaitPointer(ctx context.Context, roomID, server string, term uint64) (p api.Pointer, err error) {
	err = Poll(ctx, func(ctx context.Context) error {
		p = api.Pointer{}
		err := u.State(ctx, roomID, api.EventPointer, &p)
		if err != nil || p.Via == server && p.Term >= term {
			return err
		}
		return fmt.Errorf("to %s, the room's pointer still names %s in term %d", u.ID, p.Via, p.Term)
	})
	return p, err
}

// SetState sends a state event with an empty state key.
func (u *User) SetState(ctx context.Context, roomID, eventType string, content any) error {
	_, err := u.SendState(ctx, roomID, eventType, content)
	return err
}

// SendState does the same as SetState, and returns the event's id.
func (u *User) SendState(ctx context.Context, roomID, eventType string, content any) (eventID string, err error) {
	var sent struct {
		EventID string `json:"event_id"`
	}
	err = u.Do(ctx, http.MethodPut, u.roomPath(roomID, "state", eventType), content, &sent)
	return sent.EventID, err
}

// Redact redacts an event.
func (u *User) Redact(ctx context.Context, roomID, eventID string) error {
	return u.Do(ctx, http.MethodPut, u.roomPath(roomID, "redact", eventID, rand.Text()), struct{}{}, nil)
}

// State reads the content of a state event with an empty state key.
func (u *User) State(ctx context.Context, roomID, eventType string, content any) error {
	return u.Do(ctx, http.MethodGet, u.roomPath(roomID, "state", eventType), nil, content)
}

// SetPowerLevel gives another user a power level.
func (u *User) SetPowerLevel(ctx context.Context, roomID, userID string, level int) error {
	const eventType = "m.room.power_levels"
	var content map[string]any
	if err := u.State(ctx, roomID, eventType, &content); err != nil {
		return err
	}
	users, ok := content["users"].(map[string]any)
	if !ok {
		users = map[string]any{}
		content["users"] = users
	}
	users[userID] = level
	return u.SetState(ctx, roomID, eventType, content)
}

// Sync is an answer of /sync. It has only the fields that the harness uses.
type Sync struct {
	NextBatch string `json:"next_batch"`
	ToDevice  struct {
		Events []Event `json:"events"`
	} `json:"to_device"`
	Rooms struct {
		Join map[string]struct {
			State    struct{ Events []Event } `json:"state"`
			Timeline struct{ Events []Event } `json:"timeline"`
		} `json:"join"`
		Invite map[string]json.RawMessage `json:"invite"`
	} `json:"rooms"`
}

// Event is a Matrix event.
type Event struct {
	ID       string          `json:"event_id"`
	Type     string          `json:"type"`
	Sender   string          `json:"sender"`
	StateKey *string         `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// Sync asks for the events since a token; an empty token means all events. The homeserver waits at most wait for one.
func (u *User) Sync(ctx context.Context, since string, wait time.Duration) (*Sync, error) {
	query := url.Values{"timeout": {fmt.Sprint(wait.Milliseconds())}}
	if since != "" {
		query.Set("since", since)
	}
	var s Sync
	return &s, u.Do(ctx, http.MethodGet, "/_matrix/client/v3/sync?"+query.Encode(), nil, &s)
}

// Await syncs from the token since, until found returns true or the context ends. It returns the token for the next
// sync.
func (u *User) Await(ctx context.Context, since string, found func(*Sync) bool) (next string, err error) {
	for {
		s, err := u.Sync(ctx, since, time.Second)
		if err != nil {
			return since, fmt.Errorf("sync of %s: %w", u.ID, err)
		}
		since = s.NextBatch
		if found(s) {
			return since, nil
		}
	}
}
