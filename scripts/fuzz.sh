#!/usr/bin/env bash
# Runs every fuzz target of the repository for a while: scripts/fuzz.sh 15s
set -euo pipefail
time=${1:-15s}
cd "$(dirname "$0")/.."

grep -rlE --include='*_test.go' '^func Fuzz[A-Z]' . | sort | while read -r file; do
	for target in $(sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$file"); do
		echo "fuzz: $(dirname "$file") $target for $time"
		go test "$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$time"
	done
done
