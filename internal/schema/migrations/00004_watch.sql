-- Capture on tables that an operator already has: watch, watch_owner, unwatch;
-- reset for what no trigger can see; uncaptured to check a view.
--
-- watch, watch_owner and unwatch run with the rights of whoever calls them: that
-- has to be a superuser, or a role that owns the table and is a member of the
-- owner of schema keysidecar. What they make belongs to the latter.

-- +goose Up

-- +goose StatementBegin
CREATE FUNCTION keysidecar.reset() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO keysidecar.staging (kind) VALUES ('reset');
	INSERT INTO keysidecar.pending DEFAULT VALUES ON CONFLICT DO NOTHING;
	-- It is also what follows the restore of a backup, whose registry is an old one.
	UPDATE keysidecar.registry SET identity = 'lost/' || gen_random_uuid();
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION keysidecar.reset() IS 'Makes every sidecar forget what it has in memory: after a change that no trigger sees.';

-- An id that cannot be a key_id is no key: nobody can ask for it.
CREATE FUNCTION keysidecar.key_id_or_null(id text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN octet_length(id) <= 256 AND id ~ '^[A-Za-z0-9._~+=:-]+$' COLLATE "C" AND id NOT IN ('.', '..') THEN id END;

CREATE FUNCTION keysidecar.owner_id_or_null(id text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN octet_length(id) BETWEEN 1 AND 256 THEN id END;

-- +goose StatementBegin
CREATE FUNCTION keysidecar.check_watchable(relation regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	c pg_class;
	bad text;
BEGIN
	SELECT * INTO c FROM pg_class WHERE oid = relation;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'keysidecar cannot watch %: there is no such relation', relation USING ERRCODE = 'undefined_table';
	ELSIF c.relnamespace = 'keysidecar'::regnamespace THEN
		RAISE EXCEPTION 'keysidecar cannot watch %: its own tables are watched always', relation USING ERRCODE = 'wrong_object_type';
	ELSIF c.relkind IN ('v', 'm') THEN
		RAISE EXCEPTION 'keysidecar cannot watch %: it is a view', relation
			USING ERRCODE = 'wrong_object_type', HINT = 'Watch the tables that it reads; keysidecar.uncaptured(view) lists them.';
	ELSIF c.relkind = 'f' THEN
		RAISE EXCEPTION 'keysidecar cannot watch %: it is a foreign table', relation
			USING ERRCODE = 'wrong_object_type', HINT = 'Changes made on the other server fire no trigger here. Replicate the table into this database and watch the copy.';
	ELSIF c.relkind NOT IN ('r', 'p') THEN
		RAISE EXCEPTION 'keysidecar cannot watch %: it is not a table', relation USING ERRCODE = 'wrong_object_type';
	ELSIF c.relpersistence = 't' THEN
		RAISE EXCEPTION 'keysidecar cannot watch %: it is a temporary table', relation USING ERRCODE = 'wrong_object_type';
	ELSIF c.relpersistence = 'u' THEN
		RAISE EXCEPTION 'keysidecar cannot watch %: it is unlogged', relation
			USING ERRCODE = 'wrong_object_type', HINT = 'A crash empties it without a trace. ALTER TABLE ... SET LOGGED first.';
	ELSIF c.relispartition THEN
		RAISE EXCEPTION 'keysidecar cannot watch %: it is a partition', relation
			USING ERRCODE = 'wrong_object_type', HINT = 'Watch the partitioned table that it belongs to.';
	ELSIF EXISTS (SELECT 1 FROM pg_inherits WHERE inhrelid = relation OR c.relkind = 'r' AND inhparent = relation) THEN
		RAISE EXCEPTION 'keysidecar cannot watch %: it inherits or is inherited from', relation
			USING ERRCODE = 'wrong_object_type', HINT = 'Rows of a child appear in its parent without firing the parent''s triggers. Use declarative partitioning.';
	END IF;
	SELECT string_agg(p.oid::regclass::text, ', ') INTO bad
		FROM pg_partition_tree(relation) t JOIN pg_class p ON p.oid = t.relid
		WHERE p.relkind NOT IN ('r', 'p') OR p.relpersistence <> 'p';
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'keysidecar cannot watch %: of its partitions % are foreign or unlogged', relation, bad USING ERRCODE = 'wrong_object_type';
	END IF;
END $$;
-- +goose StatementEnd

-- check_column refuses a column that is not there or, if it is to identify a key
-- or owner, whose text form could vary with settings or hide a difference.
-- +goose StatementBegin
CREATE FUNCTION keysidecar.check_column(relation regclass, col name, identifies boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	typ oid;
	base oid;
BEGIN
	SELECT a.atttypid INTO typ FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = col AND a.attnum > 0 AND NOT a.attisdropped;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'keysidecar cannot watch %: it has no column %', relation, quote_ident(col)
			USING ERRCODE = 'undefined_column', HINT = 'It has: ' || (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
				FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped);
	END IF;
	LOOP
		SELECT nullif(t.typbasetype, 0) INTO base FROM pg_type t WHERE t.oid = typ;
		EXIT WHEN base IS NULL;
		typ := base;
	END LOOP;
	IF identifies AND typ NOT IN ('text'::regtype, 'varchar'::regtype, 'name'::regtype, 'uuid'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype) THEN
		RAISE EXCEPTION 'keysidecar cannot watch %: column % has type %, which cannot identify a key or an owner', relation, quote_ident(col), format_type(typ, NULL)
			USING ERRCODE = 'datatype_mismatch', HINT = 'Use a column of type text, varchar, uuid or an integer; a stored generated column will do.';
	END IF;
END $$;
-- +goose StatementEnd

-- attach makes the capture function body on relation: the function, its triggers,
-- and the rows of watched. The trigger on UPDATE fires if one of columns, or any
-- column if that is null, has changed in its binary image (*<>): = does not exist
-- for every type, and not every value that is = looks the same. (The casts to
-- record keep the parser from comparing column by column.)
-- +goose StatementBegin
CREATE FUNCTION keysidecar.attach(relation regclass, prefix text, columns name[], body text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	fn CONSTANT name := 'watch_' || replace(gen_random_uuid()::text, '-', '');
	owner CONSTANT name := (SELECT nspowner::regrole::name FROM pg_namespace WHERE nspname = 'keysidecar');
	changed CONSTANT text := CASE WHEN columns IS NULL THEN 'OLD.* *<> NEW.*' ELSE (
		SELECT format('ROW(%s)::record *<> ROW(%s)::record', string_agg(format('OLD.%I', c), ', '), string_agg(format('NEW.%I', c), ', ')) FROM unnest(columns) AS c) END;
	part regclass;
	trig name;
BEGIN
	PERFORM keysidecar.detach(relation, prefix);
	EXECUTE format($f$CREATE FUNCTION keysidecar.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L$f$, fn, body);
	EXECUTE format('REVOKE ALL ON FUNCTION keysidecar.%I() FROM PUBLIC', fn);
	EXECUTE format('COMMENT ON FUNCTION keysidecar.%I() IS %L', fn, format('Captures changes of %s for keysidecar.', relation));
	EXECUTE format('CREATE TRIGGER %I AFTER INSERT OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION keysidecar.%I()', prefix || '_row', relation, fn);
	EXECUTE format('CREATE TRIGGER %I AFTER UPDATE ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION keysidecar.%I()', prefix || '_update', relation, changed, fn);
	FOR part IN SELECT relation UNION SELECT t.relid FROM pg_partition_tree(relation) t LOOP
		-- TRUNCATE triggers are not cloned to partitions.
		EXECUTE format('CREATE TRIGGER %I AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION keysidecar.%I()', prefix || '_truncate', part, fn);
		FOREACH trig IN ARRAY ARRAY[prefix || '_row', prefix || '_update', prefix || '_truncate'] LOOP
			EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', part, trig);
		END LOOP;
	END LOOP;
	IF current_user <> owner THEN
		EXECUTE format('ALTER FUNCTION keysidecar.%I() OWNER TO %I', fn, owner);
	END IF;
	INSERT INTO keysidecar.watched (relation, relation_name, trigger_name, function_name)
		SELECT c.oid, format('%I.%I', n.nspname, c.relname), prefix || suffix, fn
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, unnest(ARRAY['_row', '_update', '_truncate']) AS suffix
		WHERE c.oid = attach.relation;
	-- What was changed before was not captured.
	PERFORM keysidecar.reset();
END $$;
-- +goose StatementEnd

-- detach undoes attach; the relation itself may be gone.
-- +goose StatementBegin
CREATE FUNCTION keysidecar.detach(relation regclass, prefix text) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	row_ record;
	fn name;
	found_ boolean := false;
BEGIN
	FOR row_ IN
		SELECT t.tgname, t.tgrelid::regclass AS rel FROM pg_trigger t
		WHERE t.tgname IN (prefix || '_row', prefix || '_update', prefix || '_truncate') AND t.tgparentid = 0
			AND (t.tgrelid = relation OR t.tgrelid IN (SELECT p.relid FROM pg_partition_tree(relation) p))
	LOOP
		EXECUTE format('DROP TRIGGER %I ON %s', row_.tgname, row_.rel);
	END LOOP;
	FOR fn IN
		WITH gone AS (
			DELETE FROM keysidecar.watched w
			WHERE w.relation = detach.relation AND w.trigger_name IN (prefix || '_row', prefix || '_update', prefix || '_truncate')
			RETURNING w.function_name)
		SELECT DISTINCT function_name FROM gone
	LOOP
		EXECUTE format('DROP FUNCTION keysidecar.%I()', fn);
		found_ := true;
	END LOOP;
	RETURN found_;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION keysidecar.watch(relation regclass, key_column name, owner_column name DEFAULT NULL, columns name[] DEFAULT NULL, revoked_column name DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	col name;
	old_owner text := 'NULL';
	new_owner text := 'NULL';
	revoked text := 'false';
BEGIN
	PERFORM keysidecar.check_watchable(relation);
	PERFORM keysidecar.check_column(relation, key_column, true);
	IF owner_column IS NOT NULL THEN
		PERFORM keysidecar.check_column(relation, owner_column, true);
		old_owner := format('keysidecar.owner_id_or_null(format(''%%s'', OLD.%I))', owner_column);
		new_owner := format('keysidecar.owner_id_or_null(format(''%%s'', NEW.%I))', owner_column);
	END IF;
	IF revoked_column IS NOT NULL THEN
		PERFORM keysidecar.check_column(relation, revoked_column, false);
		revoked := format((SELECT CASE WHEN a.atttypid = 'bool'::regtype THEN 'NEW.%1$I IS TRUE AND OLD.%1$I IS NOT TRUE' ELSE 'NEW.%1$I IS NOT NULL AND OLD.%1$I IS NULL' END
			FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = revoked_column), revoked_column);
	END IF;
	FOREACH col IN ARRAY coalesce(columns, '{}') LOOP
		PERFORM keysidecar.check_column(relation, col, false);
	END LOOP;
	IF columns IS NOT NULL THEN -- or || would make an array of null
		columns := array_remove(ARRAY[key_column, owner_column, revoked_column] || columns, NULL);
	END IF;
	-- %s of format() is the type's own output: a cast could be anybody's function.
	PERFORM keysidecar.attach(relation, 'keysidecar_key', columns, format($f$
DECLARE
	old_key text;
	old_owner text;
	new_key text;
	new_owner text;
BEGIN
	IF TG_OP = 'TRUNCATE' THEN
		INSERT INTO keysidecar.staging (kind) VALUES ('reset');
		INSERT INTO keysidecar.pending DEFAULT VALUES ON CONFLICT DO NOTHING;
		RETURN NULL;
	END IF;
	IF TG_OP <> 'INSERT' THEN
		old_key := keysidecar.key_id_or_null(format('%%s', OLD.%1$I));
		old_owner := %2$s;
	END IF;
	IF TG_OP <> 'DELETE' THEN
		new_key := keysidecar.key_id_or_null(format('%%s', NEW.%1$I));
		new_owner := %3$s;
	END IF;
	IF old_key IS NULL AND new_key IS NULL THEN
		RETURN NULL;
	ELSIF old_key = new_key AND old_owner IS NOT DISTINCT FROM new_owner THEN
		INSERT INTO keysidecar.staging (kind, key_id, owner_id) VALUES (CASE WHEN %4$s THEN 'revoked' ELSE 'changed' END, new_key, new_owner);
	ELSE
		INSERT INTO keysidecar.staging (kind, key_id, owner_id)
			SELECT v.* FROM (VALUES ('deleted', old_key, old_owner), ('issued', new_key, new_owner)) AS v (kind, key_id, owner_id) WHERE v.key_id IS NOT NULL;
	END IF;
	INSERT INTO keysidecar.pending DEFAULT VALUES ON CONFLICT DO NOTHING;
	RETURN NULL;
END $f$, key_column, old_owner, new_owner, revoked));
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION keysidecar.watch IS 'Captures changes of keys in a table of yours: of the columns named, or of any. revoked_column only tells "revoked" events from "changed" ones.';

-- +goose StatementBegin
CREATE FUNCTION keysidecar.watch_owner(relation regclass, owner_column name, columns name[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	col name;
BEGIN
	PERFORM keysidecar.check_watchable(relation);
	PERFORM keysidecar.check_column(relation, owner_column, true);
	FOREACH col IN ARRAY coalesce(columns, '{}') LOOP
		PERFORM keysidecar.check_column(relation, col, false);
	END LOOP;
	IF columns IS NOT NULL THEN
		columns := ARRAY[owner_column] || columns;
	END IF;
	-- An owner's id that is too long for an event still changes verdicts: reset.
	PERFORM keysidecar.attach(relation, 'keysidecar_owner', columns, format($f$
DECLARE
	id text;
	ids text[] := '{}';
BEGIN
	IF TG_OP = 'TRUNCATE' THEN
		INSERT INTO keysidecar.staging (kind) VALUES ('reset');
		INSERT INTO keysidecar.pending DEFAULT VALUES ON CONFLICT DO NOTHING;
		RETURN NULL;
	END IF;
	IF TG_OP <> 'INSERT' THEN
		ids := ids || format('%%s', OLD.%1$I);
	END IF;
	IF TG_OP <> 'DELETE' THEN
		ids := array_append(array_remove(ids, format('%%s', NEW.%1$I)), format('%%s', NEW.%1$I));
	END IF;
	FOREACH id IN ARRAY array_remove(ids, '') LOOP
		INSERT INTO keysidecar.staging (kind, owner_id)
			VALUES (CASE WHEN keysidecar.owner_id_or_null(id) IS NULL THEN 'reset' ELSE 'owner_changed' END, keysidecar.owner_id_or_null(id));
		INSERT INTO keysidecar.pending DEFAULT VALUES ON CONFLICT DO NOTHING;
	END LOOP;
	RETURN NULL;
END $f$, owner_column));
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION keysidecar.watch_owner IS 'Captures changes of owners in a table of yours: all keys of the owner are judged anew.';

-- +goose StatementBegin
CREATE FUNCTION keysidecar.unwatch(relation regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	keys boolean;
	owners boolean;
BEGIN
	IF EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = relation AND c.relnamespace = 'keysidecar'::regnamespace) THEN
		RAISE EXCEPTION 'keysidecar cannot stop watching %: its own tables are watched always', relation USING ERRCODE = 'wrong_object_type';
	END IF;
	keys := keysidecar.detach(relation, 'keysidecar_key');
	owners := keysidecar.detach(relation, 'keysidecar_owner');
	IF NOT (keys OR owners) THEN
		RAISE EXCEPTION '% is not watched', relation
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'For a table that was dropped, pass its number: SELECT DISTINCT relation::oid, relation_name FROM keysidecar.watched.';
	END IF;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION keysidecar.unwatch IS 'Undoes watch and watch_owner. Nothing that sidecars read may depend on the table any more.';

-- +goose StatementBegin
CREATE FUNCTION keysidecar.uncaptured(relation regclass) RETURNS SETOF regclass
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH RECURSIVE reads AS (
		SELECT relation::oid AS oid
		UNION
		SELECT d.refobjid
		FROM reads
		JOIN pg_rewrite r ON r.ev_class = reads.oid
		JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
	)
	SELECT c.oid::regclass FROM reads JOIN pg_class c USING (oid)
	WHERE c.relkind NOT IN ('v', 'S') AND NOT EXISTS (SELECT 1 FROM keysidecar.watched w WHERE w.relation = c.oid)
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION keysidecar.uncaptured IS 'The tables that a view reads, or the table itself, that are not watched. Functions that the view calls are not looked into.';

-- +goose Down

-- Operators' tables must not keep triggers that call what is gone.
-- +goose StatementBegin
DO $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT DISTINCT relation FROM keysidecar.watched WHERE relation_name NOT LIKE 'keysidecar.%' LOOP
		PERFORM keysidecar.detach(r.relation, 'keysidecar_key'), keysidecar.detach(r.relation, 'keysidecar_owner');
	END LOOP;
END $$;
-- +goose StatementEnd
DROP FUNCTION keysidecar.uncaptured(regclass);
DROP FUNCTION keysidecar.unwatch(regclass);
DROP FUNCTION keysidecar.watch_owner(regclass, name, name[]);
DROP FUNCTION keysidecar.watch(regclass, name, name, name[], name);
DROP FUNCTION keysidecar.attach(regclass, text, name[], text);
DROP FUNCTION keysidecar.detach(regclass, text);
DROP FUNCTION keysidecar.check_column(regclass, name, boolean);
DROP FUNCTION keysidecar.check_watchable(regclass);
DROP FUNCTION keysidecar.owner_id_or_null(text);
DROP FUNCTION keysidecar.key_id_or_null(text);
DROP FUNCTION keysidecar.reset();
