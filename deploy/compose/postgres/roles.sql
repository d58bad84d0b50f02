-- Run once by the image, as the superuser, in the database that the stack uses. The
-- group roles are those that `keysidecar migrate` would make if it were allowed to make
-- roles; docs/operations.md says what each may do. Passwords come from files.
\set ON_ERROR_STOP on
\set owner `cat /run/secrets/owner`
\set relay `cat /run/secrets/relay`
\set sidecar `cat /run/secrets/sidecar`
\set shop `cat /run/secrets/shop`

CREATE ROLE keysidecar_sidecar NOLOGIN;
CREATE ROLE keysidecar_relay NOLOGIN;
CREATE ROLE keysidecar_app NOLOGIN;

CREATE ROLE owner LOGIN PASSWORD :'owner';
CREATE ROLE relay LOGIN PASSWORD :'relay' IN ROLE keysidecar_relay;
CREATE ROLE sidecar LOGIN PASSWORD :'sidecar' IN ROLE keysidecar_sidecar;
CREATE ROLE shop LOGIN PASSWORD :'shop' IN ROLE keysidecar_app;

REVOKE ALL ON DATABASE keys FROM PUBLIC;
GRANT CONNECT, CREATE ON DATABASE keys TO owner;
GRANT CONNECT ON DATABASE keys TO relay, sidecar, shop;
GRANT TEMPORARY ON DATABASE keys TO shop; -- keys import stages its rows
