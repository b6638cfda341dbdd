-- Which hosts use which binding of a stage's queue. A binding that no host has used lately stays for as long as nobody runs its stage.
CREATE TABLE bindings (
    stage TEXT NOT NULL,
    pattern TEXT NOT NULL,
    host TEXT NOT NULL,
    seen_ms INTEGER NOT NULL,
    PRIMARY KEY (stage, pattern, host)
) STRICT, WITHOUT ROWID;
