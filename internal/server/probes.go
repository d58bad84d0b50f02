package server

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Why a probe of the keystore fails.
var (
	errNotWarm  = errors.New("the first load of the keys is not done")
	errNotFresh = errors.New("the lease is over and no stale answers are served")
)

// startupChecks gate the start of the application: the keys are loaded. A relay
// has started when it runs.
func (a *Admin) startupChecks() []Check {
	if a.opts.Status == nil || a.opts.StartUnwarmed {
		return nil
	}
	return []Check{{"warmed", a.warmed}}
}

// readinessChecks: the sidecar answers from memory, fresh or, if that is the
// policy, stale. Whether Postgres or the broker can be reached right now is no
// part of it: a failure there must not take the application out of its Service
// while the sidecar still answers.
func (a *Admin) readinessChecks() []Check {
	if a.opts.Status == nil {
		return a.opts.Checks
	}
	return append([]Check{{"warmed", a.warmed}, {"fresh", a.fresh}}, a.opts.Checks...)
}

func (a *Admin) warmed() error {
	if s := a.opts.Status(); !s.Warmed {
		return errNotWarm
	}
	return nil
}

func (a *Admin) fresh() error {
	if s := a.opts.Status(); !s.Fresh && !s.ServesStale {
		return errNotFresh
	}
	return nil
}

// probe answers 200 if all checks pass and 503 if not, in the words of
// Kubernetes: ?verbose lists the checks, ?exclude=name leaves one out. Without
// checks it says that the process serves requests, and nothing else.
func (*Admin) probe(name string, checks []Check) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		excluded := r.URL.Query()["exclude"]
		var lines strings.Builder
		lines.WriteString("[+]ping ok\n")
		failed := false
		for _, c := range checks {
			if i := slices.Index(excluded, c.Name); i >= 0 {
				excluded = slices.Delete(excluded, i, i+1)
				fmt.Fprintf(&lines, "[+]%s excluded: ok\n", c.Name)
				continue
			}
			if err := c.Check(); err != nil {
				failed = true
				fmt.Fprintf(&lines, "[-]%s failed: %v\n", c.Name, err)
				continue
			}
			fmt.Fprintf(&lines, "[+]%s ok\n", c.Name)
		}
		if len(excluded) > 0 {
			fmt.Fprintf(&lines, "warn: some checks cannot be excluded: no matches for %q\n", strings.Join(excluded, ", "))
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		switch {
		case failed:
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintf(w, "%s%s check failed\n", lines.String(), name)
		case r.URL.Query().Has("verbose"):
			fmt.Fprintf(w, "%s%s check passed\n", lines.String(), name)
		default:
			_, _ = w.Write([]byte("ok"))
		}
	}
}
