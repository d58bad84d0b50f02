-- What applications do most, as functions. They run with their owner's rights, on
-- purpose: a role may be allowed to revoke keys without being allowed to write
-- the tables. The log names the caller, not the owner.
--
-- Each returns true if it changed something, false if that was so already, and
-- null if there is no such key or owner.

-- +goose Up

-- +goose StatementBegin
CREATE FUNCTION keysidecar.revoke_key(key_id text, reason text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	since timestamptz;
BEGIN
	SELECT k.revoked_at INTO since FROM keysidecar.public_keys k WHERE k.key_id = revoke_key.key_id FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RETURN NULL;
	ELSIF since IS NOT NULL THEN
		RETURN false;
	END IF;
	UPDATE keysidecar.public_keys k SET revoked_at = now(), revoked_reason = revoke_key.reason WHERE k.key_id = revoke_key.key_id;
	RETURN true;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION keysidecar.revoke_key IS 'Revokes a key. True: it is revoked now; false: it was before; null: there is no such key.';

-- +goose StatementBegin
CREATE FUNCTION keysidecar.suspend_owner(owner_id text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	since timestamptz;
BEGIN
	SELECT o.suspended_at INTO since FROM keysidecar.owners o WHERE o.owner_id = suspend_owner.owner_id FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RETURN NULL;
	ELSIF since IS NOT NULL THEN
		RETURN false;
	END IF;
	UPDATE keysidecar.owners o SET suspended_at = now() WHERE o.owner_id = suspend_owner.owner_id;
	RETURN true;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION keysidecar.suspend_owner IS 'Turns all keys of an owner off. True: they are off now; false: they were before; null: there is no such owner.';

-- +goose StatementBegin
CREATE FUNCTION keysidecar.reactivate_owner(owner_id text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	since timestamptz;
BEGIN
	SELECT o.suspended_at INTO since FROM keysidecar.owners o WHERE o.owner_id = reactivate_owner.owner_id FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RETURN NULL;
	ELSIF since IS NULL THEN
		RETURN false;
	END IF;
	UPDATE keysidecar.owners o SET suspended_at = NULL WHERE o.owner_id = reactivate_owner.owner_id;
	RETURN true;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION keysidecar.reactivate_owner IS 'Turns the keys of a suspended owner on again. True: done; false: the owner was active; null: there is no such owner.';

-- +goose Down

DROP FUNCTION keysidecar.reactivate_owner(text);
DROP FUNCTION keysidecar.suspend_owner(text);
DROP FUNCTION keysidecar.revoke_key(text, text);
