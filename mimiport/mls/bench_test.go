package mls

import (
	"crypto/ed25519"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// sized makes a group of n members with all parents set, once for all benchmarks.
var sized = func() func(n int) *mlstest.Group {
	made := make(map[int]*mlstest.Group)
	return func(n int) *mlstest.Group {
		if made[n] == nil {
			made[n] = mlstest.New(mlstest.Options{Seed: uint64(n), GroupID: []byte("group"), Members: identities(n), Populated: true})
		}
		return made[n]
	}
}()

// verifications is the floor under everything the engine does: n Ed25519 signatures over contents as long as a leaf, verified on
// some cores with nothing else.
func verifications(n, cores int) time.Duration {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	content := make([]byte, 250)
	signature := ed25519.Sign(key, content)
	public := key.Public().(ed25519.PublicKey)
	var workers sync.WaitGroup
	start := time.Now()
	for i := range cores {
		workers.Go(func() {
			for range (n + i) / cores {
				ed25519.Verify(public, content, signature)
			}
		})
	}
	workers.Wait()
	return time.Since(start)
}

// againstFloor runs op beside its floor and reports how much longer it takes.
func againstFloor(b *testing.B, signatures, cores int, op func()) {
	b.ReportAllocs()
	var floor, total time.Duration
	for b.Loop() {
		b.StopTimer()
		floor += verifications(signatures, cores)
		b.StartTimer()
		start := time.Now()
		op()
		total += time.Since(start)
	}
	b.ReportMetric(float64(total)/float64(floor), "x-floor")
}

// BenchmarkImport opens whole groups, on all cores and on one.
func BenchmarkImport(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		for _, cores := range []int{runtime.NumCPU(), 1} {
			b.Run(fmt.Sprintf("members=%d/cores=%d", n, cores), func(b *testing.B) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
				m := sized(n)
				e, info, tree := RFC9420(DefaultLimits()), m.GroupInfo(), m.RatchetTree()
				againstFloor(b, n+1, cores, func() {
					if _, err := e.Open(info, tree); err != nil {
						b.Fatal(err)
					}
				})
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/member")
			})
		}
	}
}

// BenchmarkCommit applies a member's Commit with a full path: three signatures, of the message, the leaf and the GroupInfo.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 50_000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			m := sized(n)
			g := open(b, m)
			c := m.Commit(mlstest.CommitOptions{Sender: uint32(n / 3)})
			againstFloor(b, 3, 1, func() {
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

// BenchmarkMemory measures the heap that a group of 10,000 keeps, by the member, and what each of 100 Commits adds to it.
func BenchmarkMemory(b *testing.B) {
	m := sized(10_000)
	for b.Loop() {
		before := liveHeap()
		g := open(b, m)
		opened := liveHeap()
		groups := []Group{g}
		for i := range 100 {
			b.StopTimer()
			c := m.Commit(mlstest.CommitOptions{Sender: uint32(i * 97)})
			m = c.Next
			b.StartTimer()
			g, _ = commit(b, g, c)
			groups = append(groups, g)
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
