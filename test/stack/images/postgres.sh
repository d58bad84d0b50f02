#!/bin/bash
# What the official image's entry point does with the settings that the stack uses: an
# empty folder becomes a database cluster, by way of a first server that only this
# script can reach.
set -euo pipefail

if [ ! -s "$PGDATA/PG_VERSION" ]; then
	read -r -a options <<<"${POSTGRES_INITDB_ARGS:-}"
	chmod 700 "$PGDATA"
	initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" "${options[@]}"
	echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
	PGPASSWORD=$(<"$POSTGRES_PASSWORD_FILE")
	export PGPASSWORD
	pg_ctl -D "$PGDATA" -o "-c listen_addresses='' -k /run/postgresql" -w start
	psql=(psql -v ON_ERROR_STOP=1 --no-psqlrc --no-password --host /run/postgresql --username "$POSTGRES_USER")
	"${psql[@]}" --dbname postgres --set db="$POSTGRES_DB" <<<'CREATE DATABASE :"db"'
	for f in /docker-entrypoint-initdb.d/*.sql; do
		"${psql[@]}" --dbname "$POSTGRES_DB" --file "$f"
	done
	pg_ctl -D "$PGDATA" -m fast -w stop
	unset PGPASSWORD
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/run/postgresql
