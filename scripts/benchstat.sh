#!/usr/bin/env bash
# Compares the hot path of the working directory with that of another commit:
# scripts/benchstat.sh main~1 10. Both are built first and then run in turn, so that
# a machine that grows slower or faster meanwhile does so for both.
set -euo pipefail
base=${1:?usage: scripts/benchstat.sh COMMIT [ROUNDS]}
rounds=${2:-6}
cd "$(dirname "$0")/.."
root=$PWD

tmp=$(mktemp -d)
cleanup() {
	git worktree remove --force "$tmp/base" 2>/dev/null || true
	rm -rf "$tmp"
}
trap cleanup EXIT
git worktree add --quiet --detach "$tmp/base" "$base"
go build -C tools -o "$tmp/benchstat" golang.org/x/perf/cmd/benchstat

packages=(internal/keystore internal/server internal/clock)
build() { # directory, name
	for p in "${packages[@]}"; do
		go test -C "$1" -c -o "$tmp/$2-$(basename "$p")" "./$p"
	done
}
run() { # directory, name
	for p in "${packages[@]}"; do
		# Benchmarks that start servers say little of the code, and much of the servers.
		(cd "$1/$p" && "$tmp/$2-$(basename "$p")" -test.run '^$' -test.bench 'LookupCached|GetKey|Verify|BatchOf100|Framer|AppendVerdict|Now' \
			-test.benchtime 0.3s -test.benchmem >>"$tmp/$2.txt")
	done
}
build "$tmp/base" before
build "$root" after
for ((i = 1; i <= rounds; i++)); do
	echo "round $i of $rounds" >&2
	run "$tmp/base" before
	run "$root" after
done
"$tmp/benchstat" "$tmp/before.txt" "$tmp/after.txt"
