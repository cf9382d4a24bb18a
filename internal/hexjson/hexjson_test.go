package hexjson

import "testing"

func TestMarshal(t *testing.T) {
	type inner struct {
		Nonce [2]byte `json:"nonce"`
		Epoch uint64  `json:"epoch"`
	}
	type outer struct {
		Name  string   `json:"name"`
		Data  []byte   `json:"data"`
		List  [][]byte `json:"list"`
		Inner []inner  `json:"inner"`
		None  *inner   `json:"none"`
		Zero  *inner   `json:"zero,omitzero"`
		Some  string   `json:"some,omitzero"`
	}
	got, err := Marshal(&outer{"a\"b", []byte{0xab}, [][]byte{{1}, nil}, []inner{{[2]byte{0xff, 0}, 1<<53 - 1}, {Epoch: 1 << 53}}, nil, nil, "x"})
	const want = `{"name":"a\"b","data":"ab","list":["01",""],"inner":[{"nonce":"ff00","epoch":9007199254740991},` +
		`{"nonce":"0000","epoch":"9007199254740992"}],"none":null,"some":"x"}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
	if _, err := Marshal(map[string]int{}); err == nil {
		t.Error("a map was written")
	}
}
