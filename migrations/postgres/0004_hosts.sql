-- Which hosts use which binding of a stage's queue. A binding that no host has used lately stays for as long as nobody runs its stage.
CREATE TABLE bindings (
    stage TEXT NOT NULL,
    pattern TEXT NOT NULL,
    host TEXT NOT NULL,
    seen_ms BIGINT NOT NULL,
    PRIMARY KEY (stage, pattern, host)
);

-- The host that runs a single-active stage. The embedded store has one host.
CREATE TABLE stage_leases (
    stage TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    until_ms BIGINT NOT NULL
);
