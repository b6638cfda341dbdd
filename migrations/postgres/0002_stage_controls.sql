-- What operators said about stages; a stage that is not here runs.
CREATE TABLE stage_controls (
    stage TEXT COLLATE "C" PRIMARY KEY,
    state TEXT COLLATE "C" NOT NULL CHECK (state IN ('running', 'paused', 'draining')),
    reason TEXT,
    since_ms BIGINT NOT NULL,
    held_from_ms BIGINT            -- when it was paused last; kept after it was resumed, because expiry stood still meanwhile
);
