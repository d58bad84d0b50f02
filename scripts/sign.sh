#!/usr/bin/env bash
# Signs the checksums of a release, and with them all files that they list, with a
# key of gpg: scripts/sign.sh dist KEY. Whoever has the public key verifies with
#   gpg --verify SHA256SUMS.asc SHA256SUMS && sha256sum --check SHA256SUMS
set -euo pipefail
dist=${1:?the folder of the release}
key=${2:-}
if [ -z "$key" ]; then
	echo "sign: SIGN_KEY must name a secret key of gpg, by its fingerprint: make sign SIGN_KEY=..." >&2
	exit 1
fi
if [ ! -f "$dist/SHA256SUMS" ]; then
	echo "sign: $dist/SHA256SUMS is not there: make release first" >&2
	exit 1
fi
gpg --batch --yes --local-user "$key" --armor --detach-sign --output "$dist/SHA256SUMS.asc" "$dist/SHA256SUMS"
gpg --batch --verify "$dist/SHA256SUMS.asc" "$dist/SHA256SUMS"
