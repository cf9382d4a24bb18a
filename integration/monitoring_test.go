package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gopkg.in/yaml.v2"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/internal/needs"
)

const (
	alertsFile    = "../docs/monitoring/alerts.yml"
	dashboardFile = "../docs/monitoring/dashboard.json"
)

// TestMonitoring: a real Prometheus that watches real servers has a sample for each query of the dashboard, and for the
// left side of each alert. promtool accepts the alerts.
func TestMonitoring(t *testing.T) {
	prometheus, promtool := needs.Prometheus(t)
	if out, err := exec.Command(promtool, "check", "rules", alertsFile).CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
	api := watch(t, prometheus, harness.StartServers(t, 2))
	ctx := harness.Within(t)
	for title, query := range queries(t) {
		if err := awaitSample(ctx, api, query); err != nil {
			t.Errorf("%s: %s: %v", title, query, err)
		}
	}
	if err := sample(ctx, api+"mimiport_no_such_metric"); err == nil {
		t.Error("a query of nothing has a sample")
	}
}

// TestDrainAlerts: the alerts of a drain fire when groups are stuck, and when groups are left near the deadline.
func TestDrainAlerts(t *testing.T) {
	_, promtool := needs.Prometheus(t)
	if out, err := exec.Command(promtool, "test", "rules", "testdata/alerts.yml").CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
}

// watch runs a Prometheus that asks the servers each second, and returns the URL of its queries.
func watch(t *testing.T, program string, servers []*harness.Server) string {
	t.Helper()
	var targets []string
	for _, s := range servers {
		targets = append(targets, strings.TrimPrefix(s.URL, "http://"))
	}
	rules, err := filepath.Abs(alertsFile)
	if err != nil {
		t.Fatal(err)
	}
	config, err := yaml.Marshal(map[string]any{
		"global":     map[string]any{"scrape_interval": "1s", "evaluation_interval": "1s"},
		"rule_files": []string{rules},
		"scrape_configs": []any{map[string]any{
			"job_name": "dendrite", "static_configs": []any{map[string]any{"targets": targets}},
			"basic_auth": map[string]string{"username": harness.MetricsUser, "password": harness.MetricsUser},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config.file", file, "--storage.tsdb.path", dir, "--web.listen-address", at)
	log := new(strings.Builder)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Log(log)
		}
	})
	return "http://" + at + "/api/v1/query?query="
}

// awaitSample asks a query until it has a sample: Prometheus needs a few rounds.
func awaitSample(ctx context.Context, api, query string) error {
	for {
		err := sample(ctx, api+url.QueryEscape(query))
		if err == nil || ctx.Err() != nil {
			return err
		}
		harness.Breathe(ctx)
	}
}

func sample(ctx context.Context, address string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string `json:"error"`
		Data  struct {
			Result []json.RawMessage `json:"result"`
		} `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if len(answer.Data.Result) == 0 {
		return fmt.Errorf("no sample %s", answer.Error)
	}
	return nil
}

// queries returns the queries of the dashboard and the left sides of the alerts, by title.
func queries(t *testing.T) map[string]string {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string `json:"title"`
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
	}
	text, err := os.ReadFile(dashboardFile)
	if err == nil {
		err = json.Unmarshal(text, &dashboard)
	}
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, p := range dashboard.Panels {
		for i, target := range p.Targets {
			all[fmt.Sprint(p.Title, " ", i)] = target.Expr
		}
	}
	var alerts struct {
		Groups []struct {
			Rules []struct {
				Alert string `yaml:"alert"`
				Expr  string `yaml:"expr"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	if text, err = os.ReadFile(alertsFile); err == nil {
		err = yaml.Unmarshal(text, &alerts)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range alerts.Groups {
		for _, rule := range g.Rules {
			end := max(strings.LastIndex(rule.Expr, " > "), strings.LastIndex(rule.Expr, " < "))
			if end < 0 {
				t.Fatalf("%s compares nothing", rule.Alert)
			}
			all[rule.Alert] = rule.Expr[:end]
		}
	}
	if len(all) < 25 {
		t.Fatalf("only %d queries", len(all))
	}
	return all
}
