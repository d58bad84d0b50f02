package monitoring

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// dashboard is the part of Grafana's model that the shipped one uses.
type dashboard struct {
	UID           string `json:"uid"`
	Title         string `json:"title"`
	SchemaVersion int    `json:"schemaVersion"`
	Annotations   struct {
		List []struct {
			Name string `json:"name"`
			Expr string `json:"expr"`
		} `json:"list"`
	} `json:"annotations"`
	Templating struct {
		List []struct {
			Name       string `json:"name"`
			Type       string `json:"type"`
			Definition string `json:"definition"`
			AllValue   string `json:"allValue"`
		} `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

type panel struct {
	ID          int      `json:"id"`
	Type        string   `json:"type"`
	Title       string   `json:"title"`
	Description string   `json:"description"`
	GridPos     grid     `json:"gridPos"`
	Datasource  source   `json:"datasource"`
	Targets     []target `json:"targets"`
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
}

type grid struct{ H, W, X, Y int }

type source struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

type target struct {
	RefID      string `json:"refId"`
	Expr       string `json:"expr"`
	Datasource source `json:"datasource"`
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "deploy/grafana/dashboards/keysidecar.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

// Grafana shows a panel that it cannot place or read as an empty box, and says
// nothing.
func TestAPanelOfTheDashboardIsNotShown(t *testing.T) {
	d := readDashboard(t)
	if d.UID != "keysidecar" || d.Title == "" || d.SchemaVersion < 36 {
		t.Errorf("uid %q, title %q, schema %d", d.UID, d.Title, d.SchemaVersion)
	}
	variables := make([]string, 0, len(d.Templating.List))
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
		if v.Type == "query" && v.AllValue != ".*" {
			t.Errorf("variable %s: All does not find series without the label", v.Name)
		}
	}
	for _, want := range []string{"datasource", "namespace", "workload", "job", "relay"} {
		if !slices.Contains(variables, want) {
			t.Errorf("there is no variable %s", want)
		}
	}
	ids := make(map[int]bool)
	var taken [500][24]string
	rows := 0
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("%s: its id %d is another's", p.Title, p.ID)
		}
		ids[p.ID] = true
		for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				if other := taken[y][x]; other != "" {
					t.Fatalf("%s lies over %s", p.Title, other)
				}
				taken[y][x] = p.Title
			}
		}
		if p.Type == "row" {
			rows++
			continue
		}
		if p.Title == "" || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d (%s) lacks a title, description, unit or query", p.ID, p.Title)
		}
		if !slices.Contains([]string{"stat", "timeseries"}, p.Type) || p.Datasource.UID != "${datasource}" {
			t.Errorf("%s: type %s, datasource %s", p.Title, p.Type, p.Datasource.UID)
		}
		refs := make(map[string]bool)
		for _, q := range p.Targets {
			if refs[q.RefID] || q.Datasource.UID != "${datasource}" {
				t.Errorf("%s: query %s: its name is taken, or it asks %s", p.Title, q.RefID, q.Datasource.UID)
			}
			refs[q.RefID] = true
			if strings.Contains(q.Expr, "[5m]") {
				t.Errorf("%s: a fixed range does not fit every scrape interval: %s", p.Title, q.Expr)
			}
		}
	}
	if rows < 5 {
		t.Errorf("only %d rows", rows)
	}
}

func TestTheProvisioningNamesWhatIsNotThere(t *testing.T) {
	var sources struct {
		Datasources []struct{ Name, UID, Type, URL string }
	}
	readYAML(t, "deploy/grafana/provisioning/datasources/keysidecar.yml", &sources)
	if len(sources.Datasources) != 1 || sources.Datasources[0].Type != "prometheus" || sources.Datasources[0].URL == "" {
		t.Errorf("have %+v", sources)
	}
	var boards struct {
		Providers []struct {
			Type    string
			Options struct{ Path string }
		}
	}
	readYAML(t, "deploy/grafana/provisioning/dashboards/keysidecar.yml", &boards)
	if len(boards.Providers) != 1 || boards.Providers[0].Type != "file" || boards.Providers[0].Options.Path == "" {
		t.Errorf("have %+v", boards)
	}
}
