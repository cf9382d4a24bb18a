package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/internal/hexjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
)

// message is one of the draft's seven messages, as it has passed between a client and a server or between the servers.
type message struct {
	Name  string          `json:"name"`
	From  string          `json:"from"` // the label of a server, or a user's name
	To    string          `json:"to"`
	Bytes int             `json:"bytes"`
	At    int64           `json:"at"`    // milliseconds since the first message of the migration
	Value json.RawMessage `json:"value"` // the decoded message, with bytes in hexadecimal
}

// kind is one of the draft's messages: its name, its place in a request or an answer, and its decoder.
type kind struct {
	name   string
	in     func(*parts) []byte
	decode func([]byte) (any, error)
}

// parts has the fields of the JSON bodies that carry messages. Raw is a body that is no JSON.
type parts struct {
	Request  spec.Base64Bytes `json:"migration_request"`
	Response spec.Base64Bytes `json:"migration_response"`
	Init     spec.Base64Bytes `json:"migration_init"`
	Message  spec.Base64Bytes `json:"message"`
	ID       string           `json:"migration_id"`
	Raw      []byte           `json:"-"`
}

func partsOf(body []byte) *parts {
	p := &parts{Raw: body}
	_ = json.Unmarshal(body, p) // a MigrationContent is no JSON
	return p
}

// exchanges has the messages of each route: those of the request, and those of the answer.
var exchanges = map[string]struct{ request, answer []kind }{
	"POST ": {
		request: []kind{{"MigrationRequest", func(p *parts) []byte { return p.Request },
			as(mimiport.UnmarshalMigrationRequest)}},
		answer: []kind{{"MigrationResponse", func(p *parts) []byte { return p.Response },
			as(mimiport.UnmarshalMigrationResponse)}},
	},
	"PUT init": {request: []kind{
		{"MigrationInit", func(p *parts) []byte { return p.Init }, as(mimiport.UnmarshalMigrationInit)},
		{"MigrationCommitAAD", authenticatedData, as(mimiport.UnmarshalMigrationCommitAAD)},
	}},
	"PUT content": {
		request: []kind{{"MigrationContent", func(p *parts) []byte { return p.Raw },
			as(mimiport.UnmarshalMigrationContent)}},
		answer: []kind{{"TargetMigrationComplete", func(p *parts) []byte { return p.Message },
			as(mimiport.UnmarshalTargetMigrationComplete)}},
	},
	"PUT confirmation": {
		request: []kind{{"MigrationConfirmation", func(p *parts) []byte { return p.Message },
			as(mimiport.UnmarshalMigrationConfirmation)}},
	},
}

// authenticatedData returns the authenticated_data of the Commit beside a MigrationInit.
func authenticatedData(p *parts) []byte {
	m, err := mls.Decode(p.Message)
	if err != nil || m.Public == nil {
		return nil
	}
	return m.Public.Content.AuthenticatedData
}

func as[M any](unmarshal func([]byte) (*M, error)) func([]byte) (any, error) {
	return func(data []byte) (any, error) { return unmarshal(data) }
}

// route is a request that carries messages: its exchange, its migration, and the Delivery Service that a path for
// clients names.
type route struct{ exchange, migration, service string }

var routes = regexp.MustCompile(`^(?:` + regexp.QuoteMeta(federation.PathPrefix) + `|` +
	regexp.QuoteMeta(clientapi.PathPrefix) + `/ds/([^/]+))/migrations(?:/([\w-]+)/(init|content|confirmation))?$`)

// routeOf returns the route of a request, nil if it carries no message of the draft.
func routeOf(r *http.Request) *route {
	found := routes.FindStringSubmatch(r.URL.EscapedPath())
	if found == nil {
		return nil
	}
	service, err := url.PathUnescape(found[1])
	exchange := r.Method + " " + found[3]
	if _, known := exchanges[exchange]; !known || err != nil {
		return nil
	}
	return &route{exchange, found[2], service}
}

// read decodes a message of a kind. It returns false if the parts lack it.
func (k *kind) read(p *parts) (m message, ok bool) {
	data := k.in(p)
	value, err := k.decode(data)
	if err != nil {
		return message{}, false
	}
	text, err := hexjson.Marshal(value)
	return message{Name: k.name, Bytes: len(data), Value: text}, err == nil
}
