package schema_test

import (
	"testing"

	"github.com/keysidecar/keysidecar/internal/schema"
)

func TestMigratingTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	dsn := pg.NewDatabase(t)
	var said []string
	for range 2 {
		said = nil
		err := schema.Migrate(t.Context(), dsn, schema.Options{Progress: func(s string) { said = append(said, s) }})
		if err != nil {
			t.Fatal(err)
		}
		t.Log(said)
	}
	if v, err := schema.Version(t.Context(), connect(t, dsn)); v != schema.Latest || err != nil {
		t.Fatal(v, err)
	}
}
