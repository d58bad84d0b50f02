-- Owners and keys: what verdicts are made of. The checks mirror keystore.Key.Check,
-- so that a row a sidecar cannot read cannot be written.

-- +goose Up

-- Read by the check on public_keys, so every writer may execute it.
-- +goose StatementBegin
CREATE FUNCTION keysidecar.valid_scopes(scopes text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT array_ndims(scopes) = 1 AND cardinality(scopes) <= 64
		AND NOT EXISTS (SELECT 1 FROM unnest(scopes) AS s WHERE s IS NULL OR octet_length(s) NOT BETWEEN 1 AND 256)
$$;
-- +goose StatementEnd

CREATE TABLE keysidecar.owners (
	owner_id     text COLLATE "C" PRIMARY KEY,
	suspended_at timestamptz,
	created_at   timestamptz NOT NULL DEFAULT now(),
	CONSTRAINT owner_id_is_1_to_256_bytes_without_control_characters
		CHECK (octet_length(owner_id) BETWEEN 1 AND 256 AND owner_id !~ '[\u0001-\u001f\u007f]')
);
COMMENT ON TABLE keysidecar.owners IS 'Who keys belong to. suspended_at set: all of the owner''s keys are off.';

CREATE TABLE keysidecar.public_keys (
	key_id         text COLLATE "C" PRIMARY KEY,
	owner_id       text COLLATE "C" NOT NULL REFERENCES keysidecar.owners ON UPDATE CASCADE ON DELETE CASCADE,
	algorithm      text NOT NULL,
	public_key     bytea,
	scopes         text[] NOT NULL DEFAULT '{}',
	not_before     timestamptz,
	expires_at     timestamptz,
	revoked_at     timestamptz,
	revoked_reason text,
	attributes     jsonb NOT NULL DEFAULT '{}',
	note           text,
	created_at     timestamptz NOT NULL DEFAULT now(),
	CONSTRAINT key_id_is_1_to_256_of_letters_digits_and_punctuation
		CHECK (octet_length(key_id) <= 256 AND key_id ~ '^[A-Za-z0-9._~+=:-]+$' AND key_id NOT IN ('.', '..')),
	CONSTRAINT algorithm_is_1_to_64_bytes CHECK (octet_length(algorithm) BETWEEN 1 AND 64),
	CONSTRAINT public_key_is_1_to_8192_bytes_of_der CHECK (octet_length(public_key) BETWEEN 1 AND 8192),
	CONSTRAINT scopes_are_at_most_64_of_1_to_256_bytes CHECK (scopes = '{}' OR keysidecar.valid_scopes(scopes)),
	-- Four-digit years, and no infinity: null is how to say "no bound".
	CONSTRAINT not_before_is_between_1970_and_9999 CHECK (not_before >= '1970-01-01Z' AND not_before < '10000-01-01Z'),
	CONSTRAINT expires_at_is_between_1970_and_9999 CHECK (expires_at >= '1970-01-01Z' AND expires_at < '10000-01-01Z'),
	CONSTRAINT attributes_are_an_object_of_at_most_1024_bytes
		CHECK (jsonb_typeof(attributes) = 'object' AND octet_length(attributes::text) <= 1024)
);
CREATE INDEX public_keys_owner_id ON keysidecar.public_keys (owner_id);
COMMENT ON TABLE keysidecar.public_keys IS 'Keys. A non-null revoked_at means revoked now, whatever its value.';
COMMENT ON COLUMN keysidecar.public_keys.public_key IS 'SubjectPublicKeyInfo in DER; null for an opaque key.';

-- +goose Down

DROP TABLE keysidecar.public_keys;
DROP TABLE keysidecar.owners;
DROP FUNCTION keysidecar.valid_scopes(text[]);
