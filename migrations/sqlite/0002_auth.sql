-- Who may use the API. Only digests of secrets are stored.

-- The principal that submitted the subject; NULL: not known.
ALTER TABLE subjects ADD COLUMN owner TEXT;
CREATE INDEX subjects_by_owner ON subjects (kind, owner) WHERE owner IS NOT NULL;

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    principal TEXT NOT NULL,
    description TEXT NOT NULL,
    roles TEXT NOT NULL,           -- separated by spaces
    digest TEXT NOT NULL,          -- SHA-256 of the secret
    created_ms INTEGER NOT NULL,
    created_by TEXT,               -- a principal; NULL: the command line on the store itself
    expires_ms INTEGER,            -- NULL: never
    revoked_ms INTEGER,
    last_used_ms INTEGER
) STRICT, WITHOUT ROWID;

-- Sessions of browsers. Expired ones are deleted when another one begins.
CREATE TABLE sessions (
    digest TEXT PRIMARY KEY,       -- SHA-256 of the id
    kind TEXT NOT NULL,
    principal TEXT NOT NULL,
    name TEXT NOT NULL,
    roles TEXT NOT NULL,           -- separated by spaces
    credential TEXT,               -- the API key of the log-in, which the session ends with
    expires_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_expiry ON sessions (expires_ms);
