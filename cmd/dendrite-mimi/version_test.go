package main

import (
	"runtime/debug"
	"testing"
)

// TestVersions: a release has the version that the linker set, and another build that of its module.
func TestVersions(t *testing.T) {
	info := &debug.BuildInfo{
		GoVersion: "go1.26.8", Main: debug.Module{Path: "own", Version: "(devel)"},
		Deps: []*debug.Module{{Path: "other", Version: "v1.0.0"}, {Path: host, Version: "v0.13.8"}},
	}
	defer func() { version = "" }()
	for released, want := range map[string]string{"": "(devel)", "v1.2.3": "v1.2.3"} {
		version = released
		if got := versions(info); got != "own "+want+"\n"+host+" v0.13.8\ngo1.26.8\n" {
			t.Errorf("%q: got %q", released, got)
		}
	}
}
