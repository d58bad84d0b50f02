package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/admin"
	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/schema"
)

// validation is how thoroughly a configuration is looked at.
type validation struct {
	noFiles, connect, strict bool
}

// validity is what was found. Its JSON form is for programs.
type validity struct {
	Valid    bool             `json:"valid"`
	Mistakes []config.Mistake `json:"mistakes"`
	Warnings []string         `json:"warnings"`
	// Problems are what is wrong with the database; null if it was not asked.
	Problems []string `json:"database_problems"`
	// Promise is what a sidecar with this configuration promises.
	Promise []string `json:"promise"`
}

// validate looks at everything before it says anything. The error says no
// (noError), or that the question could not be answered.
func (c *cli) validate(cmd *cobra.Command, role config.Role, how validation) error {
	found, err := c.look(cmd, role, how)
	if err != nil {
		return err
	}
	if !c.json() {
		c.printValidity(found)
	} else if err := c.printJSON(found); err != nil {
		return err
	}
	if !found.Valid || how.strict && len(found.Warnings) > 0 {
		return &noError{errSaid}
	}
	return nil
}

func (c *cli) look(cmd *cobra.Command, role config.Role, how validation) (*validity, error) {
	found := &validity{Mistakes: []config.Mistake{}, Warnings: []string{}, Promise: []string{}}
	cfg, warnings, err := c.loadUnchecked(cmd)
	found.Warnings = append(found.Warnings, warnings...)
	errs := []error{err}
	if err == nil {
		errs = append(errs, cfg.Validate(role))
		if !how.noFiles {
			errs = append(errs, cfg.CheckFiles(role))
		}
	}
	mistakes, ok := config.Mistakes(errs...)
	if !ok {
		return nil, errors.Join(errs...)
	}
	found.Mistakes = append(found.Mistakes, mistakes...)
	if len(mistakes) > 0 {
		return found, nil
	}
	found.Warnings = append(found.Warnings, cfg.Risks(role)...)
	if how.connect {
		if found.Problems, err = databaseProblems(cmd.Context(), cfg, role); err != nil {
			return nil, err
		}
	}
	found.Valid = len(found.Problems) == 0
	if role == config.ForSidecar {
		found.Promise = cfg.Promise()
	}
	return found, nil
}

// databaseProblems asks the database that role uses; nil if it uses none.
func databaseProblems(ctx context.Context, cfg *config.Config, role config.Role) ([]string, error) {
	if cfg.Store.Kind != config.StorePostgres {
		return nil, nil
	}
	dsn, err := cfg.StoreDSN()
	relation := cfg.Store.Postgres.Relation
	if role == config.ForRelay {
		dsn, err = cfg.RelayDSN()
		relation = ""
	}
	if err != nil {
		return nil, err
	}
	db, err := admin.OpenPostgres(ctx, dsn, relation, "")
	for _, unready := range []error{schema.ErrAbsent, schema.ErrOlder, schema.ErrNewer, schema.ErrRights} {
		if errors.Is(err, unready) {
			return []string{err.Error()}, nil
		}
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close(ctx) }()
	problems, err := db.Problems(ctx)
	return append([]string{}, problems...), err
}

func (c *cli) printValidity(found *validity) {
	for _, w := range found.Warnings {
		fmt.Fprintln(c.err, "keysidecar: warning: "+w)
	}
	if len(found.Mistakes) > 0 {
		fmt.Fprintf(c.err, "keysidecar: %v:\n", config.ErrInvalid)
	}
	for i := range found.Mistakes {
		fmt.Fprintln(c.err, "  "+found.Mistakes[i].Error())
	}
	for _, p := range found.Problems {
		fmt.Fprintln(c.err, "keysidecar: problem: "+p)
	}
	if !found.Valid {
		return
	}
	if found.Problems != nil {
		fmt.Fprintln(c.out, "the database is ready")
	}
	fmt.Fprintln(c.out, "the configuration is valid")
	for _, line := range found.Promise {
		fmt.Fprintln(c.out, "- "+line)
	}
}
