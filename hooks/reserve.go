package hooks

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// maxRegistration is the largest registration request in bytes. Dendrite sets no limit.
const maxRegistration = 64 << 10

// reserveSender prevents the registration of the user who sends the messages of this module (profile, section 7).
// Dendrite itself refuses names that begin with an underscore, but it lets application services register any name in
// their namespace.
func reserveSender(client *mux.Router, server spec.ServerName) error {
	sender := federation.SenderID(string(server))
	return wrap(client, "/_matrix/client/{apiversion:(?:r0|v3)}/register", func(register http.Handler) http.Handler {
		return edge.CORS(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRegistration))
			if err != nil {
				refuse(w, http.StatusRequestEntityTooLarge,
					spec.MatrixError{ErrCode: "M_TOO_LARGE", Err: "The request is too large"})
				return
			}
			if registers(body, sender) {
				refuse(w, http.StatusBadRequest, spec.MatrixError{ErrCode: spec.ErrorExclusive, Err: "This user ID is reserved"})
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			register.ServeHTTP(w, r)
		}))
	})
}

// registers reports whether Dendrite would read a body as a registration of the user, by local part or by user id.
func registers(body []byte, user string) bool {
	var request struct {
		Username string `json:"username"`
	}
	if json.Unmarshal(body, &request) != nil {
		return false
	}
	localpart, _, _ := strings.Cut(strings.TrimPrefix(user, "@"), ":")
	return strings.EqualFold(request.Username, user) || strings.EqualFold(request.Username, localpart)
}

func refuse(w http.ResponseWriter, status int, reason spec.MatrixError) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(reason) // an error means that the client is gone
}
