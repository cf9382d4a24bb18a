package api

import "net/http"

// Namespace is the unstable name of this project's protocol, with its wire version (profile, section 1).
const Namespace = "io.github.mimiport.v0"

// Route is the address of one call.
type Route struct {
	Name    string // the name in the metric and in openapi.yaml, e.g. "submit"
	Method  string
	Path    string // below the mount point, with variables in braces: "/groups/{groupId}"
	MaxBody int64  // bytes; 0 for none
	RawBody bool   // the body is authenticated by a hash in the signed URI and streamed
}

// maxJSON is the limit in bytes of a JSON body: 1 MiB in base64 with room to spare. MaxBind is the limit for binding a
// group over federation: the body has the group's ratchet tree. Both limits are small, because checking the signature
// of a JSON body takes 20 times its size in memory.
const (
	maxJSON = 3 << 19
	MaxBind = 8 << 20
)

// maxLastResort is the limit in bytes of a KeyPackage of last resort. An answer with MaxClaimed of them is still small.
const maxLastResort = 16 << 10

// The routes for users and servers. Server and client use the same table. Package edge adds the calls. The names are
// the operation ids of openapi.yaml.
var (
	ReserveGroup = Route{Name: "reserveGroup", Method: http.MethodPost, Path: "/groups", MaxBody: maxJSON}
	BindGroup    = Route{Name: "bindGroup", Method: http.MethodPut, Path: "/groups/{groupId}", MaxBody: MaxBind}
	GetGroup     = Route{Name: "getGroup", Method: http.MethodGet, Path: "/groups/{groupId}"}
	CloseGroup   = Route{Name: "closeGroup", Method: http.MethodDelete, Path: "/groups/{groupId}"}
	ReportCommit = Route{Name: "reportCommit", Method: http.MethodPost, Path: "/groups/{groupId}/reports",
		MaxBody: maxJSON}
	GetHost     = Route{Name: "getHost", Method: http.MethodGet, Path: "/groups/{groupId}/host"}
	ShowLineage = Route{Name: "showLineage", Method: http.MethodPut, Path: "/groups/{groupId}/lineage",
		MaxBody: maxJSON}
	GetDrift         = Route{Name: "getDrift", Method: http.MethodGet, Path: "/groups/{groupId}/drift"}
	GetTree          = Route{Name: "getTree", Method: http.MethodGet, Path: "/groups/{groupId}/tree"}
	Submit           = Route{Name: "submit", Method: http.MethodPost, Path: "/groups/{groupId}/messages", MaxBody: maxJSON}
	GetMessages      = Route{Name: "getMessages", Method: http.MethodGet, Path: "/groups/{groupId}/messages"}
	RequestMigration = Route{Name: "requestMigration", Method: http.MethodPost, Path: "/migrations", MaxBody: maxJSON}
	InitMigration    = Route{Name: "initMigration", Method: http.MethodPut, Path: "/migrations/{migrationId}/init",
		MaxBody: maxJSON}
	GetMigration     = Route{Name: "getMigration", Method: http.MethodGet, Path: "/migrations/{migrationId}"}
	AbortMigration   = Route{Name: "abortMigration", Method: http.MethodDelete, Path: "/migrations/{migrationId}"}
	ConfirmMigration = Route{Name: "confirmMigration", Method: http.MethodPut,
		Path: "/migrations/{migrationId}/confirmation", MaxBody: maxJSON}
	PutLastResort    = Route{Name: "putLastResort", Method: http.MethodPut, Path: "/last_resort", MaxBody: maxLastResort}
	ClaimLastResorts = Route{Name: "claimLastResorts", Method: http.MethodPost, Path: "/last_resort/claim",
		MaxBody: maxJSON}
	// GetServerKey is for a homeserver's own users and for direct requests alone.
	GetServerKey = Route{Name: "getServerKey", Method: http.MethodGet, Path: "/keys/{keyServer}/{keyId}"}
	PutContent   = Route{Name: "putContent", Method: http.MethodPut, Path: "/migrations/{migrationId}/content",
		RawBody: true}
	GetIntake = Route{Name: "getIntake", Method: http.MethodGet, Path: "/intake"}
	PutAbort  = Route{Name: "putAbort", Method: http.MethodPut, Path: "/migrations/{migrationId}/abort",
		MaxBody: maxJSON}
)
