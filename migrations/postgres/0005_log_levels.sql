-- Log levels that operators set for stages: docs/logs.md.

-- A stage without a row, or past until_ms, logs at the level of the process.
CREATE TABLE stage_log_levels (
    stage TEXT COLLATE "C" PRIMARY KEY,
    level TEXT COLLATE "C" NOT NULL,
    since_ms BIGINT NOT NULL,
    until_ms BIGINT
);
