package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// lookInterval is how long after its last fence a sidecar may look at the capture
// triggers (docs/guarantees.md).
const lookInterval = 500 * time.Millisecond

func captureKinds() []Kind {
	const short, long = 500 * time.Millisecond, 5 * time.Second
	kind := func(name string, off, on []string) Kind {
		return Kind{name, OfPostgres, captureLost(off, on), short, long}
	}
	const table = `ALTER TABLE keysidecar.public_keys `
	return []Kind{
		kind("capture trigger dropped",
			[]string{`DROP TRIGGER keysidecar_key_update ON keysidecar.public_keys`},
			[]string{
				`CREATE TRIGGER keysidecar_key_update AFTER UPDATE ON keysidecar.public_keys FOR EACH ROW
				WHEN (ROW(OLD.key_id, OLD.owner_id, OLD.algorithm, OLD.public_key, OLD.scopes, OLD.not_before, OLD.expires_at, OLD.revoked_at, OLD.attributes)
					IS DISTINCT FROM ROW(NEW.key_id, NEW.owner_id, NEW.algorithm, NEW.public_key, NEW.scopes, NEW.not_before, NEW.expires_at, NEW.revoked_at, NEW.attributes))
				EXECUTE FUNCTION keysidecar.capture_key()`,
				table + `ENABLE ALWAYS TRIGGER keysidecar_key_update`,
			}),
		kind("capture trigger disabled",
			[]string{table + `DISABLE TRIGGER keysidecar_key_update`}, []string{table + `ENABLE ALWAYS TRIGGER keysidecar_key_update`}),
		kind("capture trigger not enabled always",
			[]string{table + `ENABLE TRIGGER ALL`},
			[]string{
				table + `ENABLE ALWAYS TRIGGER keysidecar_key_row`, table + `ENABLE ALWAYS TRIGGER keysidecar_key_update`,
				table + `ENABLE ALWAYS TRIGGER keysidecar_key_truncate`,
			}),
		kind("table of keys swapped by renaming",
			[]string{
				table + `RENAME TO public_keys_before`,
				`CREATE TABLE keysidecar.public_keys (LIKE keysidecar.public_keys_before INCLUDING ALL)`,
				`INSERT INTO keysidecar.public_keys SELECT * FROM keysidecar.public_keys_before`,
			},
			[]string{`DROP TABLE keysidecar.public_keys`, `ALTER TABLE keysidecar.public_keys_before RENAME TO public_keys`}),
	}
}

// captureLost takes capture away, and keeps the application out meanwhile: what it
// would change claims nothing. It is mended with the reset that the operator is
// told to call.
//
// The fault's own key is revoked right away, without an event: nobody may accept it
// a look and a bound later, neither during the fault nor after it.
func captureLost(off, on []string) func(context.Context, *World, *rand.Rand) (Fault, error) {
	return func(ctx context.Context, w *World, _ *rand.Rand) (_ Fault, err error) {
		id := w.name("uncaptured")
		defer func() {
			if err != nil {
				err = errors.Join(err, w.open())
			}
		}()
		if err := w.Exec(ctx, `INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('`+id+`', '`+faultOwner+`', 'opaque')`); err != nil {
			return Fault{}, err
		}
		_ = w.poll(ctx, w.Promise.FenceInterval, "a sidecar to know it", func() (bool, error) {
			v, err := w.Sidecars[0].Get(ctx, id)
			return err == nil && v.Valid, nil
		})
		if err := w.quiet(ctx); err != nil {
			return Fault{}, err
		}
		if err := w.Exec(ctx, transaction(off)); err != nil {
			return Fault{}, err
		}
		began := time.Now()
		if err := w.Exec(ctx, `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = '`+id+`'`); err != nil {
			return Fault{}, err
		}
		// The longest bound of the fleet, a look later, and what the clocks are unsure of.
		if err := cluster.Sleep(ctx, time.Until(began.Add(w.longest()+lookInterval+50*time.Millisecond))); err != nil {
			return Fault{}, err
		}
		if err := w.nobodyAnswers(ctx, id); err != nil {
			return Fault{}, err
		}
		return Fault{Began: began, Mend: func(ctx context.Context) error {
			if err := w.nobodyAnswers(ctx, id); err != nil {
				return err
			}
			revoked := `UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = '` + id + `'`
			if err := w.Exec(ctx, transaction(append(append([]string(nil), on...), revoked, `SELECT keysidecar.reset()`))); err != nil {
				return err
			}
			return errors.Join(w.open(), w.never(ctx, began.Add(lookInterval), id))
		}}, nil
	}
}

// transaction joins statements into one, which Postgres runs as one transaction.
func transaction(statements []string) string {
	var b []byte
	for _, s := range statements {
		b = append(append(b, s...), ';')
	}
	return string(b)
}

// longest is the longest bound in the fleet.
func (w *World) longest() time.Duration {
	var bound time.Duration
	for _, s := range w.Sidecars {
		bound = max(bound, s.Bound())
	}
	return bound
}

// nobodyAnswers checks that no sidecar accepts the key id, nor any key from its
// memory. (What it reads for a request that memory has no answer for, not even an
// old one, is the state of the row at that moment, and needs no capture.)
func (w *World) nobodyAnswers(ctx context.Context, id string) error {
	for _, s := range w.Sidecars {
		for _, key := range []string{id, "thrash_1", "thrash_600"} {
			ask, cancel := context.WithTimeout(ctx, time.Second)
			v, err := s.Get(ask, key)
			cancel()
			if err == nil && v.Valid && (key == id || v.Source != "database") {
				return fmt.Errorf("%w: %s accepts %s while changes are not captured: %+v", ErrBroken, s.Name, key, v)
			}
		}
	}
	return nil
}
