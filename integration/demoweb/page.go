package main

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

//go:embed page
var files embed.FS

// page serves the page, the client's modules, and what the page asks of the stage. It refuses what other pages ask.
func (s *stage) page() (http.Handler, error) {
	root, err := harness.ModuleRoot()
	if err != nil {
		return nil, err
	}
	page, err := fs.Sub(files, "page")
	if err != nil {
		return nil, err
	}
	client := http.FileServer(http.Dir(filepath.Join(root, "clients", "ts")))
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(page))
	mux.Handle("GET /client/", http.StripPrefix("/client", client))
	mux.HandleFunc("GET /cast", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.cast(), nil) })
	mux.HandleFunc("GET /pictures", s.pictures)
	mux.HandleFunc("GET /redirect", func(w http.ResponseWriter, r *http.Request) {
		h, err := s.host(r.FormValue("server"))
		if err != nil {
			answer(w, nil, err)
			return
		}
		moved, err := s.redirect(r.Context(), h, r.FormValue("group"))
		answer(w, moved, err)
	})
	mux.HandleFunc("POST /act/{what}", func(w http.ResponseWriter, r *http.Request) {
		// An action ends as a whole, also if the page is reloaded meanwhile.
		answer(w, struct{}{}, s.act(context.WithoutCancel(r.Context()), r.PathValue("what"), r.FormValue("server")))
	})
	return http.NewCrossOriginProtection().Handler(mux), nil
}

// answer sends a value in JSON, or an error as text.
func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the page may be gone
}

// cast tells the page about the room, the servers and the users.
func (s *stage) cast() any {
	type role struct {
		Label  string `json:"label"`
		Server string `json:"server"`
		URL    string `json:"url"`
		User   string `json:"user"`
		Device string `json:"device"`
		Token  string `json:"token"`
	}
	var roles []role
	for _, h := range s.hosts {
		roles = append(roles, role{h.label, h.Name, h.url, h.user.ID, h.user.DeviceID, h.user.Token})
	}
	return map[string]any{"room": s.room, "roles": roles}
}

// pictures streams the board as server-sent events (HTML Living Standard, section 9.2).
func (s *stage) pictures(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for {
		picture, changed, err := s.show()
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", picture); err != nil {
			return
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}
