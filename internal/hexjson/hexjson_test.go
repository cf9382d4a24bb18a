package hexjson

import (
	"strings"
	"testing"
)

// words is a list in the form of one text.
type words string

func (w words) List() any { return strings.Fields(string(w)) }

func TestMarshal(t *testing.T) {
	type inner struct {
		Nonce [2]byte `json:"nonce"`
		Epoch uint64  `json:"epoch"`
	}
	type embedded struct {
		Kind  uint8
		Count int
	}
	type outer struct {
		Name  string   `json:"name"`
		Data  []byte   `json:"data"`
		List  [][]byte `json:"list"`
		Inner []inner  `json:"inner"`
		None  *inner   `json:"none"`
		Zero  *inner   `json:"zero,omitzero"`
		Some  string   `json:"some,omitzero"`
		embedded
		Words  words
		Absent words    `json:",omitzero"`
		Hidden chan int `json:"-"`
		unseen chan int
	}
	got, err := Marshal(&outer{
		Name: "a\"b", Data: []byte{0xab}, List: [][]byte{{1}, nil},
		Inner: []inner{{[2]byte{0xff, 0}, 1<<53 - 1}, {Epoch: 1 << 53}}, Some: "x",
		embedded: embedded{3, 4}, Words: "one two", unseen: make(chan int),
	})
	const want = `{"name":"a\"b","data":"ab","list":["01",""],"inner":[{"nonce":"ff00","epoch":9007199254740991},` +
		`{"nonce":"0000","epoch":"9007199254740992"}],"none":null,"some":"x","Kind":3,"Count":4,"Words":["one","two"]}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
	for _, v := range []any{map[string]int{}, -1} {
		if got, err := Marshal(v); err == nil {
			t.Errorf("%v was written as %s", v, got)
		}
	}
}
