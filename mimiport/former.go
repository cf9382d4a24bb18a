package mimiport

import (
	"cmp"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// Former is the log of a group's former terms as far as a host has it: handshakes, and the Welcomes that came with
// their Commits (profile, section 4).
type Former struct {
	Log      []LogEntry // as in GroupState
	Welcomes []Joiners  // as in GroupState; Log has the Commit of each
}

func (f *Former) encode(b *cryptobyte.Builder) {
	vectorOf[LogEntry](&f.Log).encode(b)
	vectorOf[Joiners](&f.Welcomes).encode(b)
}

func (f *Former) decode(s *cryptobyte.String) bool {
	return vectorOf[LogEntry](&f.Log).decode(s) && vectorOf[Joiners](&f.Welcomes).decode(s) && f.ordered()
}

// ordered reports whether the lists are in order. Welcomes has at most one entry for each epoch, in ascending order.
// In the log, terms, numbers within a term, and epochs ascend.
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

// UnmarshalFormer decodes the result of Marshal, or returns a KindBadMessage error.
func UnmarshalFormer(data []byte) (*Former, error) { return unmarshal[Former](data) }

// WelcomeTo returns the Welcome that came with message i, nil for none. Only the last message of an epoch, the Commit,
// can have one. The number of a Welcome is that of its Commit plus one.
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

// After returns the first number after message i and after the Welcome that came with it.
func (f *Former) After(i int) uint64 {
	if f.WelcomeTo(i) != nil {
		return f.Log[i].Seq + 2
	}
	return f.Log[i].Seq + 1
}

// KeepLast drops all but the last messages. It keeps at most that many messages, and at most that many bytes of
// messages, receipts and Welcomes. It always keeps the last message.
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
