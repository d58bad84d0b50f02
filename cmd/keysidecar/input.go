package main

import (
	"fmt"
	"io"
	"os"
)

// readInput returns what a file holds, or standard input for "-".
func readInput(name string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxInputBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxInputBytes {
		return nil, fmt.Errorf("more than %d bytes", maxInputBytes)
	}
	return data, nil
}
