-- Least privilege: three group roles, and who may do what.

-- +goose Up

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA keysidecar FROM PUBLIC;
GRANT EXECUTE ON FUNCTION keysidecar.valid_scopes(text[]) TO PUBLIC;

-- Roles belong to the whole cluster and not every migrating role may create them,
-- so this is a function that can be called again: migrate does so at its end.
-- +goose StatementBegin
CREATE FUNCTION keysidecar.grant_roles(OUT missing text[])
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
REVOKE ALL ON FUNCTION keysidecar.grant_roles() FROM PUBLIC;

-- +goose Down

-- The roles stay, for other databases of the cluster may use them; their rights
-- end with what they are rights on.
DROP FUNCTION keysidecar.grant_roles();
