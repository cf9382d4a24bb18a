package mimiport

import (
	"cmp"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// Former is what a host knows of a group's former terms: handshakes, and the Welcomes that came with Commits among them
// (profile, section 4).
type Former struct {
	Log      []LogEntry // as in GroupState
	Welcomes []Joiners  // as in GroupState; the Commit that leads to the epoch of each is in Log
}

func (f *Former) encode(b *cryptobyte.Builder) {
	vectorOf[LogEntry](&f.Log).encode(b)
	vectorOf[Joiners](&f.Welcomes).encode(b)
}

func (f *Former) decode(s *cryptobyte.String) bool {
	return vectorOf[LogEntry](&f.Log).decode(s) && vectorOf[Joiners](&f.Welcomes).decode(s) && f.ordered()
}

// ordered says whether the lists are as documented: one Joiners an epoch, and the log as it was accepted, so that terms
// and numbers ascend, and epochs with them.
func (f *Former) ordered() bool {
	for i := 1; i < len(f.Log); i++ {
		a, b := &f.Log[i-1], &f.Log[i]
		if cmp.Or(cmp.Compare(a.Term, b.Term), cmp.Compare(a.Seq, b.Seq)) >= 0 || a.Epoch > b.Epoch {
			return false
		}
	}
	return slices.IsSortedFunc(f.Welcomes, func(a, b Joiners) int { return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), -1) })
}

// Marshal encodes both lists, for a store.
func (f *Former) Marshal() ([]byte, error) { return marshal(f) }

// UnmarshalFormer decodes what Marshal gave, or returns a KindBadMessage error.
func UnmarshalFormer(data []byte) (*Former, error) { return unmarshal[Former](data) }

// WelcomeTo finds the Welcome that came with a Commit, nil for none: the last message of an epoch is its Commit. A
// Welcome has the number after its Commit's.
func (f *Former) WelcomeTo(i int) *Joiners {
	e := &f.Log[i]
	if i+1 < len(f.Log) && f.Log[i+1].Epoch == e.Epoch {
		return nil
	}
	j, found := slices.BinarySearchFunc(f.Welcomes, e.Epoch+1, func(w Joiners, epoch uint64) int {
		return cmp.Compare(w.Epoch, epoch)
	})
	if !found {
		return nil
	}
	return &f.Welcomes[j]
}

// After is the number after that of a message, and of the Welcome that came with it.
func (f *Former) After(i int) uint64 {
	if f.WelcomeTo(i) != nil {
		return f.Log[i].Seq + 2
	}
	return f.Log[i].Seq + 1
}

// KeepLast forgets all but the last messages: at most a number of them, with as many bytes of messages, receipts and
// Welcomes. The last message stays whatever its size.
func (f *Former) KeepLast(messages, bytes int) {
	first, welcomes := len(f.Log), len(f.Welcomes)
	for i := first - 1; i >= 0; i-- {
		bytes -= len(f.Log[i].Message) + len(f.Log[i].Receipt)
		w := f.WelcomeTo(i)
		if w != nil {
			bytes -= len(w.Welcome)
		}
		if messages--; first < len(f.Log) && (messages < 0 || bytes < 0) {
			break
		}
		if first = i; w != nil {
			welcomes--
		}
	}
	f.Log, f.Welcomes = f.Log[first:], f.Welcomes[welcomes:]
}
