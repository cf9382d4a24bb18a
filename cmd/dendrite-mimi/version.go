package main

import (
	"cmp"
	"fmt"
	"runtime/debug"
	"slices"
)

// host is the path of the homeserver's module.
const host = "github.com/matrix-org/dendrite"

// version is the version of this module. The linker sets it for a release.
var version string

// versions returns a line each for this module, the homeserver and Go, with their versions.
func versions(info *debug.BuildInfo) string {
	homeserver := "unknown"
	if i := slices.IndexFunc(info.Deps, func(m *debug.Module) bool { return m.Path == host }); i >= 0 {
		homeserver = info.Deps[i].Version
	}
	return fmt.Sprintf("%s %s\n%s %s\n%s\n",
		info.Main.Path, cmp.Or(version, info.Main.Version), host, homeserver, info.GoVersion)
}
