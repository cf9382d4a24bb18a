// Command vectors writes the test vectors of package mimiport into a directory, one JSON file for each structure.
// mimiport/testdata/README.md describes the format. The output is always the same: keys and nonces are derived from
// fixed names.
package main

import (
	"encoding/json"
	"log"
	"os"
	"path/filepath"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: vectors DIRECTORY")
	}
	files, err := generate()
	if err != nil {
		log.Fatal(err)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(os.Args[1], name), data, 0o644); err != nil {
			log.Fatal(err)
		}
	}
}

// generate returns the contents of every file by its name.
func generate() (map[string][]byte, error) {
	s, err := newSamples()
	if err != nil {
		return nil, err
	}
	derived, err := derivations(s)
	if err != nil {
		return nil, err
	}
	contents := map[string]any{
		"derivations.json":    derived,
		"server_names.json":   serverNames,
		"chains.json":         chains(),
		"direct_headers.json": directHeaders(s),
		"bounds.json":         bounds(s),
		"partings.json":       partings(), "contents.json": contents(),
		"content_requests.json": contentRequests(s),
	}
	for _, suite := range suites(s) {
		f, err := suite.file()
		if err != nil {
			return nil, err
		}
		contents[suite.fileName] = f
	}
	files := make(map[string][]byte)
	for name, content := range contents {
		data, err := json.MarshalIndent(content, "", "  ")
		if err != nil {
			return nil, err
		}
		files[name] = append(data, '\n')
	}
	return files, nil
}
