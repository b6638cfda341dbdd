-- The same tables as in migrations/sqlite. Deliveries, attempts, dead letters and outbox rows name their event by its position in the
-- log (`events.seq`). Keys that are searched by range or compared with bytes have the collation "C".

-- A group of operations takes one number; the positions of its events and its outbox ids follow from it (number << 20, counting up).
CREATE SEQUENCE numbers CACHE 1 MAXVALUE 8796093022207;

CREATE TABLE orders (
    pos BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL UNIQUE,
    customer TEXT COLLATE "C",
    status TEXT COLLATE "C" NOT NULL,
    body TEXT NOT NULL,
    fingerprint TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL
);
CREATE INDEX orders_by_status ON orders (status, pos);
CREATE INDEX orders_by_customer ON orders (customer, pos) WHERE customer IS NOT NULL;

CREATE TABLE events (
    seq BIGINT PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL,
    source TEXT COLLATE "C" NOT NULL,
    type TEXT COLLATE "C" NOT NULL,
    subject TEXT NOT NULL,
    time_ms BIGINT NOT NULL,
    content_type TEXT NOT NULL,
    data BYTEA NOT NULL,
    attributes TEXT,               -- JSON, a list of pairs; NULL when there are none
    order_id TEXT COLLATE "C",
    correlation_id TEXT NOT NULL,
    cause_source TEXT,
    cause_id TEXT,
    hops BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    stage TEXT,                    -- producer
    digest TEXT,                   -- producer
    routed_to TEXT                 -- JSON, a list of stages; NULL when there are none
);
CREATE UNIQUE INDEX events_by_key ON events (id, source);
CREATE INDEX events_by_order ON events (order_id, seq) WHERE order_id IS NOT NULL;

CREATE TABLE deliveries (
    event_seq BIGINT NOT NULL,
    stage TEXT COLLATE "C" NOT NULL,
    round BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    status TEXT COLLATE "C" NOT NULL CHECK (status IN ('open', 'done', 'skipped', 'dead', 'replaced')),
    version TEXT,
    digest TEXT,
    duration_us BIGINT,
    emitted TEXT,                  -- JSON, a list of event ids; NULL when there are none
    created_ms BIGINT NOT NULL,
    queued_ms BIGINT NOT NULL,
    settled_ms BIGINT,
    PRIMARY KEY (event_seq, stage)
);
CREATE INDEX deliveries_open ON deliveries (stage, queued_ms) WHERE status = 'open';

CREATE TABLE attempts (
    event_seq BIGINT NOT NULL,
    stage TEXT COLLATE "C" NOT NULL,
    round BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    backtrace TEXT,
    digest TEXT NOT NULL,
    duration_us BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (event_seq, stage, round, attempt)
);

CREATE TABLE dead_letters (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_seq BIGINT NOT NULL,
    stage TEXT COLLATE "C" NOT NULL,
    round BIGINT NOT NULL,
    code TEXT COLLATE "C" NOT NULL,
    message TEXT NOT NULL,
    digest TEXT NOT NULL,
    died_ms BIGINT NOT NULL,
    status TEXT COLLATE "C" NOT NULL CHECK (status IN ('open', 'replayed', 'discarded')),
    note TEXT
);
CREATE INDEX dead_letters_by_stage ON dead_letters (stage, id);
CREATE INDEX dead_letters_by_code ON dead_letters (code, id);
CREATE INDEX dead_letters_by_status ON dead_letters (status, id);

CREATE TABLE outbox (
    id BIGINT PRIMARY KEY,
    event_seq BIGINT NOT NULL,
    due_ms BIGINT NOT NULL,
    owner TEXT,                    -- the host that holds the lease; NULL: nobody
    lease_until_ms BIGINT,
    stage TEXT COLLATE "C",        -- straight to this stage's queue; NULL: published by its type
    round BIGINT,
    attempt BIGINT
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 10000);
-- When a row may be taken: when it falls due, or when the lease on it runs out.
CREATE INDEX outbox_claimable ON outbox ((coalesce(lease_until_ms, due_ms)));
CREATE INDEX outbox_by_event ON outbox (event_seq);

CREATE TABLE state (
    stage TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    value BYTEA,                   -- NULL: removed, or never there (version 0); the version lives on
    version BIGINT NOT NULL,
    PRIMARY KEY (stage, key)
) WITH (fillfactor = 70);

CREATE TABLE plugin_loads (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stage TEXT COLLATE "C" NOT NULL,
    digest TEXT NOT NULL,
    version TEXT NOT NULL,
    host TEXT NOT NULL,
    loaded_ms BIGINT NOT NULL
);
CREATE INDEX plugin_loads_by_stage ON plugin_loads (stage, id);
