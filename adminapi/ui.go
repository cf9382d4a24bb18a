package adminapi

import (
	"embed"
	"net/http"
	"path"
)

// UIPath is the path under which UI is mounted.
const UIPath = PathPrefix + "/ui/"

//go:embed ui
var uiFiles embed.FS

// uiTypes are the types of the page's files. The machine's own table of types plays no part.
var uiTypes = map[string]string{
	"": "text/html; charset=utf-8", ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
	".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}

// uiHeaders keep the page to its own files and its own server. Only modules of this server run, no text becomes
// markup or code, and no other site frames the page, opens it with a handle on it, or hears of it (Content Security
// Policy Level 3, Trusted Types).
var uiHeaders = map[string]string{
	"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
		"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
		"require-trusted-types-for 'script'; trusted-types 'none'",
	"Cache-Control":                "no-cache",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
	"Referrer-Policy":              "no-referrer",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
}

// UI serves the operator's page below UIPath. Its files hold no data of the server, so anybody may have them: the
// page asks the admin API with the token that the operator types in.
func UI() http.Handler {
	files := http.StripPrefix(PathPrefix, http.FileServerFS(uiFiles))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		for name, value := range uiHeaders {
			w.Header().Set(name, value)
		}
		if known := uiTypes[path.Ext(r.URL.Path)]; known != "" {
			w.Header().Set("Content-Type", known)
		}
		files.ServeHTTP(w, r)
	})
}
