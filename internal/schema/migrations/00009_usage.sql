-- When each key was last used, as far as sidecars with usage.enabled have told. A
-- statistic: no verdict depends on it, no trigger looks at it, and no event tells of
-- it. Programs built for version 8 do not know it and need not, so that
-- schema.serves_from stays.

-- +goose Up

CREATE TABLE keysidecar.key_usage (
	relation     text COLLATE "C" NOT NULL DEFAULT 'keysidecar.public_keys',
	key_id       text COLLATE "C" NOT NULL,
	last_used_at timestamptz NOT NULL,
	PRIMARY KEY (relation, key_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE keysidecar.key_usage IS 'When each key was last used. Written behind by sidecars: minutes late, and nothing is promised of it.';
COMMENT ON COLUMN keysidecar.key_usage.relation IS 'Where the sidecar reads keys from (store.postgres.relation).';
-- No foreign key: keys may be in tables of others, and the deletion of a key must not
-- wait for whoever notes its use. Sidecars delete the rows of keys that are gone.

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION keysidecar.grant_roles(OUT missing text[])
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	r text;
	g text;
	grants CONSTANT jsonb := '{
		"keysidecar_sidecar": [
			"USAGE ON SCHEMA keysidecar",
			"SELECT ON keysidecar.schema_version, keysidecar.settings, keysidecar.public_keys, keysidecar.owners, keysidecar.events, keysidecar.watched, keysidecar.instances, keysidecar.registry",
			"UPDATE (cursor_seq, cursor_event, timeline, reported_at) ON keysidecar.instances",
			"SELECT, INSERT, DELETE ON keysidecar.key_usage",
			"UPDATE (last_used_at) ON keysidecar.key_usage",
			"EXECUTE ON FUNCTION keysidecar.capture_intact(), keysidecar.capture_problems(), keysidecar.registry_identity()",
			"EXECUTE ON FUNCTION keysidecar.register(uuid, text, bigint, bigint, text, text, uuid[], boolean), keysidecar.sign_off(uuid)",
			"EXECUTE ON FUNCTION keysidecar.receipt(bigint), keysidecar.receipt(text), keysidecar.receipt_seq(text), keysidecar.receipt_owner_seq(text)"],
		"keysidecar_relay": [
			"USAGE ON SCHEMA keysidecar",
			"SELECT ON keysidecar.schema_version, keysidecar.settings, keysidecar.events, keysidecar.staging, keysidecar.watched, keysidecar.instances, keysidecar.registry, keysidecar.relay",
			"DELETE ON keysidecar.events, keysidecar.staging, keysidecar.instances",
			"UPDATE (marked_at) ON keysidecar.instances",
			"UPDATE ON keysidecar.relay, keysidecar.registry",
			"EXECUTE ON FUNCTION keysidecar.capture_intact(), keysidecar.capture_problems(), keysidecar.registry_identity()"],
		"keysidecar_app": [
			"USAGE ON SCHEMA keysidecar",
			"SELECT ON keysidecar.schema_version, keysidecar.settings, keysidecar.key_usage",
			"SELECT, INSERT, UPDATE, DELETE ON keysidecar.public_keys, keysidecar.owners",
			"EXECUTE ON FUNCTION keysidecar.revoke_key(text, text), keysidecar.suspend_owner(text), keysidecar.reactivate_owner(text)",
			"EXECUTE ON FUNCTION keysidecar.receipt(bigint), keysidecar.receipt(text), keysidecar.receipt_seq(text), keysidecar.receipt_owner_seq(text)"]
	}';
BEGIN
	missing := '{}';
	FOR r IN SELECT jsonb_object_keys(grants) LOOP
		IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = r) THEN
			BEGIN
				EXECUTE format('CREATE ROLE %I NOLOGIN', r);
			EXCEPTION
				WHEN duplicate_object OR unique_violation THEN NULL; -- another database's migration was faster
				WHEN insufficient_privilege THEN
					missing := missing || r;
					CONTINUE;
			END;
		END IF;
		FOR g IN SELECT jsonb_array_elements_text(grants -> r) LOOP
			EXECUTE format('GRANT %s TO %I', g, r);
		END LOOP;
	END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down

DROP TABLE keysidecar.key_usage;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION keysidecar.grant_roles(OUT missing text[])
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	r text;
	g text;
	grants CONSTANT jsonb := '{
		"keysidecar_sidecar": [
			"USAGE ON SCHEMA keysidecar",
			"SELECT ON keysidecar.schema_version, keysidecar.settings, keysidecar.public_keys, keysidecar.owners, keysidecar.events, keysidecar.watched, keysidecar.instances, keysidecar.registry",
			"UPDATE (cursor_seq, cursor_event, timeline, reported_at) ON keysidecar.instances",
			"EXECUTE ON FUNCTION keysidecar.capture_intact(), keysidecar.capture_problems(), keysidecar.registry_identity()",
			"EXECUTE ON FUNCTION keysidecar.register(uuid, text, bigint, bigint, text, text, uuid[], boolean), keysidecar.sign_off(uuid)",
			"EXECUTE ON FUNCTION keysidecar.receipt(bigint), keysidecar.receipt(text), keysidecar.receipt_seq(text), keysidecar.receipt_owner_seq(text)"],
		"keysidecar_relay": [
			"USAGE ON SCHEMA keysidecar",
			"SELECT ON keysidecar.schema_version, keysidecar.settings, keysidecar.events, keysidecar.staging, keysidecar.watched, keysidecar.instances, keysidecar.registry, keysidecar.relay",
			"DELETE ON keysidecar.events, keysidecar.staging, keysidecar.instances",
			"UPDATE (marked_at) ON keysidecar.instances",
			"UPDATE ON keysidecar.relay, keysidecar.registry",
			"EXECUTE ON FUNCTION keysidecar.capture_intact(), keysidecar.capture_problems(), keysidecar.registry_identity()"],
		"keysidecar_app": [
			"USAGE ON SCHEMA keysidecar",
			"SELECT ON keysidecar.schema_version, keysidecar.settings",
			"SELECT, INSERT, UPDATE, DELETE ON keysidecar.public_keys, keysidecar.owners",
			"EXECUTE ON FUNCTION keysidecar.revoke_key(text, text), keysidecar.suspend_owner(text), keysidecar.reactivate_owner(text)",
			"EXECUTE ON FUNCTION keysidecar.receipt(bigint), keysidecar.receipt(text), keysidecar.receipt_seq(text), keysidecar.receipt_owner_seq(text)"]
	}';
BEGIN
	missing := '{}';
	FOR r IN SELECT jsonb_object_keys(grants) LOOP
		IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = r) THEN
			BEGIN
				EXECUTE format('CREATE ROLE %I NOLOGIN', r);
			EXCEPTION
				WHEN duplicate_object OR unique_violation THEN NULL; -- another database's migration was faster
				WHEN insufficient_privilege THEN
					missing := missing || r;
					CONTINUE;
			END;
		END IF;
		FOR g IN SELECT jsonb_array_elements_text(grants -> r) LOOP
			EXECUTE format('GRANT %s TO %I', g, r);
		END LOOP;
	END LOOP;
END $$;
-- +goose StatementEnd
