package sqlstore_test

import (
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/internal/sqlstore"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
)

var forgotten = flag.Int("forgotten", 100_000, "the entries that BenchmarkForget forgets")

// BenchmarkForget runs a writer every millisecond while SQLite forgets: first with a thousand rows at once and no rest,
// as the first version did, then with the usual number and rests. It reports the time that Forget takes, the times of
// writes before and during Forget, how many times slower the mean write is during Forget, and the remaining part of the
// file.
func BenchmarkForget(b *testing.B) {
	ended := make(chan time.Time)
	close(ended)
	for _, pace := range []struct {
		atOnce int
		after  func(time.Duration) <-chan time.Time
	}{{1000, func(time.Duration) <-chan time.Time { return ended }}, {sqlstore.ForgottenAtOnce, time.After}} {
		b.Run(fmt.Sprintf("AtOnce=%d", pace.atOnce), func(b *testing.B) {
			for range b.N {
				benchmarkForget(b, pace.atOnce, pace.after)
			}
		})
	}
}

func benchmarkForget(b *testing.B, atOnce int, after func(time.Duration) <-chan time.Time) {
	b.StopTimer()
	file := filepath.Join(b.TempDir(), "mimi.db")
	store, err := sqlite.Open(b.Context(), "file:"+file)
	if err != nil {
		b.Fatal(err)
	}
	fillLog(b, store)
	before := sizeOf(b, file)
	var quiet []time.Duration
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 500 {
		<-tick.C
		quiet = append(quiet, write(b, store))
	}
	ended := make(chan error, 1)
	begin := time.Now()
	b.StartTimer()
	go func() {
		ended <- sqlstore.ForgetBy(store, b.Context(), storage.Horizon{Log: time.UnixMilli(2)}, atOnce, after)
	}()
	var busy []time.Duration
	for len(ended) == 0 {
		<-tick.C
		busy = append(busy, write(b, store))
	}
	took := time.Since(begin)
	b.StopTimer()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	if err := store.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(took.Seconds(), "s")
	b.ReportMetric(mean(busy).Seconds()/mean(quiet).Seconds(), "times")
	for name, d := range map[string]time.Duration{
		"quiet-mean-ms": mean(quiet), "quiet-p99-ms": slow(quiet), "mean-ms": mean(busy), "p99-ms": slow(busy),
	} {
		b.ReportMetric(d.Seconds()*1e3, name)
	}
	b.ReportMetric(float64(sizeOf(b, file))/float64(before), "file-ratio")
}

// fillLog stores old messages of 1 KiB.
func fillLog(b *testing.B, store *sqlstore.Store) {
	b.Helper()
	const batch = 1000
	for from := 0; from < *forgotten; from += batch {
		var entries []storage.Entry
		for seq := from; seq < min(from+batch, *forgotten); seq++ {
			message := binary.BigEndian.AppendUint64(make([]byte, 1<<10), uint64(seq))
			entries = append(entries, storage.Entry{
				GroupID: []byte("group"), Term: 1, Seq: uint64(seq), Kind: storage.EntryApplication, Sender: "@a:a.example",
				Message: message, Hash: sha256.Sum256(message), At: time.UnixMilli(1),
			})
		}
		if err := store.Apply(b.Context(), &storage.Change{Entries: entries}); err != nil {
			b.Fatal(err)
		}
	}
}

// write makes one small transaction, and returns its duration.
func write(b *testing.B, store *sqlstore.Store) time.Duration {
	begin := time.Now()
	if err := store.PutSetting(b.Context(), "written", []byte("1")); err != nil {
		b.Fatal(err)
	}
	return time.Since(begin)
}

func mean(all []time.Duration) (mean time.Duration) {
	for _, d := range all {
		mean += d
	}
	return mean / time.Duration(len(all))
}

// slow is the 99th percentile.
func slow(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)*99/100]
}

// sizeOf returns the size of a database together with its write-ahead log.
func sizeOf(b *testing.B, file string) (size int64) {
	b.Helper()
	for _, name := range []string{file, file + "-wal"} {
		info, err := os.Stat(name)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			b.Fatal(err)
		}
		size += info.Size()
	}
	return size
}
