// Command vulncheck runs govulncheck on this module's programs and compares the findings with the list of allowed
// ones. It fails for a finding that is not on the list, and for an entry of the list that is not found.
//
//	vulncheck DATABASE
//
// DATABASE is a tar.gz archive with the Go vulnerability database in the folder osv. Without the archive, vulncheck
// checks nothing. It then fails if MIMI_REQUIRE_ALL is set.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// allowed has the allowed findings, each with its reason.
var allowed = map[string]string{
	"GO-2025-3396": "gomatrixserverlib dials any address (CVE-2024-52594). Dendrite v0.13.8 does not compile with the " +
		"fix. The module's own requests go through federation/dial. SECURITY.md says how to contain Dendrite's.",
}

const (
	requireEnv  = "MIMI_REQUIRE_ALL"
	govulncheck = "golang.org/x/vuln/cmd/govulncheck@v1.9.0"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: vulncheck DATABASE")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "vulncheck:", err)
		os.Exit(1)
	}
}

func run(database string) error {
	if _, err := os.Stat(database); errors.Is(err, fs.ErrNotExist) && os.Getenv(requireEnv) == "" {
		fmt.Printf("vulncheck: SKIPPED, nothing was checked: there is no vulnerability database at %s\n", database)
		return nil
	}
	dir, err := os.MkdirTemp("", "vulncheck")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) // nolint: errcheck // in the temporary directory
	if _, err := output("tar", "-xzf", database, "-C", dir); err != nil {
		return err
	}
	url := "file://" + filepath.Join(dir, "osv")
	vex, err := output("go", "run", govulncheck, "-db", url, "-format", "openvex", "./cmd/...")
	if err != nil {
		return err
	}
	found, err := findings(vex)
	if err != nil {
		return err
	}
	if err := judge(found, allowed); err != nil {
		return err
	}
	fmt.Printf("vulncheck: no new finding, and %d allowed ones\n", len(found))
	return nil
}

func output(name string, args ...string) ([]byte, error) {
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, &stderr)
	}
	return out, nil
}

// findings lists the vulnerabilities in an OpenVEX document whose code the programs call. It maps an id to a
// description.
func findings(document []byte) (map[string]string, error) {
	var vex struct {
		Statements []struct {
			Vulnerability struct {
				Name, Description string
				Aliases           []string
			}
			Products []struct {
				Subcomponents []struct {
					ID string `json:"@id"`
				}
			}
			Status string
		}
	}
	if err := json.Unmarshal(document, &vex); err != nil {
		return nil, fmt.Errorf("govulncheck's answer: %w", err)
	}
	if len(vex.Statements) == 0 {
		return nil, errors.New("govulncheck's answer: no vulnerability of any module, so the database cannot be whole")
	}
	found := make(map[string]string)
	for _, s := range vex.Statements {
		switch s.Status {
		case "affected":
			v := s.Vulnerability
			found[v.Name] = fmt.Sprintf("%s %s %s", v.Description, v.Aliases, s.Products)
		case "not_affected": // required or imported, but not called
		default:
			return nil, fmt.Errorf("govulncheck's answer: %s has the unknown status %q", s.Vulnerability.Name, s.Status)
		}
	}
	return found, nil
}

// judge returns an error for each finding that is not allowed, and for each allowed one that is not found.
func judge(found, allowed map[string]string) error {
	var wrong []error
	for _, id := range slices.Sorted(maps.Keys(found)) {
		if allowed[id] == "" {
			wrong = append(wrong, fmt.Errorf("%s: %s: raise the module, or allow it with a reason", id, found[id]))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(allowed)) {
		if _, ok := found[id]; !ok {
			wrong = append(wrong, fmt.Errorf("%s is allowed, but not found any more: take it off the list", id))
		}
	}
	return errors.Join(wrong...)
}
