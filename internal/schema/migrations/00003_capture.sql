-- The first stage of capture: row triggers note each change that a verdict
-- depends on. And the list of triggers that sidecars want to see in place.

-- +goose Up

CREATE TABLE keysidecar.watched (
	relation      regclass NOT NULL,
	relation_name text NOT NULL,
	trigger_name  name NOT NULL,
	function_name name NOT NULL,
	PRIMARY KEY (relation, trigger_name)
);
COMMENT ON TABLE keysidecar.watched IS 'Triggers that must exist and be enabled ALWAYS for capture to be whole; see capture_problems().';
COMMENT ON COLUMN keysidecar.watched.relation_name IS 'The relation''s name when it was watched: another table may take it by being renamed.';

-- +goose StatementBegin
CREATE FUNCTION keysidecar.capture_key() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF TG_OP = 'INSERT' THEN
		INSERT INTO keysidecar.staging (kind, key_id, owner_id) VALUES ('issued', NEW.key_id, NEW.owner_id);
	ELSIF TG_OP = 'DELETE' THEN
		INSERT INTO keysidecar.staging (kind, key_id, owner_id) VALUES ('deleted', OLD.key_id, OLD.owner_id);
	ELSIF TG_OP = 'TRUNCATE' THEN
		INSERT INTO keysidecar.staging (kind) VALUES ('reset');
	ELSIF NEW.key_id <> OLD.key_id OR NEW.owner_id <> OLD.owner_id THEN
		INSERT INTO keysidecar.staging (kind, key_id, owner_id)
			VALUES ('deleted', OLD.key_id, OLD.owner_id), ('issued', NEW.key_id, NEW.owner_id);
	ELSE
		INSERT INTO keysidecar.staging (kind, key_id, owner_id)
			VALUES (CASE WHEN NEW.revoked_at IS NOT NULL AND OLD.revoked_at IS NULL THEN 'revoked' ELSE 'changed' END, NEW.key_id, NEW.owner_id);
	END IF;
	INSERT INTO keysidecar.pending DEFAULT VALUES ON CONFLICT DO NOTHING;
	RETURN NULL;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION keysidecar.capture_owner() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF TG_OP = 'INSERT' THEN
		INSERT INTO keysidecar.staging (kind, owner_id) VALUES ('owner_changed', NEW.owner_id);
	ELSIF TG_OP = 'TRUNCATE' THEN
		INSERT INTO keysidecar.staging (kind) VALUES ('reset');
	ELSE
		INSERT INTO keysidecar.staging (kind, owner_id) VALUES ('owner_changed', OLD.owner_id);
		IF TG_OP = 'UPDATE' AND NEW.owner_id <> OLD.owner_id THEN
			INSERT INTO keysidecar.staging (kind, owner_id) VALUES ('owner_changed', NEW.owner_id);
		END IF;
	END IF;
	INSERT INTO keysidecar.pending DEFAULT VALUES ON CONFLICT DO NOTHING;
	RETURN NULL;
END $$;
-- +goose StatementEnd

-- WHEN and not UPDATE OF: the latter does not see what a BEFORE trigger changes.
CREATE TRIGGER keysidecar_key_row AFTER INSERT OR DELETE ON keysidecar.public_keys
	FOR EACH ROW EXECUTE FUNCTION keysidecar.capture_key();
CREATE TRIGGER keysidecar_key_update AFTER UPDATE ON keysidecar.public_keys FOR EACH ROW
	WHEN (ROW(OLD.key_id, OLD.owner_id, OLD.algorithm, OLD.public_key, OLD.scopes, OLD.not_before, OLD.expires_at, OLD.revoked_at, OLD.attributes)
		IS DISTINCT FROM ROW(NEW.key_id, NEW.owner_id, NEW.algorithm, NEW.public_key, NEW.scopes, NEW.not_before, NEW.expires_at, NEW.revoked_at, NEW.attributes))
	EXECUTE FUNCTION keysidecar.capture_key();
CREATE TRIGGER keysidecar_key_truncate AFTER TRUNCATE ON keysidecar.public_keys
	FOR EACH STATEMENT EXECUTE FUNCTION keysidecar.capture_key();

-- An active owner that appears changes no verdict: it had no keys before.
CREATE TRIGGER keysidecar_owner_insert AFTER INSERT ON keysidecar.owners FOR EACH ROW
	WHEN (NEW.suspended_at IS NOT NULL) EXECUTE FUNCTION keysidecar.capture_owner();
CREATE TRIGGER keysidecar_owner_update AFTER UPDATE ON keysidecar.owners FOR EACH ROW
	WHEN (ROW(OLD.owner_id, OLD.suspended_at) IS DISTINCT FROM ROW(NEW.owner_id, NEW.suspended_at))
	EXECUTE FUNCTION keysidecar.capture_owner();
CREATE TRIGGER keysidecar_owner_delete AFTER DELETE ON keysidecar.owners
	FOR EACH ROW EXECUTE FUNCTION keysidecar.capture_owner();
CREATE TRIGGER keysidecar_owner_truncate AFTER TRUNCATE ON keysidecar.owners
	FOR EACH STATEMENT EXECUTE FUNCTION keysidecar.capture_owner();

