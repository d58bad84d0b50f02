#!/usr/bin/env bash
# Makes a release twice, each time with a build cache of its own, and compares what
# came out byte for byte: scripts/release-check.sh VERSION
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:?the version}
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
for run in 1 2; do
	GOCACHE=$work/cache$run make release VERSION="$version" DIST="$work/dist$run"
	rm -rf "$work/cache$run"
done
for archive in "$work"/dist1/*.tar.gz; do
	cmp "$archive" "$work/dist2/$(basename "$archive")"
done
echo "release-check: both times the same $(ls "$work"/dist1/*.tar.gz | wc -l) archives"
