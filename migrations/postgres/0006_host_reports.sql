-- What the hosts of a namespace run, and what they ask each other to do: docs/cluster.md.

ALTER TABLE hosts ADD COLUMN report TEXT; -- JSON, sealed if what is stored is; NULL: none yet

-- What a host asks another one to do. A row is taken once, by the host that it names, and deleted an hour after it was written.
CREATE TABLE host_commands (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    host TEXT COLLATE "C" NOT NULL,
    command TEXT NOT NULL,         -- JSON
    created_ms BIGINT NOT NULL,
    taken_ms BIGINT,               -- NULL: not yet
    answer TEXT                    -- JSON; NULL: none yet
);
CREATE INDEX host_commands_waiting ON host_commands (host) WHERE taken_ms IS NULL;
