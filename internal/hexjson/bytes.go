package hexjson

import "encoding/hex"

// Bytes are bytes that encoding/json reads from hexadecimal.
type Bytes []byte

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}
