package mimiport

import "testing"

// largestContent makes a MigrationContent with a group_state of the default limit, 64 MiB (profile, section 4).
func largestContent(b *testing.B) (*MigrationContent, []byte) {
	b.Helper()
	state := GroupState{
		Base:    BaseState{"mls10", []byte("GroupInfo"), make([]byte, 64<<20-1<<10)},
		Commit:  CommitState{[]byte("Commit"), []byte("GroupInfo")},
		Lineage: Lineage{CreatingServer: "a.example", RoomID: "!room:a.example"},
	}
	encoded, err := state.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	content := &MigrationContent{GroupState: encoded}
	if err := Sign(content, testKey); err != nil {
		b.Fatal(err)
	}
	data, err := content.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	return content, data
}

func BenchmarkVerifyContent(b *testing.B) {
	content, data := largestContent(b)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := Verify(content, publicKey(testKey)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeContent(b *testing.B) {
	_, data := largestContent(b)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		content, err := UnmarshalMigrationContent(data)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := UnmarshalGroupState(content.GroupState); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeGroupState(b *testing.B) {
	content, data := largestContent(b)
	state, err := UnmarshalGroupState(content.GroupState)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := state.Marshal(); err != nil {
			b.Fatal(err)
		}
	}
}