-- ALWAYS: logical replication and session_replication_role = replica skip others.
ALTER TABLE keysidecar.public_keys ENABLE ALWAYS TRIGGER keysidecar_key_row;
ALTER TABLE keysidecar.public_keys ENABLE ALWAYS TRIGGER keysidecar_key_update;
ALTER TABLE keysidecar.public_keys ENABLE ALWAYS TRIGGER keysidecar_key_truncate;
ALTER TABLE keysidecar.owners ENABLE ALWAYS TRIGGER keysidecar_owner_insert;
ALTER TABLE keysidecar.owners ENABLE ALWAYS TRIGGER keysidecar_owner_update;
ALTER TABLE keysidecar.owners ENABLE ALWAYS TRIGGER keysidecar_owner_delete;
ALTER TABLE keysidecar.owners ENABLE ALWAYS TRIGGER keysidecar_owner_truncate;

INSERT INTO keysidecar.watched (relation, relation_name, trigger_name, function_name)
	SELECT t.tgrelid, format('%I.%I', n.nspname, c.relname), t.tgname, p.proname
	FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_proc p ON p.oid = t.tgfoid
	WHERE n.nspname = 'keysidecar' AND NOT t.tgisinternal;
ANALYZE keysidecar.watched; -- for the plan of capture_intact(); such a small table is never analyzed by itself

-- +goose StatementBegin
CREATE FUNCTION keysidecar.capture_problems() RETURNS TABLE (relation_name text, trigger_name name, problem text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	WITH RECURSIVE expected AS (
		SELECT w.relation::oid AS relation, w.relation_name, w.trigger_name, true AS itself
		FROM keysidecar.watched w
		UNION ALL
		-- Partitions have clones of row triggers. A table that inherits has none.
		SELECT i.inhrelid, e.relation_name, e.trigger_name, false
		FROM expected e
		JOIN pg_inherits i ON i.inhparent = e.relation
		JOIN pg_trigger t ON t.tgrelid = e.relation AND t.tgname = e.trigger_name AND t.tgtype & 1 = 1
	), seen AS (
		SELECT e.relation_name, e.trigger_name, CASE
			WHEN c.oid IS NULL THEN 'the table is gone'
			WHEN e.itself AND format('%I.%I', n.nspname, c.relname) <> e.relation_name
				THEN format('the table is called %I.%I now; another may have taken its place', n.nspname, c.relname)
			WHEN c.relkind NOT IN ('r', 'p') OR c.relpersistence <> 'p' AND e.relation_name <> 'keysidecar.pending'
				THEN format('%I.%I is not an ordinary logged table', n.nspname, c.relname)
			WHEN t.oid IS NULL THEN format('the trigger does not exist on %I.%I', n.nspname, c.relname)
			WHEN t.tgenabled <> 'A' THEN format('the trigger on %I.%I is not enabled ALWAYS', n.nspname, c.relname)
			END AS problem
		FROM expected e
		LEFT JOIN pg_class c ON c.oid = e.relation
		LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_trigger t ON t.tgrelid = e.relation AND t.tgname = e.trigger_name
	)
	SELECT s.relation_name, s.trigger_name, s.problem FROM seen s WHERE s.problem IS NOT NULL
	UNION ALL
	SELECT 'keysidecar.watched', NULL, 'the list of what must be watched is empty'
	WHERE NOT EXISTS (SELECT 1 FROM keysidecar.watched);
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION keysidecar.capture_problems() IS 'What is wrong with the capture of changes, a row a trigger; no rows when nothing is.';

-- The same question, answered fast for a fence. plpgsql, because it keeps its plan.
-- +goose StatementBegin
CREATE FUNCTION keysidecar.capture_intact() RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN coalesce((
		SELECT bool_and(coalesce(
			t.tgenabled = 'A'
			AND quote_ident(n.nspname) || '.' || quote_ident(c.relname) = w.relation_name
			AND c.relkind IN ('r', 'p')
			AND (c.relpersistence = 'p' OR w.relation_name = 'keysidecar.pending')
			AND (NOT c.relhassubclass OR NOT EXISTS (SELECT 1 FROM keysidecar.capture_problems())),
			false))
		FROM keysidecar.watched w
		LEFT JOIN pg_class c ON c.oid = w.relation
		LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_trigger t ON t.tgrelid = w.relation AND t.tgname = w.trigger_name
	), false);
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION keysidecar.capture_intact() IS 'Whether every change that a verdict depends on is captured. Use it as (SELECT keysidecar.capture_intact()), or it runs once a row.';

-- +goose Down

DROP FUNCTION keysidecar.capture_intact();
DROP FUNCTION keysidecar.capture_problems();
DROP TABLE keysidecar.watched;
DROP TRIGGER keysidecar_owner_truncate ON keysidecar.owners;
DROP TRIGGER keysidecar_owner_delete ON keysidecar.owners;
DROP TRIGGER keysidecar_owner_update ON keysidecar.owners;
DROP TRIGGER keysidecar_owner_insert ON keysidecar.owners;
DROP TRIGGER keysidecar_key_truncate ON keysidecar.public_keys;
DROP TRIGGER keysidecar_key_update ON keysidecar.public_keys;
DROP TRIGGER keysidecar_key_row ON keysidecar.public_keys;
DROP FUNCTION keysidecar.capture_owner();
DROP FUNCTION keysidecar.capture_key();
