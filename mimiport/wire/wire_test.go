package wire

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"pgregory.net/rapid"
)

func encodeLength(t testing.TB, n int) []byte {
	t.Helper()
	var b cryptobyte.Builder
	AddVarint(&b, n)
	encoded, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

// TestVarintExamples has the examples of RFC 9000, appendix A.1, which RFC 9420, section 2.1.2, takes over, and the
// smallest and largest value of each encoded length.
func TestVarintExamples(t *testing.T) {
	for _, c := range []struct {
		encoded []byte
		n       uint32
		ok      bool
	}{
		{[]byte{0x9d, 0x7f, 0x3e, 0x7d}, 494878333, true},
		{[]byte{0x7b, 0xbd}, 15293, true},
		{[]byte{0x25}, 37, true},
		{[]byte{0x00}, 0, true},
		{[]byte{0x3f}, 63, true},
		{[]byte{0x40, 0x40}, 64, true},
		{[]byte{0x7f, 0xff}, 1<<14 - 1, true},
		{[]byte{0x80, 0x00, 0x40, 0x00}, 1 << 14, true},
		{[]byte{0xbf, 0xff, 0xff, 0xff}, MaxVector, true},

		{[]byte{0x40, 0x25}, 0, false},             // 37 in two bytes
		{[]byte{0x40, 0x3f}, 0, false},             // 63 in two bytes
		{[]byte{0x80, 0x00, 0x00, 0x25}, 0, false}, // 37 in four bytes
		{[]byte{0x80, 0x00, 0x3f, 0xff}, 0, false}, // 2^14-1 in four bytes
		{[]byte{0xc0, 0, 0, 0, 0, 0, 0, 0x25}, 0, false},
		{[]byte{0xff}, 0, false},
		{[]byte{0x7b}, 0, false},
		{[]byte{0x9d, 0x7f, 0x3e}, 0, false},
		{nil, 0, false},
	} {
		s := cryptobyte.String(c.encoded)
		var n uint32
		ok := ReadVarint(&s, &n)
		if ok != c.ok || ok && (n != c.n || !s.Empty()) {
			t.Errorf("%x: read %d, %v", c.encoded, n, ok)
		}
		if c.ok && !bytes.Equal(encodeLength(t, int(c.n)), c.encoded) {
			t.Errorf("%d encodes to %x", c.n, encodeLength(t, int(c.n)))
		}
	}
}

func TestVarintRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.IntRange(0, MaxVector).Draw(t, "n")
		var b cryptobyte.Builder
		AddVarint(&b, want)
		s := cryptobyte.String(b.BytesOrPanic())
		var n uint32
		if !ReadVarint(&s, &n) || int(n) != want || !s.Empty() {
			t.Fatalf("%d decodes to %d", want, n)
		}
	})
}

func TestTooLong(t *testing.T) {
	var b cryptobyte.Builder
	AddVarint(&b, MaxVector+1)
	if _, err := b.Bytes(); !errors.Is(err, ErrTooLong) {
		t.Errorf("error %v", err)
	}
	var outer cryptobyte.Builder
	AddVector(&outer, func(b *cryptobyte.Builder) { AddVarint(b, MaxVector+1) })
	if _, err := outer.Bytes(); !errors.Is(err, ErrTooLong) {
		t.Errorf("an inner vector that is too long gives error %v", err)
	}
}

func TestVectorRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first, second := rapid.SliceOf(rapid.Byte()).Draw(t, "first"), rapid.SliceOf(rapid.Byte()).Draw(t, "second")
		var b cryptobyte.Builder
		AddVector(&b, func(b *cryptobyte.Builder) {
			AddOpaque(b, first)
			AddOpaque(b, second)
		})
		s := cryptobyte.String(b.BytesOrPanic())
		var contents cryptobyte.String
		var gotFirst, gotSecond []byte
		if !ReadVector(&s, &contents) || !s.Empty() || !ReadOpaque(&contents, &gotFirst) ||
			!ReadOpaque(&contents, &gotSecond) || !contents.Empty() ||
			!bytes.Equal(gotFirst, first) || !bytes.Equal(gotSecond, second) {
			t.Fatalf("read %x and %x", gotFirst, gotSecond)
		}
	})
}

// TestReadersDoNotAllocate: readers compare a length with the input before they use it. Four bytes can claim 1 GiB.
func TestReadersDoNotAllocate(t *testing.T) {
	valid := append(encodeLength(t, 1000), make([]byte, 1000)...)
	for _, input := range [][]byte{{0xbf, 0xff, 0xff, 0xff, 1, 2, 3}, valid} {
		if n := testing.AllocsPerRun(100, func() {
			s := cryptobyte.String(input)
			var contents []byte
			ReadOpaque(&s, &contents)
		}); n != 0 {
			t.Errorf("%x…: %v allocations", input[:4], n)
		}
	}
}

func FuzzReadOpaque(f *testing.F) {
	f.Add([]byte{0x02, 1, 2, 3})
	f.Add([]byte{0x40, 0x25})
	f.Add([]byte{0xbf, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := cryptobyte.String(data)
		var contents []byte
		if !ReadOpaque(&s, &contents) {
			return
		}
		var b cryptobyte.Builder
		AddOpaque(&b, contents)
		if got := append(b.BytesOrPanic(), s...); !bytes.Equal(got, data) {
			t.Errorf("%x encodes to %x", data, got)
		}
	})
}
