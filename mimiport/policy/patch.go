package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/acl"
)

// A patch is a JSON object with fields of a Policy to replace. Its field preset replaces all other fields first.

// PresetSection is the preset that returns to the policy of the configuration file.
const PresetSection = "section"

// presets are the presets of a patch.
var presets = map[string]func() Policy{"default": Default, "draft": Draft}

// modes are the values of the fields that have few.
var modes = map[string][]string{
	"source": {string(SourcePowerLevel), string(SourceAnyMember), string(SourceServerAdmin), string(SourceNobody)},
	"target": {
		string(TargetLocalUsers), string(TargetJoinedServers), string(TargetAnyCreator), string(TargetNobody),
	},
	"device_keys": {string(DeviceKeysRequired), string(DeviceKeysPublished)},
}

// bad makes the error for a wrong patch. field is the field's path in the policy.
func bad(field, format string, args ...any) error {
	if field = mimiport.Clip(field); field != "" {
		field += ": "
	}
	return mimiport.Errorf("set policy", mimiport.KindBadMessage, "%s%s", field, fmt.Sprintf(format, args...))
}

// Merge returns the policy with the fields that a patch has. The preset "default" or "draft" replaces all fields first.
// A wrong patch is a KindBadMessage error that names the field, its value and the remedy.
func (p Policy) Merge(patch json.RawMessage) (Policy, error) {
	fields, err := object("", patch)
	if err != nil {
		return p, err
	}
	if raw, ok := fields["preset"]; ok {
		preset, err := presetOf(raw)
		if err != nil {
			return p, err
		}
		p = preset()
		delete(fields, "preset")
	}
	return p, set(reflect.ValueOf(&p).Elem(), "", fields)
}

func presetOf(raw json.RawMessage) (func() Policy, error) {
	var name string
	if json.Unmarshal(raw, &name) != nil || presets[name] == nil {
		return nil, bad("preset", "%s is not %s", clip(raw), strings.Join(slices.Sorted(maps.Keys(presets)), " or "))
	}
	return presets[name], nil
}

// CutSection reports whether a patch has the preset "section". It returns the patch without it.
func CutSection(patch json.RawMessage) (rest json.RawMessage, ok bool) {
	var fields map[string]json.RawMessage
	var name string
	if json.Unmarshal(patch, &fields) != nil || json.Unmarshal(fields["preset"], &name) != nil || name != PresetSection {
		return patch, false
	}
	delete(fields, "preset")
	rest, err := json.Marshal(fields)
	return rest, err == nil
}

// object decodes a JSON object.
func object(path string, raw json.RawMessage) (map[string]json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || fields == nil {
		example := `{"source": "any_member"}`
		if path != "" {
			example = `{"members": 1000}`
		}
		return nil, bad(path, "%s is not an object: give one such as %s", clip(raw), example)
	}
	return fields, nil
}

// set sets fields of a struct by their names in JSON.
func set(into reflect.Value, prefix string, fields map[string]json.RawMessage) error {
	known := names(into.Type())
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		i := slices.Index(known, name)
		if i < 0 {
			return bad(prefix+name, "there is no such field: use one of %s", strings.Join(known, ", "))
		}
		if err := setField(into.Field(i), prefix+name, fields[name]); err != nil {
			return err
		}
	}
	return nil
}

// names lists the names in JSON of the fields of a struct.
func names(t reflect.Type) (list []string) {
	for i := range t.NumField() {
		list = append(list, t.Field(i).Tag.Get("json"))
	}
	return list
}

func setField(into reflect.Value, path string, raw json.RawMessage) error {
	switch into.Kind() {
	case reflect.Struct:
		fields, err := object(path, raw)
		if err != nil {
			return err
		}
		return set(into, path+".", fields)
	case reflect.Slice:
		list, err := listOf(path, raw)
		into.Set(reflect.ValueOf(list))
		return err
	case reflect.Bool:
		var value bool
		if isNull(raw) || json.Unmarshal(raw, &value) != nil {
			return bad(path, "%s is not true or false", clip(raw))
		}
		into.SetBool(value)
	case reflect.Int:
		var value int64
		if isNull(raw) || json.Unmarshal(raw, &value) != nil || value < 0 || value > 1<<53-1 {
			return bad(path, "%s is not a whole number from 0 to 2^53-1: 0 is no quota", clip(raw))
		}
		into.SetInt(value)
	default:
		var value string
		if json.Unmarshal(raw, &value) != nil || !slices.Contains(modes[path], value) {
			return bad(path, "%s is not one of %s", clip(raw), strings.Join(modes[path], ", "))
		}
		into.SetString(value)
	}
	return nil
}

