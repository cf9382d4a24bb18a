package mls

import (
	"bytes"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// componentAPQInfo is the component of an app_data_dictionary that links a group to another (draft-ietf-mls-combiner).
const componentAPQInfo uint16 = 6

// appData returns the app_data_dictionary of a group's extensions, empty when there is none. It is not ok when the
// dictionary does not decode.
func appData(e rfc9420.Extensions) (list rfc9420.ComponentList, ok bool) {
	data, found := e.Find(rfc9420.ExtensionAppDataDictionary)
	return list, !found || rfc9420.Unmarshal(data, &list)
}

// changesAppData reports whether a GroupContextExtensions proposal would change the app_data_dictionary.
func (g *group) changesAppData(e rfc9420.Extensions) bool {
	before, had := g.context.Extensions.Find(rfc9420.ExtensionAppDataDictionary)
	after, has := e.Find(rfc9420.ExtensionAppDataDictionary)
	return had != has || !bytes.Equal(before, after)
}

// applyAppData applies AppDataUpdates (draft-ietf-mls-extensions-10). Only the application can compute the new data, so
// applyAppData takes it from the GroupInfo. It checks that no other component's data changes.
func (t *transition) applyAppData() error {
	named := make(map[uint16]rfc9420.AppDataOperation)
	for _, r := range t.list {
		u := r.proposal.AppDataUpdate
		if u == nil {
			continue
		}
		if op, again := named[u.Component]; again {
			if err := t.require(op == rfc9420.AppDataSet && u.Operation == rfc9420.AppDataSet, ruleAppDataOnce); err != nil {
				return err
			}
		}
		named[u.Component] = u.Operation
	}
	if len(named) == 0 {
		return nil
	}
	if t.info == nil {
		return errFollow
	}
	before, _ := appData(t.extensions)
	after, ok := appData(t.info.Context.Extensions)
	if err := t.require(ok && onlyNamed(before, after, named), ruleAppDataResult); err != nil {
		return err
	}
	data, found := t.info.Context.Extensions.Find(rfc9420.ExtensionAppDataDictionary)
	if !found {
		return nil
	}
	var err error
	t.extensions, err = t.extensions.Replace(rfc9420.ExtensionAppDataDictionary, data)
	return err
}

// onlyNamed compares the dictionary before and after a Commit. It reports whether the components named by operations
// have data or none, as the operation says, and whether all other components kept their data.
func onlyNamed(before, after rfc9420.ComponentList, named map[uint16]rfc9420.AppDataOperation) bool {
	kept := 0
	for _, c := range before {
		if _, changes := named[c.Component]; changes {
			continue
		}
		kept++
		if data, found := after.Find(c.Component); !found || !bytes.Equal(data, c.Data) {
			return false
		}
	}
	for component, op := range named {
		_, found := after.Find(component)
		if found != (op == rfc9420.AppDataSet) {
			return false
		}
		if found {
			kept++
		}
	}
	return kept == len(after)
}
