// Package adopt runs the statements of docs/capture.md that adopt an operator's
// table, as they stand there.
package adopt

import (
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/clock"
	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/schema/schematest"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

var blockOfSQL = regexp.MustCompile("(?ms)^```sql\n(.*?)^```")

// The section's statements are run in order on a real database, and then a
// keystore reads the view as a sidecar would, with the sidecar's rights.
func TestAdoptingATableWorksAsWritten(t *testing.T) {
	text, err := os.ReadFile("../../docs/capture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Adopt a table you already have\n")
	section, _, ended := strings.Cut(section, "\n## ")
	if !found || !ended {
		t.Fatal("capture.md has no such section")
	}
	dsn := schematest.NewDatabase(t, testenv.StartPostgres(t))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	blocks := 0
	for _, block := range blockOfSQL.FindAllStringSubmatch(section, -1) {
		for statement := range strings.SplitSeq(block[1], ";\n") {
			if statement = strings.TrimSpace(statement); statement == "" {
				continue
			}
			rows, err := conn.Query(ctx, statement)
			if err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
			got, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
			if err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
			switch {
			case strings.Contains(statement, "uncaptured"):
				if len(got) > 0 {
					t.Errorf("unwatched: %v", got)
				}
			case strings.Contains(statement, "FROM keysidecar.events"):
				var kinds []string
				for _, row := range got {
					kinds = append(kinds, row[0].(string))
				}
				if want := []string{"owner_changed", "revoked", "issued", "owner_changed"}; !slices.Equal(kinds, want) {
					t.Errorf("events, newest first: %v, want %v", kinds, want)
				}
			}
		}
		blocks++
	}
	if blocks < 5 {
		t.Fatalf("only %d blocks were run", blocks)
	}

	readAsASidecar(ctx, t, conn, dsn)
}

func readAsASidecar(ctx context.Context, t *testing.T, conn *pgx.Conn, dsn string) {
	t.Helper()
	do := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	source, err := keystore.NewPostgres(keystore.PostgresOptions{
		DSN:      func() (string, error) { return dsn + "&options=-c%20role%3Dkeysidecar_sidecar", nil },
		Relation: "public.keysidecar_keys", MaxConns: 2, ConnectTimeout: 2 * time.Second, ExecMode: pgx.QueryExecModeCacheStatement, Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	store, err := keystore.New(keystore.Options{
		Clock: clock.New(), Source: source, Logger: zap.NewNop(), Registerer: prometheus.NewRegistry(),
		Capacity: 100, FillTimeout: 5 * time.Second, MaxFills: 4, MissRate: 100,
		MaxStaleness: 3 * time.Second, FenceInterval: time.Second, MinFenceGap: 10 * time.Millisecond,
		Instance: "adopted", Version: "test", Report: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- store.Run(running) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-store.Warmed():
	case <-ctx.Done():
		t.Fatalf("not warm: %+v", store.Status())
	}
	expect := func(want keystore.Code) {
		t.Helper()
		a, err := store.Lookup(ctx, "pk_1", keystore.Bounds{NoCache: true})
		if err != nil || a.Code != want {
			var u *keystore.UnavailableError
			if errors.As(err, &u) {
				err = errors.Join(err, u.Err)
			}
			t.Fatalf("pk_1 is %v, %v; want %v", a.Code, err, want)
		}
	}
	expect(keystore.Revoked)
	do(`UPDATE api_keys SET disabled_at = NULL`)
	expect(keystore.OwnerSuspended)
	do(`UPDATE merchants SET blocked = false`)
	expect(keystore.Active)
	do(`DELETE FROM merchants`)
	expect(keystore.UnknownKey)
}
