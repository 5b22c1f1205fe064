-- The whole policy of keys; owners and grants; what was deleted.

-- hashing: how `digest` was made. labels: a JSON object of text, NULL when there are none.
-- uses_left: NULL is as often as one likes. It is a counter: `revision` moves with it only when it
-- comes to zero or leaves it.
ALTER TABLE keys ADD COLUMN hashing TEXT NOT NULL DEFAULT 'hmac-sha256';
ALTER TABLE keys ADD COLUMN not_before INTEGER;
ALTER TABLE keys ADD COLUMN uses_left INTEGER CHECK (uses_left >= 0);
ALTER TABLE keys ADD COLUMN refund_on_failure INTEGER NOT NULL DEFAULT 0 CHECK (refund_on_failure IN (0, 1));
ALTER TABLE keys ADD COLUMN bound_to TEXT;
ALTER TABLE keys ADD COLUMN disabled INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1));
ALTER TABLE keys ADD COLUMN labels TEXT;
ALTER TABLE keys ADD COLUMN note TEXT;
ALTER TABLE keys ADD COLUMN rotated_from TEXT;
ALTER TABLE keys ADD COLUMN external_id TEXT;

CREATE UNIQUE INDEX keys_by_external_id ON keys (external_id) WHERE external_id IS NOT NULL;
CREATE INDEX keys_by_owner ON keys (owner);

-- Apart from the policy: it is written all the time and decides nothing.
CREATE TABLE key_use (
    id           TEXT PRIMARY KEY REFERENCES keys (id) ON DELETE CASCADE,
    last_used_at INTEGER NOT NULL
) STRICT;

-- disabled_at: NULL once the owner is enabled again.
CREATE TABLE owners (
    path        TEXT PRIMARY KEY,
    disabled_at INTEGER,
    revision    INTEGER NOT NULL
) STRICT;

CREATE INDEX owners_by_revision ON owners (revision);

-- Lists as in keys; spans in milliseconds.
CREATE TABLE grants (
    owner           TEXT PRIMARY KEY,
    require         TEXT,
    networks        TEXT,
    endpoints       TEXT,
    models          TEXT,
    cors_origins    TEXT,
    expires_at      INTEGER,
    default_key_ttl INTEGER,
    max_key_ttl     INTEGER,
    revision        INTEGER NOT NULL
) STRICT;

CREATE INDEX grants_by_revision ON grants (revision);

-- For readers that have seen what is gone: kind is 'key' or 'grant'. The oldest are forgotten;
-- a reader that has seen no more than meta.forgotten reads everything anew.
CREATE TABLE deletions (
    kind     TEXT NOT NULL,
    name     TEXT NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT;

CREATE INDEX deletions_by_revision ON deletions (revision);

ALTER TABLE meta ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;

-- When what is denied among certificates last changed.
ALTER TABLE meta ADD COLUMN denied_revision INTEGER NOT NULL DEFAULT 0;
UPDATE meta SET denied_revision = revision;
