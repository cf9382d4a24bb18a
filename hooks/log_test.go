package hooks

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/sirupsen/logrus"
)

func TestLogHandler(t *testing.T) {
	var out bytes.Buffer
	host := logrus.New()
	host.Out, host.Level = &out, logrus.InfoLevel
	host.Formatter = &logrus.TextFormatter{DisableColors: true, DisableTimestamp: true}
	log := slog.New(logHandler{entry: logrus.NewEntry(host)})

	log.Debug("unseen")
	log.Info("seen", "n", 1)
	log.With("a", "b").WithGroup("g").With("c", 2).Warn("grouped", "d", true)
	log.Error("bad")
	const want = "level=info msg=seen n=1\nlevel=warning msg=grouped a=b g.c=2 g.d=true\nlevel=error msg=bad\n"
	if got := out.String(); got != want {
		t.Errorf("got %s want %s", got, want)
	}
}
