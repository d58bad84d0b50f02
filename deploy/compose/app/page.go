package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"html/template"
	"net/http"
	"slices"
	"strings"
)

//go:embed page.html page.css page.js
var files embed.FS

// maxKeys bounds what one page asks for.
const maxKeys = 100

// pages serves the page, and as JSON what it shows.
type pages struct {
	name    string
	keys    []string
	sidecar *sidecar
	page    *template.Template
}

// row is one key on the page.
type row struct {
	KeyID string `json:"key_id"`
	// Answer is what the application would do: use, refuse, or fail for now.
	Answer string `json:"answer"`
	// Code is the sidecar's reason.
	Code string `json:"code"`
	// AgeMS is how long ago the sidecar knew that this was true, in milliseconds.
	AgeMS int64 `json:"age_ms"`
	// Source is where the sidecar had it from: cache or database.
	Source string `json:"source"`
}

const (
	answerUse    = "use"
	answerRefuse = "refuse"
	answerFail   = "cannot tell"
)

func newPages(name string, keys []string, s *sidecar) http.Handler {
	keys = slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return strings.TrimSpace(k) == "" })
	p := &pages{name: name, keys: keys[:min(len(keys), maxKeys)], sidecar: s, page: template.Must(template.ParseFS(files, "page.html"))}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.show)
	mux.HandleFunc("GET /keys.json", p.list)
	mux.Handle("GET /page.css", http.FileServerFS(files))
	mux.Handle("GET /page.js", http.FileServerFS(files))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	return harden(mux)
}

// harden lets a browser run and load what comes from here, and nothing else.
func harden(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func (p *pages) rows(ctx context.Context) []row {
	rows := make([]row, len(p.keys))
	for i, id := range p.keys {
		v, use, err := p.sidecar.ask(ctx, id)
		r := row{KeyID: id, Answer: answerRefuse, Code: v.Code, AgeMS: v.AsOf.AgeMS, Source: v.Source}
		switch {
		case err != nil:
			r.Answer, r.Code = answerFail, err.Error()
		case use:
			r.Answer = answerUse
		}
		rows[i] = r
	}
	return rows
}

func (p *pages) show(w http.ResponseWriter, r *http.Request) {
	var text bytes.Buffer
	if err := p.page.Execute(&text, map[string]any{"Name": p.name, "Rows": p.rows(r.Context())}); err != nil {
		http.Error(w, "the page cannot be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(text.Bytes()) // the browser that is gone cannot be told
}

func (p *pages) list(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"name": p.name, "keys": p.rows(r.Context())})
}
