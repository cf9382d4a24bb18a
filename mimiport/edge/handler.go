package edge

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/mux"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/trace"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// Pending is the answer to a request that is still in progress: 202 with the time after which to ask again.
type Pending struct {
	RetryAfter time.Duration
}

// Mount adds the routes to a router that keeps paths encoded (mux.Router.UseEncodedPath), as the homeserver's routers
// do. The router itself handles CORS, pre-flight requests, and unknown paths and methods.
//
// The log gets details that answers leave out: faults of this server, and failures of a peer.
func Mount(router *mux.Router, routes []Route, auth Authenticate, bodies *Bodies, log *slog.Logger) {
	for _, rt := range routes {
		router.Handle(rt.Path, rt.Handler(auth, bodies, log)).Methods(rt.Method).Name(rt.Name)
	}
}

// CORS lets web clients in (Matrix client-server API, "Web Browser Clients").
func CORS(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE, OPTIONS")
		w.Header().Set("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization")
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			return // the browser asks for the headers alone
		}
		next.ServeHTTP(w, r)
	})
}

// Handler serves the route: limits, then authentication, then admission, then the call, then the answer or the error.
func (rt Route) Handler(auth Authenticate, bodies *Bodies, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := bodies.open(w, r, rt.limit())
		defer body.release()
		ctx, end := rt.trace(r)
		answer, err := rt.call(r.WithContext(ctx), body, auth)
		end(err)
		if err != nil {
			logFault(r.Context(), log.With("route", rt.Name), err)
			noteRule(w, err)
			answer = rt.refusal(w.Header(), err)
		}
		body.leave()
		write(w, answer)
	})
}

// trace starts the span of a request. Another server's request may carry the span that led to it.
func (rt Route) trace(r *http.Request) (context.Context, func(error)) {
	name := "mimiport " + rt.Name
	var tags []trace.Tag
	if id := mux.Vars(r)["groupId"]; id != "" {
		tags = append(tags, trace.Tag{Key: "group_id", Value: mimiport.Clip(id)})
	}
	if id := mux.Vars(r)["migrationId"]; id != "" {
		tags = append(tags, trace.Tag{Key: "migration_id", Value: mimiport.Clip(id)})
	}
	if rt.Federation {
		return trace.Extract(r.Context(), r.Header, name, tags...)
	}
	return trace.Start(r.Context(), name, tags...)
}

func (rt Route) call(r *http.Request, body *body, auth Authenticate) (any, error) {
	if r.ContentLength > rt.limit() {
		return nil, tooLarge(rt.MaxBody)
	}
	vars, err := unescape(mux.Vars(r))
	if err != nil {
		return nil, err
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, mimiport.Errorf("read query", mimiport.KindBadMessage, "malformed: %w", err)
	}
	req := &Request{Vars: vars, Query: query, body: body}
	if req.Caller, err = rt.authenticate(r, body, auth); err != nil {
		return nil, err
	}
	if rt.Admit != nil {
		if err := rt.Admit(r.Context(), req); err != nil {
			return nil, err
		}
	}
	return rt.Serve(r.Context(), req)
}

// authenticate runs auth. Only the check of a signature over the body reads the body. With access tokens, nothing of
// the body is read before the caller is known.
func (rt Route) authenticate(r *http.Request, body *body, auth Authenticate) (api.Caller, error) {
	clone := r.Clone(r.Context())
	clone.Body = body
	if rt.RawBody {
		clone.Body, clone.ContentLength = http.NoBody, 0
	}
	caller, err := auth(clone)
	switch {
	case body.err != nil: // it takes precedence over the error that auth makes of it
		return caller, body.err
	case err != nil:
		return caller, err
	}
	if err = body.assign(owner(caller, rt.Federation)); err == nil && rt.MaxBody == 0 {
		err = body.requireNone()
	}
	return caller, err
}

// limit is the largest body of a request, in bytes. A route without a body accepts an empty object.
func (rt Route) limit() int64 { return max(rt.MaxBody, int64(len(emptyObject))) }

func unescape(vars map[string]string) (map[string]string, error) {
	plain := make(map[string]string, len(vars))
	for name, v := range vars {
		p, err := url.PathUnescape(v)
		if err != nil {
			return nil, mimiport.Errorf("read path", mimiport.KindBadMessage, "%s: %w", name, err)
		}
		plain[name] = p
	}
	return plain, nil
}

// reply is an answer in JSON with its own status.
type reply struct {
	status int
	body   any
}

func write(w http.ResponseWriter, answer any) {
	switch a := answer.(type) {
	case Raw:
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(a) // an error means that the caller has gone
	case Pending:
		WriteJSON(w, http.StatusAccepted, pendingBody{RetryAfter: a.RetryAfter.Milliseconds()})
	case reply:
		WriteJSON(w, a.status, a.body)
	default:
		WriteJSON(w, http.StatusOK, a)
	}
}

type pendingBody struct {
	RetryAfter int64 `json:"retry_after_ms"`
}

// WriteJSON writes an answer in JSON.
func WriteJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // an error means that the caller has gone
}

// refusal makes the answer to an error: the homeserver's own answer for a *Denied, or the row of the table.
func (rt Route) refusal(h http.Header, err error) reply {
	var denied *Denied
	if errors.As(err, &denied) {
		return reply{denied.Status, denied.Body}
	}
	status, body := errorAnswer(err, rt.Federation)
	setRetryAfter(h, body.RetryAfter)
	return reply{status, body}
}

// logFault logs errors that the answer does not describe: faults of this server, and failures of a peer.
func logFault(ctx context.Context, log *slog.Logger, err error) {
	var denied *Denied
	switch kind := mimiport.KindOf(err); {
	case ctx.Err() != nil || errors.As(err, &denied):
	case kind == mimiport.KindInternal:
		log.ErrorContext(ctx, "request failed", "error", err)
	case kind == mimiport.KindPeer:
		log.WarnContext(ctx, "peer failed", "error", err)
	}
}
