-- Who may use the API, as in migrations/sqlite. Only digests of secrets are stored.

-- The principal that submitted the subject; NULL: not known.
ALTER TABLE subjects ADD COLUMN owner TEXT COLLATE "C";
CREATE INDEX subjects_by_owner ON subjects (kind, owner, pos) WHERE owner IS NOT NULL;

CREATE TABLE api_keys (
    id TEXT COLLATE "C" PRIMARY KEY,
    principal TEXT COLLATE "C" NOT NULL,
    description TEXT NOT NULL,
    roles TEXT NOT NULL,           -- separated by spaces
    digest TEXT NOT NULL,          -- SHA-256 of the secret
    created_ms BIGINT NOT NULL,
    created_by TEXT,               -- a principal; NULL: the command line on the store itself
    expires_ms BIGINT,             -- NULL: never
    revoked_ms BIGINT,
    last_used_ms BIGINT
);

-- Sessions of browsers. Expired ones are deleted when another one begins.
CREATE TABLE sessions (
    digest TEXT COLLATE "C" PRIMARY KEY, -- SHA-256 of the id
    kind TEXT NOT NULL,
    principal TEXT NOT NULL,
    name TEXT NOT NULL,
    roles TEXT NOT NULL,           -- separated by spaces
    credential TEXT,               -- the API key of the log-in, which the session ends with
    expires_ms BIGINT NOT NULL
);
CREATE INDEX sessions_by_expiry ON sessions (expires_ms);
