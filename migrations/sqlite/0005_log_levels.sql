-- Log levels that operators set for stages: docs/logs.md.

-- A stage without a row, or past until_ms, logs at the level of the process.
CREATE TABLE stage_log_levels (
    stage TEXT PRIMARY KEY,
    level TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    until_ms INTEGER
) STRICT, WITHOUT ROWID;
