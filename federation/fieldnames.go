package federation

import (
	"bytes"
	"encoding/json"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// requireFieldNames fails unless the names of all fields in JSON are good for a signature. The error is that of
// mimiport.ValidateFieldName.
func requireFieldNames(data []byte) error {
	if !bytes.ContainsRune(data, '\\') {
		return nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) == nil {
		for name, value := range fields {
			if err := mimiport.ValidateFieldName(name); err != nil {
				return err
			}
			if err := requireFieldNames(value); err != nil {
				return err
			}
		}
		return nil
	}
	var items []json.RawMessage
	if json.Unmarshal(data, &items) == nil {
		for _, item := range items {
			if err := requireFieldNames(item); err != nil {
				return err
			}
		}
	}
	return nil
}