// listOf decodes a list of patterns: of users in application_services, and of servers in all other lists.
func listOf(path string, raw json.RawMessage) ([]string, error) {
	var list []string
	if json.Unmarshal(raw, &list) != nil {
		return nil, bad(path, `%s is not a list of texts: give one such as ["b.example"]`, clip(raw))
	}
	for _, entry := range list {
		if path == "application_services" {
			if !strings.HasPrefix(entry, "@") && !strings.HasPrefix(entry, "*") {
				return nil, bad(path, "%q is not a user id: write it such as @irc_*:a.example", mimiport.Clip(entry))
			}
		} else if acl.ValidatePattern(entry) != nil {
			return nil, bad(path, "%q is not a server name: write it as in user ids, such as b.example or *.b.example",
				mimiport.Clip(entry))
		}
	}
	return list, nil
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

func clip(raw json.RawMessage) string {
	if len(raw) == 0 {
		return "an empty body"
	}
	return mimiport.Clip(string(raw))
}

// Overlay returns the fields of an earlier patch and those of a later one, which win. It returns the errors of Merge.
func Overlay(earlier, later json.RawMessage) (json.RawMessage, error) {
	if _, err := Default().Merge(later); err != nil {
		return nil, err
	}
	fields, err := object("", earlier)
	if err != nil {
		return nil, err
	}
	patch, err := object("", later)
	if err != nil {
		return nil, err
	}
	if raw, ok := patch["preset"]; ok {
		preset, err := presetOf(raw)
		if err != nil {
			return nil, err
		}
		if fields, err = toObject(preset()); err != nil {
			return nil, err
		}
		delete(patch, "preset")
	}
	if later, ok := patch["quotas"]; ok && fields["quotas"] != nil {
		if patch["quotas"], err = overlayQuotas(fields["quotas"], later); err != nil {
			return nil, err
		}
	}
	maps.Copy(fields, patch)
	return json.Marshal(fields)
}

func overlayQuotas(earlier, later json.RawMessage) (json.RawMessage, error) {
	quotas, err := object("quotas", earlier)
	if err != nil {
		return nil, err
	}
	more, err := object("quotas", later)
	if err != nil {
		return nil, err
	}
	maps.Copy(quotas, more)
	return json.Marshal(quotas)
}

func toObject(v any) (map[string]json.RawMessage, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return object("", text)
}

// Stored returns the policy with the fields of a patch that this server has stored. It checks nothing: an earlier
// version may have stored what Merge refuses.
func (p Policy) Stored(patch json.RawMessage) (Policy, error) {
	// Decoding overwrites the elements of a slice, which p shares with the caller's policy.
	p.Creators, p.AllowServers = slices.Clone(p.Creators), slices.Clone(p.AllowServers)
	p.DenyServers, p.ApplicationServices = slices.Clone(p.DenyServers), slices.Clone(p.ApplicationServices)
	p.AcceptDrain = slices.Clone(p.AcceptDrain)
	if err := plainjson.Unmarshal(patch, &p); err != nil {
		return p, fmt.Errorf("the stored policy: %w", err)
	}
	return p, nil
}

// Fields lists the paths of the fields that a valid patch sets, such as "source" and "quotas.members".
func Fields(patch json.RawMessage) (paths []string) {
	fields, _ := object("", patch)
	if _, ok := fields["preset"]; ok {
		return slices.Sorted(maps.Keys(Default().Values()))
	}
	quotas, _ := object("quotas", fields["quotas"])
	for name := range quotas {
		paths = append(paths, "quotas."+name)
	}
	for name := range fields {
		if name != "quotas" {
			paths = append(paths, name)
		}
	}
	slices.Sort(paths)
	return paths
}

// Values returns the values of all fields by their paths.
func (p Policy) Values() map[string]any {
	values := make(map[string]any)
	v := reflect.ValueOf(p)
	for i, name := range names(v.Type()) {
		if name == "quotas" {
			for j, quota := range names(v.Field(i).Type()) {
				values["quotas."+quota] = v.Field(i).Field(j).Interface()
			}
			continue
		}
		values[name] = v.Field(i).Interface()
	}
	return values
}
