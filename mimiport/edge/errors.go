package edge

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// codePrefix is the prefix of error codes that Matrix does not have (profile, section 1).
const codePrefix = "IO.GITHUB.MIMIPORT."

// refusals maps every kind of error to its status and code. A peer that gets a 401 or a 5xx backs off from the whole
// server, so a refusal has another status (profile, section 8).
var refusals = map[mimiport.Kind]struct {
	status int
	code   string
}{
	mimiport.KindInternal:         {http.StatusInternalServerError, "M_UNKNOWN"},
	mimiport.KindBadMessage:       {http.StatusBadRequest, codePrefix + "M_BAD_MESSAGE"},
	mimiport.KindTooLarge:         {http.StatusRequestEntityTooLarge, "M_TOO_LARGE"},
	mimiport.KindUnsupported:      {http.StatusBadRequest, codePrefix + "M_UNSUPPORTED"},
	mimiport.KindInvalid:          {http.StatusBadRequest, codePrefix + "M_INVALID"},
	mimiport.KindBadSignature:     {http.StatusForbidden, codePrefix + "M_BAD_SIGNATURE"},
	mimiport.KindForbidden:        {http.StatusForbidden, "M_FORBIDDEN"},
	mimiport.KindQuota:            {http.StatusTooManyRequests, "M_LIMIT_EXCEEDED"},
	mimiport.KindUnknownGroup:     {http.StatusNotFound, codePrefix + "M_UNKNOWN_GROUP"},
	mimiport.KindUnknownMigration: {http.StatusNotFound, codePrefix + "M_UNKNOWN_MIGRATION"},
	mimiport.KindWrongEpoch:       {http.StatusConflict, codePrefix + "M_WRONG_EPOCH"},
	mimiport.KindConflict:         {http.StatusConflict, codePrefix + "M_CONFLICT"},
	mimiport.KindInProgress:       {http.StatusConflict, codePrefix + "M_MIGRATION_IN_PROGRESS"},
	mimiport.KindMoved:            {http.StatusGone, codePrefix + "M_GROUP_MOVED"},
	mimiport.KindStopped:          {http.StatusConflict, codePrefix + "M_GROUP_STOPPED"},
	mimiport.KindClosed:           {http.StatusGone, codePrefix + "M_GROUP_CLOSED"},
	mimiport.KindOfferExpired:     {http.StatusGone, codePrefix + "M_OFFER_EXPIRED"},
	mimiport.KindEnded:            {http.StatusConflict, codePrefix + "M_MIGRATION_ENDED"},
	mimiport.KindUnrecognized:     {http.StatusNotFound, "M_UNRECOGNIZED"}, // as Matrix has it
	mimiport.KindPeer:             {http.StatusBadGateway, codePrefix + "M_PEER_UNREACHABLE"},
}

// kinds maps a code to its kind of error, for answers of other servers.
var kinds = func() map[string]mimiport.Kind {
	m := make(map[string]mimiport.Kind, len(refusals))
	for kind, row := range refusals {
		m[row.code] = kind
	}
	delete(m, "M_UNKNOWN") // a fault of the other server is KindPeer, not KindInternal
	return m
}()

// errorBody is a Matrix error with the fields that the profile adds.
type errorBody struct {
	Code       string         `json:"errcode"`
	Text       string         `json:"error"`
	Epoch      *uint64        `json:"epoch,omitempty"`
	RetryAfter int64          `json:"retry_after_ms,omitempty"`
	Moved      *api.MovedInfo `json:"moved,omitempty"`
	Rule       string         `json:"rule,omitempty"`
	ServerTime int64          `json:"server_time,omitempty"` // milliseconds since 1970
}

// errorAnswer makes the answer to an error. It does not describe an internal fault, nor a failure between this server
// and another: the text could reveal details of this server's network.
func errorAnswer(err error, federation bool) (status int, body errorBody) {
	var e *mimiport.Error
	if !errors.As(err, &e) {
		e = new(mimiport.Error)
	}
	row := refusals[e.Kind]
	body = errorBody{
		Code:       row.code,
		Text:       e.Error(),
		Epoch:      e.Info.Epoch,
		RetryAfter: e.Info.RetryAfter.Milliseconds(),
		Moved:      api.RedirectInfo(e.Info.Moved),
		Rule:       e.Info.Rule,
	}
	if !e.Info.Now.IsZero() {
		body.ServerTime = e.Info.Now.UnixMilli()
	}
	switch e.Kind {
	case mimiport.KindInternal:
		body.Text = "Internal server error"
	case mimiport.KindPeer:
		body.Text = e.Op + ": the other server cannot be reached or gave a malformed answer"
		if federation {
			row.status = http.StatusFailedDependency
		}
	}
	return row.status, body
}

// setRetryAfter sets the Retry-After header to a time in whole seconds, rounded up.
func setRetryAfter(h http.Header, ms int64) {
	if ms > 0 {
		h.Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
	}
}

// ParseError reads the error in another server's answer and returns it as if it had happened here. It returns a
// KindPeer error for an answer that is not such an error. It passes all text of the other server through
// mimiport.Clip.
func ParseError(op string, status int, header http.Header, body []byte) *mimiport.Error {
	var b errorBody
	kind, known := mimiport.KindPeer, false
	if Unmarshal(body, &b) == nil {
		kind, known = kinds[b.Code]
	}
	if !known || kind == mimiport.KindMoved && b.Moved == nil || kind == mimiport.KindWrongEpoch && b.Epoch == nil {
		kind, b = mimiport.KindPeer, errorBody{Text: "answered " + strconv.Itoa(status), RetryAfter: b.RetryAfter}
	}
	if b.Moved != nil {
		b.Moved.DeliveryService, b.Moved.KeyID = mimiport.Clip(b.Moved.DeliveryService), mimiport.Clip(b.Moved.KeyID)
	}
	e := &mimiport.Error{Op: op, Kind: kind, Err: errors.New(mimiport.Clip(b.Text)), Remote: true}
	e.Info = mimiport.Info{
		Epoch: b.Epoch, RetryAfter: retryAfter(b.RetryAfter, header), Moved: b.Moved.Redirect(), Rule: mimiport.Clip(b.Rule),
	}
	if b.ServerTime > 0 {
		e.Info.Now = time.UnixMilli(b.ServerTime).UTC()
	}
	return e
}

// maxRetryAfter is the longest time for which another server can make this one wait.
const maxRetryAfter = time.Hour

func retryAfter(ms int64, header http.Header) time.Duration {
	if seconds, err := strconv.ParseInt(header.Get("Retry-After"), 10, 64); ms <= 0 && err == nil && seconds > 0 {
		ms = min(seconds, math.MaxInt64/1000) * 1000
	}
	return time.Duration(min(max(ms, 0), maxRetryAfter.Milliseconds())) * time.Millisecond
}
