package hooks

import (
	"context"
	"log/slog"

	"github.com/sirupsen/logrus"
)

// logHandler passes log/slog records to the homeserver's logrus.
type logHandler struct {
	entry  *logrus.Entry
	prefix string // the open groups, each with a dot
}

func newLogger() *slog.Logger {
	return slog.New(logHandler{entry: logrus.WithField("component", "mimiport")})
}

func (h logHandler) Enabled(_ context.Context, l slog.Level) bool {
	return h.entry.Logger.IsLevelEnabled(level(l))
}

func (h logHandler) Handle(_ context.Context, r slog.Record) error {
	entry := h.entry.WithTime(r.Time)
	r.Attrs(func(a slog.Attr) bool {
		entry = h.with(entry, a)
		return true
	})
	entry.Log(level(r.Level), r.Message)
	return nil
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		h.entry = h.with(h.entry, a)
	}
	return h
}

func (h logHandler) WithGroup(name string) slog.Handler {
	h.prefix += name + "."
	return h
}

func (h logHandler) with(entry *logrus.Entry, a slog.Attr) *logrus.Entry {
	return entry.WithField(h.prefix+a.Key, a.Value.Resolve().Any())
}

func level(l slog.Level) logrus.Level {
	switch {
	case l >= slog.LevelError:
		return logrus.ErrorLevel
	case l >= slog.LevelWarn:
		return logrus.WarnLevel
	case l >= slog.LevelInfo:
		return logrus.InfoLevel
	}
	return logrus.DebugLevel
}
