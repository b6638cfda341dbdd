-- Deliveries, attempts, dead letters and outbox rows name their event by its position in the log (`events.seq`), which is as good as
-- (source, id) because that pair is unique, and keeps every table but `events` and `state` growing at its end.

CREATE TABLE orders (
    pos INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    customer TEXT,
    status TEXT NOT NULL,
    body TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX orders_by_status ON orders (status);
CREATE INDEX orders_by_customer ON orders (customer) WHERE customer IS NOT NULL;

CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    source TEXT NOT NULL,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    data BLOB NOT NULL,
    attributes TEXT,               -- JSON, a list of pairs; NULL when there are none
    order_id TEXT,
    correlation_id TEXT NOT NULL,
    cause_source TEXT,
    cause_id TEXT,
    hops INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    stage TEXT,                    -- producer
    digest TEXT,                   -- producer
    routed_to TEXT                 -- JSON, a list of stages; NULL when there are none
) STRICT;
-- The id comes first because it tells rows apart sooner than the source does.
CREATE UNIQUE INDEX events_by_key ON events (id, source);
CREATE INDEX events_by_order ON events (order_id) WHERE order_id IS NOT NULL;

CREATE TABLE deliveries (
    event_seq INTEGER NOT NULL,
    stage TEXT NOT NULL,
    round INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'done', 'skipped', 'dead', 'replaced')),
    version TEXT,
    digest TEXT,
    duration_us INTEGER,
    emitted TEXT,                  -- JSON, a list of event ids; NULL when there are none
    created_ms INTEGER NOT NULL,
    queued_ms INTEGER NOT NULL,
    settled_ms INTEGER,
    PRIMARY KEY (event_seq, stage)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_open ON deliveries (stage, queued_ms) WHERE status = 'open';

CREATE TABLE attempts (
    event_seq INTEGER NOT NULL,
    stage TEXT NOT NULL,
    round INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    backtrace TEXT,
    digest TEXT NOT NULL,
    duration_us INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (event_seq, stage, round, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event_seq INTEGER NOT NULL,
    stage TEXT NOT NULL,
    round INTEGER NOT NULL,
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    digest TEXT NOT NULL,
    died_ms INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'replayed', 'discarded')),
    note TEXT
) STRICT;
CREATE INDEX dead_letters_by_stage ON dead_letters (stage);
CREATE INDEX dead_letters_by_code ON dead_letters (code);
CREATE INDEX dead_letters_by_status ON dead_letters (status);

CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,
    event_seq INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    owner TEXT,                    -- the host that holds the lease; NULL: nobody
    lease_until_ms INTEGER,
    stage TEXT,                    -- straight to this stage's queue; NULL: published by its type
    round INTEGER,
    attempt INTEGER
) STRICT;
CREATE INDEX outbox_free ON outbox (due_ms) WHERE owner IS NULL;
CREATE INDEX outbox_leased ON outbox (lease_until_ms) WHERE owner IS NOT NULL;
CREATE INDEX outbox_by_event ON outbox (event_seq);

CREATE TABLE state (
    stage TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB,                    -- NULL: removed; the version lives on
    version INTEGER NOT NULL,
    PRIMARY KEY (stage, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE plugin_loads (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stage TEXT NOT NULL,
    digest TEXT NOT NULL,
    version TEXT NOT NULL,
    host TEXT NOT NULL,
    loaded_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX plugin_loads_by_stage ON plugin_loads (stage);
