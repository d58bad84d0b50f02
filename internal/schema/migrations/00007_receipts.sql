-- Who must have read how far before a revocation is over. The package
-- documentation of internal/receipt says why this is enough.

-- +goose Up

-- Which registry this is. A promotion changes the timeline, a restored dump the
-- database or the table: registrations may then be missing. NULL on a standby.
CREATE FUNCTION keysidecar.registry_identity() RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN pg_is_in_recovery() THEN NULL
	ELSE concat_ws('/', substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), (SELECT oid FROM pg_database WHERE datname = current_database()), 'keysidecar.instances'::regclass::oid) END;

CREATE TABLE keysidecar.registry (
	id                 boolean PRIMARY KEY DEFAULT true CHECK (id),
	identity           text NOT NULL,
	longest_ms         bigint NOT NULL DEFAULT 0,
	unreported_ms      bigint NOT NULL DEFAULT 0,
	unreported_changes bigint NOT NULL DEFAULT 0,
	size               integer NOT NULL DEFAULT 0
);
COMMENT ON TABLE keysidecar.registry IS 'What is known about keysidecar.instances as a whole.';
COMMENT ON COLUMN keysidecar.registry.identity IS 'registry_identity() when the registry was last known to be complete. While it differs, receipts wait longest_ms.';
COMMENT ON COLUMN keysidecar.registry.longest_ms IS 'The longest bound that ever registered.';
COMMENT ON COLUMN keysidecar.registry.unreported_ms IS 'How long receipts wait for sidecars that do not register: never less than any of them may still hold.';
COMMENT ON COLUMN keysidecar.registry.size IS 'Rows of keysidecar.instances as the relay last counted them.';
INSERT INTO keysidecar.registry (identity) VALUES (keysidecar.registry_identity());

-- The setting fleet.unreported_ms is how long the bound of a sidecar with
-- fleet.report: false may be; such a sidecar asks for it with each question. More
-- counts for receipts at once; less only when the relay has waited until nobody
-- can hold the old right.
-- +goose StatementBegin
CREATE FUNCTION keysidecar.note_unreported() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	longest bigint := 0;
BEGIN
	IF TG_OP <> 'DELETE' AND NEW.name = 'fleet.unreported_ms' THEN
		IF NEW.value !~ '^[0-9]{1,12}$' THEN
			RAISE EXCEPTION 'keysidecar: fleet.unreported_ms must be a number of milliseconds, not "%"', NEW.value USING ERRCODE = 'invalid_parameter_value';
		END IF;
		longest := NEW.value::bigint;
	ELSIF TG_OP = 'INSERT' OR OLD.name <> 'fleet.unreported_ms' THEN
		RETURN NULL;
	END IF;
	IF current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN
		PERFORM set_config('synchronous_commit', 'on', true); -- a sidecar may use the leave at once
	END IF;
	UPDATE keysidecar.registry SET unreported_ms = greatest(unreported_ms, longest), unreported_changes = unreported_changes + 1;
	RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER note_unreported AFTER INSERT OR UPDATE OR DELETE ON keysidecar.settings
	FOR EACH ROW EXECUTE FUNCTION keysidecar.note_unreported();
ALTER TABLE keysidecar.settings ENABLE ALWAYS TRIGGER note_unreported;

-- +goose StatementBegin
CREATE FUNCTION keysidecar.allow_unreported(longest interval) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF longest IS NULL OR longest <= interval '0' THEN
		DELETE FROM keysidecar.settings WHERE name = 'fleet.unreported_ms';
	ELSE
		INSERT INTO keysidecar.settings VALUES ('fleet.unreported_ms', ceil(extract(epoch FROM longest) * 1000)::bigint::text)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value;
	END IF;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION keysidecar.allow_unreported IS 'Allows sidecars with fleet.report: false whose max_staleness (or stale_limit) is at most this; NULL allows none. Receipts wait that long from now on.';

-- Rows that are gone otherwise than by sign-off or pruning were perhaps of running
-- sidecars.
-- +goose StatementBegin
CREATE FUNCTION keysidecar.distrust_registry() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE keysidecar.registry SET identity = 'lost/' || gen_random_uuid(); -- a new one each time: who waits must see it
	RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER distrust_registry AFTER TRUNCATE ON keysidecar.instances FOR EACH STATEMENT EXECUTE FUNCTION keysidecar.distrust_registry();
ALTER TABLE keysidecar.instances ENABLE ALWAYS TRIGGER distrust_registry;

-- register is acknowledged, durably, before the first question of the sidecar
-- that calls it. failed are registrations of the same process whose outcome it
-- never learned, under which it has asked nothing. starting: an entry of the same
-- name is probably this sidecar's before it was killed, and is marked, so that it is
-- pruned one bound later instead of minutes. If its process lives, it registers
-- again, without starting, so that two of one name do not mark each other for ever.
-- +goose StatementBegin
CREATE FUNCTION keysidecar.register(registration uuid, instance text, max_staleness_ms bigint, stale_limit_ms bigint, policy text, version text,
	failed uuid[] DEFAULT '{}', starting boolean DEFAULT false)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	bound bigint := greatest(register.max_staleness_ms, register.stale_limit_ms);
