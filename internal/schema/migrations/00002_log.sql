-- The log, and the second stage of capture: what the first stage noted in staging
-- gets its numbers at COMMIT, behind the gate. The package documentation of
-- internal/schema says why it is done this way.

-- +goose Up

-- Only ever locked, never written.
CREATE TABLE keysidecar.gate ();
COMMENT ON TABLE keysidecar.gate IS 'Locked from numbering to the end of the commit, so that seq order is commit order. Always empty.';

CREATE SEQUENCE keysidecar.seq AS bigint MINVALUE 0 START 0;

CREATE TABLE keysidecar.events (
	seq           bigint PRIMARY KEY,
	event_id      uuid NOT NULL DEFAULT gen_random_uuid(),
	kind          text NOT NULL,
	key_id        text COLLATE "C",
	owner_id      text COLLATE "C",
	occurred_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
	actor         text NOT NULL,
	claimed_actor text,
	CONSTRAINT kind_says_what_is_named CHECK (CASE
		WHEN kind IN ('issued', 'changed', 'revoked', 'deleted') THEN key_id IS NOT NULL
		WHEN kind = 'owner_changed' THEN key_id IS NULL AND owner_id IS NOT NULL
		WHEN kind = 'reset' THEN key_id IS NULL AND owner_id IS NULL
		ELSE false END)
);
CREATE INDEX events_key_id ON keysidecar.events (key_id, seq) WHERE key_id IS NOT NULL;
CREATE INDEX events_owner_changed ON keysidecar.events (owner_id, seq) WHERE kind = 'owner_changed';
COMMENT ON TABLE keysidecar.events IS 'The log of changes in commit order, append-only. A hole in seq is a transaction that failed, never a lost event.';
COMMENT ON COLUMN keysidecar.events.actor IS 'The role that made the change: SET ROLE, else the session''s user.';
COMMENT ON COLUMN keysidecar.events.claimed_actor IS 'What the session said in the setting keysidecar.actor; nobody has checked it.';

-- The rows of both tables live within one transaction, which deletes them when it
-- numbers its changes; nobody else ever sees one. xid tells transactions apart.
CREATE UNLOGGED TABLE keysidecar.staging (
	xid           xid8 NOT NULL DEFAULT pg_current_xact_id(),
	id            bigint GENERATED ALWAYS AS IDENTITY (CACHE 32),
	kind          text NOT NULL,
	key_id        text,
	owner_id      text,
	occurred_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
	actor         text NOT NULL DEFAULT coalesce(nullif(current_setting('role'), 'none'), session_user),
	claimed_actor text DEFAULT nullif(left(current_setting('keysidecar.actor', true), 256), ''),
	PRIMARY KEY (xid, id)
) WITH (vacuum_truncate = off);
COMMENT ON TABLE keysidecar.staging IS 'Changes of running transactions, on their way to events.';

CREATE UNLOGGED TABLE keysidecar.pending (
	xid  xid8 PRIMARY KEY DEFAULT pg_current_xact_id(),
	turn integer NOT NULL DEFAULT 1
) WITH (fillfactor = 50, vacuum_truncate = off);
COMMENT ON TABLE keysidecar.pending IS 'Running transactions that have changes to number.';

-- Called twice at COMMIT. The first call was queued by the first change, perhaps
-- before the application queued checks of its own, which may wait for locks; so it
-- only queues the second, which comes after all of those. The gate is therefore
-- the last lock that a transaction takes.
--
-- Rows of pending are found by their place (ctid): an index scan would make
-- serializable transactions conflict that have nothing to do with each other.
-- A sequential scan of staging would do the same, and meet other transactions'
-- rows; hence enable_seqscan.
-- +goose StatementBegin
CREATE FUNCTION keysidecar.number_events() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $$
BEGIN
	IF TG_OP = 'INSERT' THEN
		UPDATE keysidecar.pending SET turn = 2 WHERE ctid = NEW.ctid AND xid = NEW.xid;
	ELSE
		DELETE FROM keysidecar.pending WHERE ctid = NEW.ctid AND xid = NEW.xid;
	END IF;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'keysidecar: the row of transaction % in keysidecar.pending is gone', NEW.xid;
	END IF;
	IF TG_OP = 'INSERT' THEN
		RETURN NULL;
	END IF;
	LOCK TABLE keysidecar.gate IN EXCLUSIVE MODE;
	WITH mine AS (
		DELETE FROM keysidecar.staging WHERE xid = NEW.xid RETURNING *
	)
	INSERT INTO keysidecar.events (seq, kind, key_id, owner_id, occurred_at, actor, claimed_actor)
		SELECT nextval('keysidecar.seq'), m.kind, m.key_id, m.owner_id, m.occurred_at, m.actor, m.claimed_actor
		FROM (SELECT * FROM mine ORDER BY id) AS m;
	-- Wakes the relay. It also makes Postgres refuse PREPARE TRANSACTION, which would
	-- keep the gate locked until somebody commits the prepared transaction.
	PERFORM pg_notify('keysidecar', '');
	RETURN NULL;
END $$;
-- +goose StatementEnd

CREATE CONSTRAINT TRIGGER number_events AFTER INSERT OR UPDATE ON keysidecar.pending
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION keysidecar.number_events();
ALTER TABLE keysidecar.pending ENABLE ALWAYS TRIGGER number_events;

-- The log is never empty, so that every cursor is a row of it.
INSERT INTO keysidecar.events (seq, kind, actor) VALUES (nextval('keysidecar.seq'), 'reset', 'migrate');

-- +goose Down

DROP TABLE keysidecar.pending;
DROP FUNCTION keysidecar.number_events();
DROP TABLE keysidecar.staging;
DROP TABLE keysidecar.events;
DROP SEQUENCE keysidecar.seq;
DROP TABLE keysidecar.gate;
