-- One record for each write of an operator. Each has a hash over itself and the hash of the one before.
CREATE TABLE audit (
    pos BIGINT PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    host TEXT COLLATE "C" NOT NULL,
    actor_kind TEXT COLLATE "C" NOT NULL,
    actor_id TEXT COLLATE "C" NOT NULL,
    address TEXT,
    action TEXT COLLATE "C" NOT NULL,
    object TEXT COLLATE "C" NOT NULL,
    before TEXT,                   -- JSON
    after TEXT,                    -- JSON
    reason TEXT,
    outcome TEXT NOT NULL CHECK (outcome IN ('done', 'refused')),
    hash TEXT COLLATE "C" NOT NULL
);
CREATE INDEX audit_by_time ON audit (at_ms);
CREATE INDEX audit_by_object ON audit (object);

-- The newest record, and the newest one that retention deleted: one row.
CREATE TABLE audit_head (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    pos BIGINT NOT NULL,
    hash TEXT COLLATE "C" NOT NULL,
    anchor_pos BIGINT NOT NULL,
    anchor_hash TEXT NOT NULL
);
INSERT INTO audit_head (id, pos, hash, anchor_pos, anchor_hash) VALUES (1, 0, '', 0, '');
