-- The log, and the second stage of capture: a change that the first stage noted
-- in staging gets its number at COMMIT, behind the gate. The package
-- documentation says why it is done this way.

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

CREATE UNLOGGED TABLE keysidecar.staging (
	kind          text NOT NULL,
	key_id        text,
	owner_id      text,
	occurred_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
	actor         text NOT NULL DEFAULT coalesce(nullif(current_setting('role'), 'none'), session_user),
	claimed_actor text DEFAULT nullif(left(current_setting('keysidecar.actor', true), 256), '')
);
COMMENT ON TABLE keysidecar.staging IS 'Changes of running transactions, on their way to events. Rows that others can see are finished with.';

-- +goose StatementBegin
CREATE FUNCTION keysidecar.number_event() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	LOCK TABLE keysidecar.gate IN EXCLUSIVE MODE;
	INSERT INTO keysidecar.events (seq, kind, key_id, owner_id, occurred_at, actor, claimed_actor)
		VALUES (nextval('keysidecar.seq'), NEW.kind, NEW.key_id, NEW.owner_id, NEW.occurred_at, NEW.actor, NEW.claimed_actor);
	-- Wakes the relay. It also makes Postgres refuse PREPARE TRANSACTION, which would
	-- keep the gate locked until somebody commits the prepared transaction.
	PERFORM pg_notify('keysidecar', '');
	RETURN NULL;
END $$;
-- +goose StatementEnd

CREATE CONSTRAINT TRIGGER number_event AFTER INSERT ON keysidecar.staging
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION keysidecar.number_event();
ALTER TABLE keysidecar.staging ENABLE ALWAYS TRIGGER number_event;

-- The log is never empty, so that every cursor is a row of it.
INSERT INTO keysidecar.events (seq, kind, actor) VALUES (nextval('keysidecar.seq'), 'reset', 'migrate');

-- +goose Down

DROP TABLE keysidecar.staging;
DROP FUNCTION keysidecar.number_event();
DROP TABLE keysidecar.events;
DROP SEQUENCE keysidecar.seq;
DROP TABLE keysidecar.gate;
