-- What sidecars and the relay keep in the database besides the log.

-- +goose Up

CREATE TABLE keysidecar.settings (
	name  text PRIMARY KEY,
	value text NOT NULL
);
COMMENT ON TABLE keysidecar.settings IS 'Durable settings of the whole fleet.';
-- A program built for at least this version of the schema can use the database.
-- A migration that older programs cannot live with raises it.
INSERT INTO keysidecar.settings VALUES ('schema.serves_from', '8');

CREATE TABLE keysidecar.instances (
	registration     uuid PRIMARY KEY,
	instance         text NOT NULL CHECK (octet_length(instance) BETWEEN 1 AND 256),
	max_staleness_ms bigint NOT NULL CHECK (max_staleness_ms > 0),
	stale_limit_ms   bigint NOT NULL CHECK (stale_limit_ms >= 0),
	bound_ms         bigint NOT NULL GENERATED ALWAYS AS (greatest(max_staleness_ms, stale_limit_ms)) STORED,
	policy           text NOT NULL CHECK (policy IN ('fail_closed', 'serve_stale')),
	version          text NOT NULL,
	registered_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
	-- The newest report; NULL before the first.
	cursor_seq       bigint,
	cursor_event     uuid,
	timeline         text,
	reported_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
	-- Nothing asked from now on counts, and after bound_ms the row may go.
	marked_at        timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE keysidecar.instances IS 'The registry: running sidecars and how far each has read the log. One row a process start.';
COMMENT ON COLUMN keysidecar.instances.bound_ms IS 'How long after a question this sidecar may still answer by what it was told then.';

CREATE TABLE keysidecar.relay (
	id            boolean PRIMARY KEY DEFAULT true CHECK (id),
	published_seq bigint NOT NULL,
	published_at  timestamptz,
	leader        text
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE keysidecar.relay IS 'How far the log was published: every event up to published_seq was confirmed by the broker.';
-- The genesis event tells nobody anything.
INSERT INTO keysidecar.relay (published_seq) VALUES (0);

-- +goose Down

DROP TABLE keysidecar.relay;
DROP TABLE keysidecar.instances;
DROP TABLE keysidecar.settings;
