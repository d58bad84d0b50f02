package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/keysidecar/keysidecar/internal/admin"
)

// maxReportedRows is how many refused rows are named on standard error.
const maxReportedRows = 1000

// refusal is a row that was not imported.
type refusal struct {
	// Line is where the row begins, or its place in a list.
	Line    int    `json:"line"`
	KeyID   string `json:"key_id,omitempty"`
	Problem string `json:"problem"`
	Mend    string `json:"mend,omitempty"`
}

// importReport tells of refused rows: the first ones to people, all of them to the
// file of --report.
type importReport struct {
	cli   *cli
	word  string // what Line counts
	shown int

	file *os.File // nil if none is wanted
	to   *bufio.Writer
	err  error // the first that writing to the file met
}

func newImportReport(c *cli, format, name string) (*importReport, error) {
	r := &importReport{cli: c, word: "key"}
	if admin.Lines(format) {
		r.word = "line"
	}
	if name == "" {
		return r, nil
	}
	var err error
	if r.file, err = os.Create(name); err != nil {
		return nil, fmt.Errorf("--report: %w", err)
	}
	r.to = bufio.NewWriter(r.file)
	return r, nil
}

func (r *importReport) add(row refusal) {
	if r.shown++; r.shown <= maxReportedRows {
		text := fmt.Sprintf("%s %s", r.cli.paintedFor(r.cli.err, yellow, fmt.Sprintf("%s %d:", r.word, row.Line)), printable(row.Problem))
		if row.Mend != "" {
			text += "; " + row.Mend
		}
		fmt.Fprintln(r.cli.err, text)
	}
	if r.file == nil {
		return
	}
	line, err := json.Marshal(row)
	if err == nil {
		_, err = r.to.Write(append(line, '\n'))
	}
	if r.err == nil {
		r.err = err
	}
}

// close writes what is left of the file.
func (r *importReport) close() error {
	if r.file == nil {
		return nil
	}
	if err := errors.Join(r.err, r.to.Flush(), r.file.Close()); err != nil {
		return fmt.Errorf("--report: %w", err)
	}
	return nil
}
