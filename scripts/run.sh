#!/usr/bin/env bash
# Runs a sidecar on sample keys from a file, in ./run, and says what to try.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p run
# A copy, so that revoking a key leaves the repository as it is. Nobody else may
# write it, or the sidecar refuses it.
install -m 600 configs/dev-keys.yaml run/keys.yaml

socket=run/keysidecar.sock
cat <<TXT

  The sidecar listens on $PWD/$socket
  In another terminal, in $PWD, try:

  a good key:         curl -i --unix-socket $socket http://localhost/v1/keys/pk_demo_good
  a revoked one:      curl -i --unix-socket $socket http://localhost/v1/keys/pk_demo_revoked
  an unknown one:     curl -i --unix-socket $socket http://localhost/v1/keys/pk_demo_nobody
  may it refund?      curl -i --unix-socket $socket http://localhost/v1/verify --json '{"key_id":"pk_demo_good","scopes":["refund"]}'
  a secret key:       echo ks_demo_secret | bin/keysidecar --config configs/dev.yaml verify --key=-

  revoke a key:       bin/keysidecar --config configs/dev.yaml keys revoke pk_demo_good
  and see it refused: bin/keysidecar --config configs/dev.yaml verify --no-cache pk_demo_good

  how fresh it is:    bin/keysidecar --config configs/dev.yaml status
  metrics, probes:    curl http://127.0.0.1:9476/metrics

  Ctrl-C ends it.

TXT
exec bin/keysidecar --config configs/dev.yaml serve
