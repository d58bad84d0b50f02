package schema

import (
	"fmt"
	"io"
	"strings"
)

// Print writes everything Migrate does to an empty database as one script of
// plain SQL, in one transaction, for a database administrator to read and run:
//
//	keysidecar migrate --print | psql "$DSN"
//
// On a database that has the schema already the script fails and changes nothing.
// Migrate accepts a database made by it.
func Print(w io.Writer) error {
	all, err := migrations()
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "-- keysidecar: schema version %d, for an empty database.\n\nBEGIN;\n\n", Latest)
	fmt.Fprintf(&b, "SELECT pg_advisory_xact_lock(%d);\n\n%s\n", int64(advisoryLock), prologue)
	for _, m := range all {
		fmt.Fprintf(&b, "-- %s\n\n%s\n\nINSERT INTO %s (version_id, is_applied) VALUES (%d, true);\n\n", m.name, m.up, versionTable, m.version)
	}
	b.WriteString("SELECT missing AS \"roles that do not exist and could not be created\" FROM keysidecar.grant_roles();\n\nCOMMIT;\n")
	_, err = io.WriteString(w, b.String())
	return err
}
