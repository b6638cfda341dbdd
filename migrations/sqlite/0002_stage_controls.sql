-- What operators said about stages; a stage that is not here runs.
CREATE TABLE stage_controls (
    stage TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('running', 'paused', 'draining')),
    reason TEXT,
    since_ms INTEGER NOT NULL,
    held_from_ms INTEGER           -- when it was paused last; kept after it was resumed, because expiry stood still meanwhile
) STRICT, WITHOUT ROWID;
