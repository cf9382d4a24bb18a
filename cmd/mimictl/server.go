package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
)

// adminPath is the path of the admin API on a homeserver.
const adminPath = "/_dendrite/admin/mimiport"

// maxAnswer is the largest answer of a server in bytes. A page of a list is smaller, and so is a lineage.
const maxAnswer = 64 << 20

// server is the operator's own homeserver.
type server struct {
	url   *url.URL
	token string
	web   *http.Client
}

// serverFlags name the homeserver of a command.
func serverFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "server", Value: "http://localhost:8008", Sources: cli.EnvVars("MIMICTL_SERVER"),
			Usage: "the URL of the homeserver: `SERVER`, or the environment variable MIMICTL_SERVER"},
		jsonFlag(),
	}, more...)
}

// serverOf returns the homeserver that the flags name.
func serverOf(cmd *cli.Command) (*server, error) {
	u, err := url.Parse(cmd.String("server"))
	if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		err = fmt.Errorf("%q is not of the form https://HOST or http://HOST:PORT", cmd.String("server"))
	}
	if err != nil {
		return nil, misuse(context.Background(), cmd, err, true)
	}
	token := os.Getenv("MIMICTL_TOKEN")
	if token == "" {
		return nil, misuse(context.Background(), cmd,
			errors.New("MIMICTL_TOKEN is not set: it has the access token of an administrator of the homeserver"), true)
	}
	direct := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // the token goes nowhere else
	return &server{u, token, &http.Client{Timeout: 2 * time.Minute, CheckRedirect: direct}}, nil
}

// refusal is the error of a homeserver.
type refusal struct {
	Code string `json:"errcode"`
	Text string `json:"error"`
}

// ask sends a request to the admin API: see exchange.
func (s *server) ask(
	ctx context.Context, method, path string, query url.Values, body any,
) (answer json.RawMessage, err error) {
	u := s.url.JoinPath(adminPath, path)
	u.RawQuery = query.Encode()
	return s.exchange(ctx, method, u, body)
}

// exchange sends a request to the homeserver, and returns the answer. It sends no body for a nil body.
func (s *server) exchange(
	ctx context.Context, method string, u *url.URL, body any,
) (answer json.RawMessage, err error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, u.String(), content)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+s.token)
	r.Header.Set("Content-Type", "application/json")
	resp, err := s.web.Do(r)
	if err != nil {
		return nil, &failure{err, statusAway, []string{"-server names the homeserver"}}
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, &failure{err, statusAway, nil}
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refused(resp.StatusCode, answer)
	}
	return answer, nil
}

// refused makes the error for an answer that is not 200.
func refused(status int, answer []byte) error {
	var said refusal
	if json.Unmarshal(answer, &said) != nil || said.Code == "" {
		return fmt.Errorf("the homeserver answers %d without a Matrix error", status)
	}
	f := &failure{fmt.Errorf("the homeserver answers %d %s: %s", status, said.Code, scalar(said.Text)), statusRefused, nil}
	switch {
	case status == http.StatusUnauthorized:
		f.hints = []string{"MIMICTL_TOKEN has the access token of an administrator of this homeserver"}
	case said.Code == "M_UNRECOGNIZED":
		f.hints = []string{"the homeserver has no such route: it is switched off there, or the homeserver is older"}
	}
	return f
}

// list is all items of a list.
type list struct {
	Items []json.RawMessage `json:"items"`
	Total *int              `json:"total,omitempty"`
}

// all reads every page of a list.
func (s *server) all(ctx context.Context, path string, query url.Values) (*list, error) {
	found := &list{Items: []json.RawMessage{}}
	for {
		answer, err := s.ask(ctx, http.MethodGet, path, query, nil)
		if err != nil {
			return nil, err
		}
		var page struct {
			list
			Next string `json:"next"`
		}
		if err := readAnswer(answer, &page); err != nil {
			return nil, err
		}
		found.Items, found.Total = append(found.Items, page.Items...), cmp.Or(found.Total, page.Total)
		if page.Next == "" || len(page.Items) == 0 {
			return found, nil
		}
		query.Set("after", page.Next)
	}
}

// readAnswer reads an answer of the homeserver, or a part of one.
func readAnswer(answer []byte, into any) error {
	if err := plainjson.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("the answer of the homeserver: %w", err)
	}
	return nil
}
