-- One record for each write of an operator. Each has a hash over itself and the hash of the one before.
CREATE TABLE audit (
    pos INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    host TEXT NOT NULL,
    actor_kind TEXT NOT NULL,
    actor_id TEXT NOT NULL,
    address TEXT,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    before TEXT,                   -- JSON
    after TEXT,                    -- JSON
    reason TEXT,
    outcome TEXT NOT NULL CHECK (outcome IN ('done', 'refused')),
    hash TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_time ON audit (at_ms);
CREATE INDEX audit_by_object ON audit (object);

-- The newest record, and the newest one that retention deleted: one row.
CREATE TABLE audit_head (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    pos INTEGER NOT NULL,
    hash TEXT NOT NULL,
    anchor_pos INTEGER NOT NULL,
    anchor_hash TEXT NOT NULL
) STRICT;
INSERT INTO audit_head (id, pos, hash, anchor_pos, anchor_hash) VALUES (1, 0, '', 0, '');
