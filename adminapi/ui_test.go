package adminapi_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
)

// TestUI: the page may run its own files alone, and serves them by their own types and to nobody else's page.
func TestUI(t *testing.T) {
	ask := func(method, path string) *http.Response {
		w := httptest.NewRecorder()
		adminapi.UI().ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Result()
	}
	for path, kind := range map[string]string{
		"": "text/html", "app.js": "text/javascript", "style.css": "text/css", "icon.svg": "image/svg+xml",
	} {
		r := ask(http.MethodGet, adminapi.UIPath+path)
		if r.StatusCode != http.StatusOK || !strings.HasPrefix(r.Header.Get("Content-Type"), kind) {
			t.Errorf("%s: got %d %s", path, r.StatusCode, r.Header.Get("Content-Type"))
		}
		csp := r.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none'; script-src 'self';") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: got %q", path, csp)
		}
		for header, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
			"Cross-Origin-Opener-Policy": "same-origin", "Access-Control-Allow-Origin": "",
		} {
			if got := r.Header.Get(header); got != want {
				t.Errorf("%s: %s is %q, not %q", path, header, got, want)
			}
		}
	}
	for path, want := range map[string]int{"../ui.go": 404, "no.js": 404, "ui/app.js": 404} {
		if r := ask(http.MethodGet, adminapi.UIPath+path); r.StatusCode != want {
			t.Errorf("%s: got %d", path, r.StatusCode)
		}
	}
	if r := ask(http.MethodPost, adminapi.UIPath); r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: got %d", r.StatusCode)
	}
}