BEGIN
	IF current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN
		PERFORM set_config('synchronous_commit', 'on', true);
	END IF;
	DELETE FROM keysidecar.instances i WHERE i.registration = ANY (register.failed);
	IF register.starting THEN
		UPDATE keysidecar.instances i SET marked_at = clock_timestamp() WHERE i.instance = register.instance AND i.marked_at IS NULL;
	END IF;
	INSERT INTO keysidecar.instances (registration, instance, max_staleness_ms, stale_limit_ms, policy, version)
		VALUES (register.registration, register.instance, register.max_staleness_ms, register.stale_limit_ms, register.policy, register.version);
	UPDATE keysidecar.registry r SET longest_ms = bound WHERE r.longest_ms < bound;
	RETURN (SELECT count(*) FROM keysidecar.instances);
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION keysidecar.register IS 'Enters a sidecar in the registry; returns how many there are.';

-- +goose StatementBegin
CREATE FUNCTION keysidecar.sign_off(registration uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	PERFORM set_config('synchronous_commit', 'off', true);
	DELETE FROM keysidecar.instances i WHERE i.registration = sign_off.registration;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION keysidecar.sign_off IS 'Takes a sidecar out of the registry, once it answers nobody any more.';

-- +goose StatementBegin
CREATE FUNCTION keysidecar.forget_instance(instance text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	n bigint;
BEGIN
	DELETE FROM keysidecar.instances i WHERE i.instance = forget_instance.instance;
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN n;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION keysidecar.forget_instance IS 'Takes sidecars of this name out of the registry at once, on the word of the caller that they answer nobody any more. Returns how many.';

-- One STABLE function, so that event and registry come from one snapshot: that of
-- the statement which calls it. complete goes by reports only; nothing here waits,
-- so nothing here can know that a bound has passed. A caller who waits may take an
-- awaited sidecar for over once it has itself waited awaited_ms since it first saw
-- this answer with this registry, and must wait wait_ms in any case; while the two
-- registries differ, what was seen before they did does not count.
-- +goose StatementBegin
CREATE FUNCTION keysidecar.receipt(seq bigint, OUT complete boolean, OUT receipt_seq bigint, OUT event_id uuid, OUT kind text, OUT key_id text, OUT owner_id text,
	OUT actor text, OUT occurred_at timestamptz, OUT committed_at timestamptz, OUT superseded boolean,
	OUT acknowledged text[], OUT awaited text[], OUT awaited_ms bigint[], OUT wait_ms bigint, OUT registry text, OUT trusted_registry text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	at text := keysidecar.registry_identity();
	longest bigint;
	r keysidecar.registry;
BEGIN
	IF at IS NULL THEN
		RAISE EXCEPTION 'keysidecar: a receipt is read from the primary' USING ERRCODE = 'object_not_in_prerequisite_state';
	END IF;
	SELECT e.seq, e.event_id, e.kind, e.key_id, e.owner_id, e.actor, e.occurred_at,
			CASE WHEN current_setting('track_commit_timestamp')::boolean THEN pg_xact_commit_timestamp(e.xmin) END
		INTO receipt.receipt_seq, receipt.event_id, receipt.kind, receipt.key_id, receipt.owner_id, receipt.actor, receipt.occurred_at, receipt.committed_at
		FROM keysidecar.events e WHERE e.seq = receipt.seq;
	IF NOT FOUND THEN
		RETURN; -- all NULL
	END IF;
	receipt.registry := at;
	SELECT * INTO r FROM keysidecar.registry;
	receipt.trusted_registry := r.identity;
	SELECT array_agg(i.instance ORDER BY i.instance) FILTER (WHERE known), array_agg(i.instance ORDER BY i.instance, i.registration) FILTER (WHERE NOT known),
			array_agg(i.bound_ms ORDER BY i.instance, i.registration) FILTER (WHERE NOT known), max(i.bound_ms)
		INTO receipt.acknowledged, receipt.awaited, receipt.awaited_ms, longest
		FROM (SELECT i.*, coalesce(i.cursor_seq >= receipt.seq AND i.timeline = split_part(at, '/', 1), false) AS known FROM keysidecar.instances i) AS i;
	receipt.acknowledged := coalesce(receipt.acknowledged, '{}');
	receipt.awaited := coalesce(receipt.awaited, '{}');
	receipt.awaited_ms := coalesce(receipt.awaited_ms, '{}');
	receipt.wait_ms := greatest(r.unreported_ms, CASE WHEN r.identity = at THEN 0 ELSE greatest(r.longest_ms, longest) END);
	receipt.complete := cardinality(receipt.awaited) = 0 AND receipt.wait_ms = 0;
	receipt.superseded := CASE
		WHEN receipt.kind = 'owner_changed' THEN EXISTS (SELECT 1 FROM keysidecar.owners o WHERE o.owner_id = receipt.owner_id AND o.suspended_at IS NULL)
		WHEN receipt.kind IN ('revoked', 'deleted') THEN EXISTS (
			SELECT 1 FROM keysidecar.events e WHERE e.key_id = receipt.key_id AND e.seq > receipt.seq AND (e.kind = 'issued' OR e.kind = 'changed'
				AND NOT EXISTS (SELECT 1 FROM keysidecar.public_keys k WHERE k.key_id = receipt.key_id AND k.revoked_at IS NOT NULL)))
		ELSE false END;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION keysidecar.receipt(bigint) IS 'Which sidecars have read the log up to seq, and which have not. All NULL if the log has no such event.';

-- The event that ended a key: its newest revocation or deletion if nothing was heard
-- of it since; else the newest of that, of a change of its owner, and of a reset; if it
-- was neither revoked nor deleted, its newest change counts too (a table that is
-- watched without a revoked column knows no other). A later event is never too early a
-- receipt. NULL if nothing came after its issue.
-- +goose StatementBegin
CREATE FUNCTION keysidecar.receipt_seq(key_id text) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	newest bigint;
	last_kind text;
	ended bigint;
	other bigint;
	owner text;
BEGIN
	SELECT e.seq, e.kind, e.owner_id INTO newest, last_kind, owner
		FROM keysidecar.events e WHERE e.key_id = receipt_seq.key_id COLLATE "C" ORDER BY e.seq DESC LIMIT 1;
	SELECT max(e.seq) INTO ended FROM keysidecar.events e WHERE e.key_id = receipt_seq.key_id COLLATE "C" AND e.kind IN ('revoked', 'deleted');
	IF newest IS NULL OR ended = newest THEN
		RETURN ended;
	END IF;
	other := greatest(
		(SELECT max(e.seq) FROM keysidecar.events e WHERE e.kind = 'owner_changed' AND e.owner_id = owner),
		(SELECT min(e.seq) FROM keysidecar.events e WHERE e.kind = 'reset' AND e.seq > newest));
	IF ended IS NOT NULL THEN
		RETURN greatest(ended, other);
	ELSIF last_kind = 'issued' AND coalesce(other < newest, true) THEN
		RETURN NULL; -- nothing has ended it
	END IF;
	RETURN greatest(newest, other);
END $$;
-- +goose StatementEnd
CREATE INDEX events_reset ON keysidecar.events (seq) WHERE kind = 'reset';

-- The newest change of an owner.
-- +goose StatementBegin
CREATE FUNCTION keysidecar.receipt_owner_seq(owner_id text) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT max(e.seq) FROM keysidecar.events e WHERE e.kind = 'owner_changed' AND e.owner_id = receipt_owner_seq.owner_id COLLATE "C"
$$;
-- +goose StatementEnd

CREATE FUNCTION keysidecar.receipt(key_id text, OUT complete boolean, OUT receipt_seq bigint, OUT event_id uuid, OUT kind text, OUT owner_id text,
	OUT actor text, OUT occurred_at timestamptz, OUT committed_at timestamptz, OUT superseded boolean,
	OUT acknowledged text[], OUT awaited text[], OUT awaited_ms bigint[], OUT wait_ms bigint, OUT registry text, OUT trusted_registry text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT r.complete, r.receipt_seq, r.event_id, r.kind, r.owner_id, r.actor, r.occurred_at, r.committed_at, r.superseded,
		r.acknowledged, r.awaited, r.awaited_ms, r.wait_ms, r.registry, r.trusted_registry
	FROM keysidecar.receipt(keysidecar.receipt_seq(receipt.key_id)) AS r
$$;
COMMENT ON FUNCTION keysidecar.receipt(text) IS 'Which sidecars have read that this key was revoked or deleted, and which have not. All NULL if the log has no event that ended or changed it since its issue. By reports only, and only of what is committed.';

-- +goose Down

DROP FUNCTION keysidecar.receipt(text);
DROP FUNCTION keysidecar.receipt_owner_seq(text);
DROP INDEX keysidecar.events_reset;
DROP FUNCTION keysidecar.receipt_seq(text);
DROP FUNCTION keysidecar.receipt(bigint);
DROP FUNCTION keysidecar.forget_instance(text);
DROP FUNCTION keysidecar.sign_off(uuid);
DROP FUNCTION keysidecar.register(uuid, text, bigint, bigint, text, text, uuid[], boolean);
DROP TRIGGER distrust_registry ON keysidecar.instances;
DROP FUNCTION keysidecar.distrust_registry();
DROP FUNCTION keysidecar.allow_unreported(interval);
DROP TRIGGER note_unreported ON keysidecar.settings;
DROP FUNCTION keysidecar.note_unreported();
DROP TABLE keysidecar.registry;
DROP FUNCTION keysidecar.registry_identity();
