#!/usr/bin/env bash
# Makes sure that what `make test` and `make demo` start privately is there: the
# server programs of PostgreSQL and RabbitMQ, the gateways nginx, Caddy and HAProxy,
# Prometheus, which checks the alerts, Chromium, which looks at the status pages, gpg,
# which signs releases, a C compiler for the race detector, Spin, which checks the
# protocol's model, and what the programs of examples/ are written in: curl and jq,
# Python, Java, Node. `deps.sh bench` also wants what the benchmarks compare with:
# Redis. On Debian and Ubuntu, as root, it installs what is missing.
# The packages' own services are neither started nor enabled, and no database
# cluster is created: the tests run the programs by themselves.
# Debian 12 and Ubuntu 24.04 have all of them.
set -euo pipefail

missing=()
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing+=(rabbitmq-server)
command -v "${CC:-gcc}" >/dev/null || command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v gpg >/dev/null || missing+=(gnupg)
command -v prometheus >/dev/null && command -v promtool >/dev/null || missing+=(prometheus)
command -v chromium >/dev/null || command -v google-chrome >/dev/null || missing+=(chromium)
command -v gcc >/dev/null && command -v spin >/dev/null || missing+=(spin gcc libc6-dev)
gateways=(nginx caddy haproxy)
for program in "${gateways[@]}"; do
	PATH=$PATH:/usr/sbin:/usr/local/sbin command -v "$program" >/dev/null || missing+=("$program")
done
# The programs of examples/ and the languages they are in.
for program in curl jq python3; do
	command -v "$program" >/dev/null || missing+=("$program")
done
[ -x /usr/bin/python3 ] && /usr/bin/python3 -c 'import httpx' 2>/dev/null || missing+=(python3 python3-httpx)
command -v javac >/dev/null || missing+=(default-jdk-headless)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
if [ "${1:-}" = bench ]; then
	command -v redis-server >/dev/null || missing+=(redis-server)
fi

if [ ${#missing[@]} -eq 0 ]; then
	exit 0
fi

if ! command -v apt-get >/dev/null; then
	cat >&2 <<-TXT
	deps: missing: ${missing[*]}
	deps: this script installs packages on Debian and Ubuntu only. Please install
	deps: PostgreSQL (14 or newer) and RabbitMQ so that these exist:
	deps:   /usr/lib/postgresql/<version>/bin/postgres
	deps:   /usr/lib/rabbitmq/bin/rabbitmq-server
	deps: and gcc (the race detector and the model need it), gpg, spin, nginx, caddy,
	deps: haproxy, prometheus, promtool and chromium on the PATH; for the examples curl,
	deps: jq, node (18 or newer) and npm, a JDK (17 or newer), and /usr/bin/python3 with
	deps: httpx; for the benchmarks also redis-server.
	TXT
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "deps: missing: ${missing[*]}" >&2
	echo "deps: installing packages needs root; run: sudo $0 $*" >&2
	exit 1
fi

echo "deps: installing ${missing[*]} with apt-get; their services are not started"

# policy-rc.d is how Debian lets an administrator forbid that a package's
# installation starts its service (exit code 101). It is put back as it was.
policy=/usr/sbin/policy-rc.d
saved=
restore() {
	if [ -n "$saved" ]; then mv -f "$saved" "$policy"; else rm -f "$policy"; fi
}
if [ -e "$policy" ]; then
	saved=$(mktemp "$policy.keysidecar.XXXXXX")
	cp -p "$policy" "$saved"
fi
trap restore EXIT
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
install() {
	apt-get install -y -q --no-install-recommends "$@" </dev/null
}
apt-get update -q </dev/null || echo "deps: some package lists could not be updated, going on" >&2

if [[ " ${missing[*]} " == *" postgresql "* ]]; then
	# postgresql-common decides whether a first cluster is made; ask it not to,
	# for this installation only.
	install postgresql-common
	conf=/etc/postgresql-common/createcluster.conf
	touch "$conf"
	cp -p "$conf" "$conf.keysidecar"
	trap 'mv -f "$conf.keysidecar" "$conf"; restore' EXIT
	echo 'create_main_cluster = false' >>"$conf"
fi
install "${missing[@]}"
if command -v deb-systemd-helper >/dev/null; then
	# Enabled means started at the next boot. The helper serves only those who say
	# whose script they are; most packages here have no service to disable.
	for package in "${missing[@]}"; do
		DPKG_MAINTSCRIPT_PACKAGE=$package deb-systemd-helper disable "$package.service" >/dev/null 2>&1 || true
	done
fi
echo "deps: done"
