package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/urfave/cli/v3"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/redirects"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
)

// redirectTable is the file with the table in the directory of an export. The signing key is beside it, as in a backup.
const redirectTable = "redirects.db"

func redirectsExportCommand(std stdio) *cli.Command {
	return leaf(cli.Command{
		Name: "export", Usage: "export where groups have gone", ArgsUsage: "DIRECTORY",
		Description: `It copies the groups that are no longer here, with the messages that the server still
has, from a database of a running homeserver, and asks the homeserver who may read
them. The directory must not exist: it appears when the export is whole. Only its
owner can read it. It holds the signing key.

A group that is still here is not in it: drain the server first. Then the exit status
is 3, as it is while the homeserver has work to deliver.`,
		Flags: serverFlags(
			databaseFlag("db", "the `DATABASE` of the homeserver"),
			&cli.StringFlag{Name: "key", Required: true, Usage: "the homeserver's private_key in `KEYFILE`"},
		),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			s, err := serverOf(cmd)
			if err != nil {
				return err
			}
			var n *redirects.Exported
			err = whole(cmd.Args().First(), func(partial string) error {
				n, err = exportRedirects(ctx, s, cmd.String("db"), cmd.String("key"), partial)
				return err
			})
			if err != nil {
				return err
			}
			return reportExport(n, std)
		},
	}, "mimictl redirects export -db file:mimi_portability.db -key matrix_key.pem /srv/redirects")
}

func exportRedirects(
	ctx context.Context, s *server, connection, keyFile, directory string,
) (n *redirects.Exported, err error) {
	if _, err := copyKey(keyFile, filepath.Join(directory, backupKey)); err != nil {
		return nil, err
	}
	var about struct {
		Server string `json:"server"`
	}
	if err := s.get(ctx, "/status", &about); err != nil {
		return nil, err
	}
	object, err := s.exchange(ctx, http.MethodGet, s.url.JoinPath("/_matrix/key/v2/server"), nil)
	if err != nil {
		return nil, err
	}
	var published gomatrixserverlib.ServerKeys
	if err := plainjson.Unmarshal(object, &published); err != nil {
		return nil, fmt.Errorf("the homeserver's keys: %w", err)
	}
	if err := requirePublished(&published, keyFile); err != nil {
		return nil, err
	}
	store, err := engine.OpenSnapshot(ctx, connection)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return redirects.Export(ctx, &redirects.Source{
		Store: store, Home: redirects.Home{Server: about.Server, OldKeys: published.OldVerifyKeys},
		Readers: func(ctx context.Context, roomID string) (*api.Readers, error) {
			readers := new(api.Readers)
			return readers, s.get(ctx, "/rooms/"+url.PathEscape(roomID)+"/readers", readers)
		},
	}, filepath.Join(directory, redirectTable))
}

// requirePublished fails unless a homeserver publishes the key in a file.
func requirePublished(published *gomatrixserverlib.ServerKeys, keyFile string) error {
	identity, err := identityOf(keyFile)
	if err != nil {
		return err
	}
	public := identity.PrivateKey.Public().(ed25519.PublicKey)
	if key, ok := published.VerifyKeys[identity.KeyID]; !ok || !public.Equal(ed25519.PublicKey(key.Key)) {
		return fmt.Errorf("%s is not the signing key of %s", keyFile, published.ServerName)
	}
	return nil
}

// get asks the admin API and decodes the answer.
func (s *server) get(ctx context.Context, path string, into any) error {
	answer, err := s.ask(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	return readAnswer(answer, into)
}

func reportExport(n *redirects.Exported, std stdio) error {
	fmt.Fprintf(std.out, "exported %s of %s\n", count(n.Groups, "group"), count(n.Rooms, "room"))
	var gaps []string
	if n.Here > 0 {
		gaps = append(gaps, count(n.Here, "group")+" still here: mimictl groups list -state active says which")
	}
	if n.Waiting > 0 {
		gaps = append(gaps, count(n.Waiting, "piece")+" of work not delivered yet: mimictl peers says why")
	}
	if len(gaps) > 0 {
		return &failure{errors.New("exported, but the homeserver must run on, and be exported again"), statusGap, gaps}
	}
	return nil
}

func redirectsServeCommand(std stdio) *cli.Command {
	return leaf(cli.Command{
		Name: "serve", Usage: "answer where groups have gone, in the place of a homeserver that has ended",
		ArgsUsage: "DIRECTORY",
		Description: `It serves what export has made, until SIGTERM, and changes nothing there. It must be
reachable where the homeserver was: at its server name, or where the delegation of that
name leads. It asks other servers for their keys, and for those of devices. Without
-tls-cert it speaks HTTP, for a reverse proxy.`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "listen", Value: ":8448", Usage: "the `ADDRESS` for servers and clients"},
			&cli.StringFlag{Name: "tls-cert", Usage: "the certificate chain in `FILE`, PEM"},
			&cli.StringFlag{Name: "tls-key", Usage: "its private key in `FILE`, PEM"},
		}, peerFlags("")...),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if (cmd.String("tls-cert") == "") != (cmd.String("tls-key") == "") {
				return misuse(ctx, cmd, errors.New("-tls-cert and -tls-key go together"), true)
			}
			web, err := peerClient(cmd.String("ca"), cmd.Bool("allow-private-networks"))
			if err != nil {
				return err
			}
			return serveRedirects(ctx, cmd, web, std)
		},
	}, "mimictl redirects serve -tls-cert chain.pem -tls-key key.pem /srv/redirects")
}

func serveRedirects(ctx context.Context, cmd *cli.Command, web *fclient.Client, std stdio) (err error) {
	directory := cmd.Args().First()
	identity, err := identityOf(filepath.Join(directory, backupKey))
	if err != nil {
		return err
	}
	s, err := redirects.Open(ctx, filepath.Join(directory, redirectTable), redirects.Deps{
		Key: *identity, Web: web, Engines: engines, Now: time.Now, Log: slog.New(slog.NewTextHandler(std.notes, nil)),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	untilSignal, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	go s.Run(untilSignal)
	fmt.Fprintf(std.notes, "mimictl: note: answers for %s at %s\n", s.Home.Server, cmd.String("listen"))
	return serveHTTP(untilSignal, cmd, s.Handler)
}

// The bounds of a connection. A body has the time that its route gives.
const (
	headerTime  = 10 * time.Second
	answerTime  = 2 * time.Minute
	idleTime    = time.Minute
	headerBytes = 64 << 10
)

// serveHTTP serves until the context ends, and then ends the requests under way. Without a certificate it speaks HTTP.
func serveHTTP(ctx context.Context, cmd *cli.Command, h http.Handler) error {
	server := &http.Server{
		Addr: cmd.String("listen"), Handler: h,
		ReadHeaderTimeout: headerTime, ReadTimeout: answerTime, WriteTimeout: answerTime, IdleTimeout: idleTime,
		MaxHeaderBytes: headerBytes, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), headerTime)
		defer cancel()
		ended <- server.Shutdown(late)
	}()
	serve := server.ListenAndServe
	if certificate := cmd.String("tls-cert"); certificate != "" {
		serve = func() error { return server.ListenAndServeTLS(certificate, cmd.String("tls-key")) }
	}
	if err := serve(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}
