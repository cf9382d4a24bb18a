package mls

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// sized makes a group of n members with all parents set, once for all benchmarks.
var sized = func() func(n int) *mlstest.Group {
	made := make(map[int]*mlstest.Group)
	return func(n int) *mlstest.Group {
		if made[n] == nil {
			made[n] = mlstest.New(mlstest.Options{
				Seed: uint64(n), GroupID: []byte("group"), Members: identities(n), Populated: true,
			})
		}
		return made[n]
	}
}()

// floor measures the part of an import that no engine can avoid: some cores verify n Ed25519 signatures over contents
// of a leaf's size, and do nothing else.
func floor(n, cores int, verify func([]rfc9420.Signed) bool) time.Duration {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	content := make([]byte, 330)
	one := rfc9420.Signed{Key: key.Public().(ed25519.PublicKey), Content: content, Signature: ed25519.Sign(key, content)}
	list := slices.Repeat([]rfc9420.Signed{one}, (n+cores-1)/cores)
	var workers sync.WaitGroup
	start := time.Now()
	for range cores {
		workers.Go(func() {
			for some := range slices.Chunk(list, greatestBatch) {
				verify(some)
			}
		})
	}
	workers.Wait()
	return time.Since(start)
}

var suite1 = rfc9420.SuiteByID(1)

func batched(list []rfc9420.Signed) bool { return suite1.VerifyBatch(list, rand.Reader) }

// againstFloor runs op and its floor, and reports how many times longer op takes.
func againstFloor(b *testing.B, signatures, cores int, verify func([]rfc9420.Signed) bool, op func()) {
	b.ReportAllocs()
	var least, total time.Duration
	for b.Loop() {
		b.StopTimer()
		least += floor(signatures, cores, verify)
		b.StartTimer()
		start := time.Now()
		op()
		total += time.Since(start)
	}
	b.ReportMetric(float64(total)/float64(least), "x-floor")
}

// BenchmarkImport opens whole groups: on all cores and on one, and with single and batched verification.
func BenchmarkImport(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		for _, cores := range []int{runtime.NumCPU(), 1} {
			b.Run(fmt.Sprintf("members=%d/cores=%d/single", n, cores), func(b *testing.B) {
				benchmarkImport(b, RFC9420(DefaultLimits()), n, cores, suite1.VerifyAll)
			})
			b.Run(fmt.Sprintf("members=%d/cores=%d/batched", n, cores), func(b *testing.B) {
				benchmarkImport(b, RFC9420Batched(DefaultLimits(), rand.Reader), n, cores, batched)
			})
		}
	}
}

func benchmarkImport(b *testing.B, e Engine, n, cores int, verify func([]rfc9420.Signed) bool) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
	m := sized(n)
	info, tree := m.GroupInfo(), m.RatchetTree()
	againstFloor(b, n+1, cores, verify, func() {
		if _, err := e.Open(info, tree); err != nil {
			b.Fatal(err)
		}
	})
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/member")
}

// BenchmarkCommit applies a member's Commit with a full path. It has three signatures: of the message, the leaf and the
// GroupInfo.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 50_000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			m := sized(n)
			g := open(b, m)
			c := m.Commit(mlstest.CommitOptions{Sender: uint32(n / 3)})
			againstFloor(b, 3, 1, suite1.VerifyAll, func() {
				if _, _, err := g.Commit(c.Message, c.GroupInfo); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// BenchmarkExport encodes the tree after a Commit.
func BenchmarkExport(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 50_000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			m := sized(n)
			g, _ := commit(b, open(b, m), m.Commit(mlstest.CommitOptions{}))
			b.ReportAllocs()
			for b.Loop() {
				b.SetBytes(int64(len(g.RatchetTree())))
			}
		})
	}
}

// BenchmarkMembers walks all members.
func BenchmarkMembers(b *testing.B) {
	g := open(b, sized(10_000))
	b.ReportAllocs()
	for b.Loop() {
		for range g.Members() {
		}
	}
}

// BenchmarkMemory measures the heap that a group of 10,000 keeps for each member, and how much each of 100 Commits
// adds.
func BenchmarkMemory(b *testing.B) {
	m := sized(10_000)
	var commits []*mlstest.Commit
	for i := range 100 {
		commits = append(commits, m.Commit(mlstest.CommitOptions{Sender: uint32(i * 97)}))
		m = commits[i].Next
		commits[i].Next = nil
	}
	for b.Loop() {
		before := liveHeap()
		groups := []Group{open(b, sized(10_000))}
		opened := liveHeap()
		for i, c := range commits {
			next, _, err := groups[i].Commit(c.Message, c.GroupInfo)
			if err != nil {
				b.Fatal(err)
			}
			groups = append(groups, next)
		}
		b.ReportMetric(float64(opened-before)/10_000, "B/member")
		b.ReportMetric(float64(liveHeap()-opened)/100, "B/version")
		runtime.KeepAlive(groups)
	}
}

func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
