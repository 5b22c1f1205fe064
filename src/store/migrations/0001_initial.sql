-- Times are milliseconds since the Unix epoch, UTC. `revision` is the value that meta.revision
-- had when the row last changed: a reader asks for what is newer than what it has seen.

CREATE TABLE meta (
    only_row  INTEGER PRIMARY KEY CHECK (only_row = 1),
    revision  INTEGER NOT NULL,
    pepper_id TEXT
) STRICT;

INSERT INTO meta (only_row, revision) VALUES (1, 0);

-- networks, endpoints, models: JSON arrays of text, NULL where the key does not narrow.
CREATE TABLE keys (
    id         TEXT PRIMARY KEY CHECK (length(id) = 12),
    owner      TEXT NOT NULL,
    digest     BLOB NOT NULL CHECK (length(digest) = 32),
    networks   TEXT,
    endpoints  TEXT,
    models     TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    revision   INTEGER NOT NULL
) STRICT;

CREATE INDEX keys_by_revision ON keys (revision);

-- serial: lower-case hex without leading zero bytes.
CREATE TABLE certificates (
    serial      TEXT PRIMARY KEY,
    uri         TEXT NOT NULL,
    role        TEXT NOT NULL,
    name        TEXT NOT NULL,
    not_before  INTEGER NOT NULL,
    not_after   INTEGER NOT NULL,
    spki_sha256 BLOB NOT NULL CHECK (length(spki_sha256) = 32),
    issued_at   INTEGER NOT NULL,
    revoked_at  INTEGER,
    reason      TEXT,
    revision    INTEGER NOT NULL,
    CHECK ((revoked_at IS NULL) = (reason IS NULL))
) STRICT;

CREATE INDEX certificates_by_uri ON certificates (uri);
CREATE INDEX certificates_revoked ON certificates (revoked_at) WHERE revoked_at IS NOT NULL;

-- Whole subjects: every certificate of the URI, those issued later included.
CREATE TABLE revocations (
    uri        TEXT PRIMARY KEY,
    revoked_at INTEGER NOT NULL,
    reason     TEXT NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
