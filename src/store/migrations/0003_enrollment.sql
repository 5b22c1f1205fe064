-- Enrollment bundles, and what is to be written into the records.

-- secret_sha256: of the bundle's secret. networks: a JSON array of text, NULL where any will do.
-- serial: of the certificate that it became, in the transaction that recorded that certificate.
CREATE TABLE enrollments (
    id            TEXT PRIMARY KEY CHECK (length(id) = 16),
    uri           TEXT NOT NULL,
    secret_sha256 BLOB NOT NULL CHECK (length(secret_sha256) = 32),
    networks      TEXT,
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL,
    used_at       INTEGER,
    revoked_at    INTEGER,
    serial        TEXT UNIQUE REFERENCES certificates (serial),
    CHECK ((used_at IS NULL) = (serial IS NULL)),
    CHECK (used_at IS NULL OR revoked_at IS NULL)
) STRICT;

CREATE INDEX enrollments_by_uri ON enrollments (uri);
CREATE INDEX enrollments_by_end ON enrollments (expires_at);

CREATE INDEX certificates_compromised ON certificates (spki_sha256) WHERE reason = 'key-compromise';

-- What was done with certificates: a line of the records each, written down with what it tells of.
-- The gateway moves them into the records; what is here has not arrived there.
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    line   TEXT NOT NULL
) STRICT;
