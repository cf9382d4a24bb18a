package framing

import (
	"runtime"
	"slices"
	"testing"

	gomls "github.com/cisco/go-mls"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// groupInfo makes a GroupInfo of n members. Each key package has some extensions of the shortest form.
func groupInfo(t *testing.T, n, extensions int) []byte {
	leaf := &gomls.KeyPackage{
		CipherSuite: 1,
		InitKey:     gomls.HPKEPublicKey{Data: make([]byte, hpkeKey)},
		Credential: *gomls.NewBasicCredential(
			nil, gomls.Ed25519, gomls.SignaturePublicKey{Data: make([]byte, signatureKey)},
		),
		Extensions: gomls.ExtensionList{Entries: make([]gomls.Extension, extensions)},
		Signature:  gomls.Signature{Data: make([]byte, SignatureSize)},
	}
	info := &gomls.GroupInfo{Confirmation: make([]byte, HashSize), Signature: make([]byte, SignatureSize)}
	info.Tree.Nodes = slices.Repeat([]gomls.OptionalNode{{Node: &gomls.Node{Leaf: leaf}}, {}}, n)[:2*n-1]
	message, err := Encode(info)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

// TestDecodingIsBounded: Decode allocates nothing for a length before it has checked the length. The worst lists take a
// small multiple of their size in memory. Four times the input takes four times the memory.
func TestDecodingIsBounded(t *testing.T) {
	for kind := KindPlaintext; kind <= KindKeyPackage; kind++ {
		stated := append([]byte{byte(kind)}, slices.Repeat([]byte{0xff}, 300)...)
		if n := allocated(func() { Decode(stated) }); n > 1<<14 {
			t.Errorf("kind %d: 301 bytes allocate %d", kind, n)
		}
	}
	small, large := groupInfo(t, MaxLeaves/4, maxExtensions), groupInfo(t, MaxLeaves, maxExtensions)
	var err error
	decode := func(message []byte) uint64 { return allocated(func() { _, err = Decode(message) }) }
	decode(small) // fills the caches of the encoder
	forSmall, forLarge := decode(small), decode(large)
	if err != nil || forLarge > 64*uint64(len(large)) || forLarge > 5*forSmall {
		t.Errorf("%d bytes take %d, %d bytes take %d (%v)", len(small), forSmall, len(large), forLarge, err)
	}
}

// TestTooMany: Decode refuses a list with more elements than a group of MaxLeaves needs, even if it has few bytes.
func TestTooMany(t *testing.T) {
	for name, message := range map[string][]byte{
		"leaves":     groupInfo(t, MaxLeaves+1, 0),
		"extensions": groupInfo(t, 1, maxExtensions+1),
		"bytes":      make([]byte, MaxMessage+1),
	} {
		if _, err := Decode(message); mimiport.KindOf(err) != mimiport.KindTooLarge {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Decode(groupInfo(t, MaxLeaves, maxExtensions)); err != nil {
		t.Error(err)
	}
}

// TestEncodeOther: Encode refuses other structures.
func TestEncodeOther(t *testing.T) {
	if _, err := Encode(&gomls.Commit{}); err == nil {
		t.Error("encoded")
	}
}
