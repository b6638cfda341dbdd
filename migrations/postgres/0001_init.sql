-- The same tables as in migrations/sqlite. Deliveries, attempts, dead letters and outbox rows refer to their event by its position in
-- the log (`events.seq`). Keys that are searched by range or compared byte by byte have the collation "C".

-- A commit group takes one number; the positions of its events and its outbox ids follow from it (number << 20, counting up).
CREATE SEQUENCE numbers CACHE 1 MAXVALUE 8796093022207;

-- A subject is what events are about, such as one order or one document: its key is <kind>/<id>. Retention sets its status to `pruned` and empties its
-- body and customer. The row stays, so its key is never reused.
CREATE TABLE subjects (
    pos BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key TEXT COLLATE "C" NOT NULL UNIQUE,
    kind TEXT COLLATE "C" NOT NULL,
    customer TEXT COLLATE "C",
    status TEXT COLLATE "C" NOT NULL,
    body TEXT NOT NULL,
    fingerprint TEXT COLLATE "C" NOT NULL,
    idempotency_key TEXT COLLATE "C",
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    -- `status`, once nothing has to follow; NULL before. No index has `status` and `updated_ms`, which change with each step of the subject: an update
    -- that changes no index stays in its page, and touches none.
    finished_status TEXT COLLATE "C",
    finished_ms BIGINT             -- since when; NULL: not finished, or pruned
) WITH (fillfactor = 60);
CREATE INDEX subjects_by_kind ON subjects (kind, pos);
CREATE INDEX subjects_unfinished ON subjects (kind, pos) WHERE finished_status IS NULL;
CREATE INDEX subjects_finished ON subjects (kind, finished_status, pos) WHERE finished_status IS NOT NULL;
CREATE INDEX subjects_by_customer ON subjects (kind, customer, pos) WHERE customer IS NOT NULL;
CREATE UNIQUE INDEX subjects_by_idempotency_key ON subjects (kind, idempotency_key) WHERE idempotency_key IS NOT NULL;
-- Retention reads the oldest subjects of a kind first.
CREATE INDEX subjects_by_age ON subjects (kind, finished_ms) WHERE finished_ms IS NOT NULL;

CREATE TABLE events (
    seq BIGINT PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL,
    source TEXT COLLATE "C" NOT NULL,
    type TEXT COLLATE "C" NOT NULL,
    subject TEXT NOT NULL,
    time_ms BIGINT NOT NULL,       -- set by the producer
    content_type TEXT NOT NULL,
    data BYTEA NOT NULL,
    attributes TEXT,               -- JSON list of pairs; NULL: none
    subject_key TEXT COLLATE "C",  -- <kind>/<id>; NULL: none
    correlation_id TEXT NOT NULL,
    cause_source TEXT,
    cause_id TEXT,
    hops BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    stage TEXT,                    -- producer
    digest TEXT,                   -- producer
    routed_to TEXT,                -- JSON list of stages; NULL: none
    logged_ms BIGINT NOT NULL,     -- when the event entered this log
    due_ms BIGINT,                 -- when a scheduled event is sent; NULL: immediately
    unrouted_ms BIGINT            -- since when it waits for a stage that consumes its type; NULL: it does not
);
CREATE UNIQUE INDEX events_by_key ON events (id, source);
CREATE INDEX events_by_subject ON events (subject_key, seq) WHERE subject_key IS NOT NULL;
-- Retention reads the oldest events first.
CREATE INDEX events_without_subject_by_age ON events (logged_ms) WHERE subject_key IS NULL;
CREATE INDEX events_unrouted ON events (type, seq) WHERE unrouted_ms IS NOT NULL;

CREATE TABLE deliveries (
    event_seq BIGINT NOT NULL,
    stage TEXT COLLATE "C" NOT NULL,
    round BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    status TEXT COLLATE "C" NOT NULL CHECK (status IN ('open', 'done', 'skipped', 'dead', 'replaced')),
    version TEXT,
    digest TEXT,
    duration_us BIGINT,
    emitted TEXT,                  -- JSON list of event ids; NULL: none
    created_ms BIGINT NOT NULL,
    queued_ms BIGINT NOT NULL,
    settled_ms BIGINT,
    PRIMARY KEY (event_seq, stage)
);
CREATE INDEX deliveries_open ON deliveries (stage, queued_ms) WHERE status = 'open';

-- Failed attempts only.
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

-- What a stage received and decided, for replays. A row is written when its delivery is settled, never changes, and is deleted with the
-- delivery. The key is the order in which rows are read: a stage's deliveries as they were settled.
CREATE TABLE recordings (
    stage TEXT COLLATE "C" NOT NULL,
    settled_ms BIGINT NOT NULL,    -- as in `deliveries`
    event_seq BIGINT NOT NULL,
    body TEXT NOT NULL,            -- JSON
    PRIMARY KEY (stage, settled_ms, event_seq)
);

CREATE TABLE dead_letters (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_seq BIGINT NOT NULL,
    stage TEXT COLLATE "C" NOT NULL,
    round BIGINT NOT NULL,
    code TEXT COLLATE "C" NOT NULL,
    message TEXT NOT NULL,
    digest TEXT NOT NULL,
    fingerprint TEXT NOT NULL,     -- the failure without its variable parts
    group_id TEXT COLLATE "C" NOT NULL, -- dead letters of one stage with the same fingerprint
    dead_lettered_ms BIGINT NOT NULL,
    status TEXT COLLATE "C" NOT NULL CHECK (status IN ('open', 'replayed', 'discarded')),
    note TEXT,
    settled_ms BIGINT,             -- when it was replayed or discarded
    replayed_source TEXT,          -- the event that an edited replay created
    replayed_id TEXT
);
CREATE INDEX dead_letters_by_stage ON dead_letters (stage, id);
CREATE INDEX dead_letters_by_code ON dead_letters (code, id);
CREATE INDEX dead_letters_by_status ON dead_letters (status, id);
-- Covers every column that the list of groups counts, so the table itself is not read.
CREATE INDEX dead_letters_by_group ON dead_letters (group_id, status, id, digest, dead_lettered_ms);
-- Filters by subject and retention search by event.
CREATE INDEX dead_letters_by_event ON dead_letters (event_seq);

CREATE TABLE outbox (
    id BIGINT PRIMARY KEY,
    event_seq BIGINT NOT NULL,
    due_ms BIGINT NOT NULL,
    owner TEXT,                    -- the host that holds the lease; NULL: not leased
    lease_until_ms BIGINT,
    stage TEXT COLLATE "C",        -- sent directly to this stage's queue; NULL: published by type
    round BIGINT,
    attempt BIGINT
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 10000);
-- When a row can be claimed: when it is due, or when its lease expires.
CREATE INDEX outbox_claimable ON outbox ((coalesce(lease_until_ms, due_ms)));
CREATE INDEX outbox_by_event ON outbox (event_seq);

CREATE TABLE state (
    stage TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    value BYTEA,                   -- NULL: removed, or never written (version 0); the version keeps growing
    version BIGINT NOT NULL,
    removed_ms BIGINT,             -- when the value was removed; NULL: there is one
    PRIMARY KEY (stage, key)
) WITH (fillfactor = 70);

-- Retention deletes removed keys.
CREATE INDEX state_removed ON state (removed_ms) WHERE removed_ms IS NOT NULL;

CREATE TABLE plugin_loads (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stage TEXT COLLATE "C" NOT NULL,
    digest TEXT NOT NULL,
    version TEXT NOT NULL,
    host TEXT NOT NULL,
    loaded_ms BIGINT NOT NULL
);
CREATE INDEX plugin_loads_by_stage ON plugin_loads (stage, id);

-- The state that operators set for a stage; a stage without a row runs.
CREATE TABLE stage_controls (
    stage TEXT COLLATE "C" PRIMARY KEY,
    state TEXT COLLATE "C" NOT NULL CHECK (state IN ('running', 'paused', 'draining')),
    reason TEXT,
    since_ms BIGINT NOT NULL,
    held_from_ms BIGINT            -- when the stage last stopped running; kept after a resume, which extends expiry by the pause
);

-- Chains of events that are large or were stopped. A chain without a row is small and runs.
CREATE TABLE chains (
    correlation_id TEXT COLLATE "C" PRIMARY KEY,
    events BIGINT NOT NULL,        -- emitted by stages on all hosts, since it began or was last resumed
    first_ms BIGINT NOT NULL,
    last_ms BIGINT NOT NULL,
    changed_ms BIGINT NOT NULL,
    stopped_ms BIGINT,             -- when an operator stopped it; NULL: it runs
    reason TEXT
);
CREATE INDEX chains_by_change ON chains (changed_ms);
CREATE INDEX chains_stopped ON chains (stopped_ms) WHERE stopped_ms IS NOT NULL;

-- Which hosts use which binding of a stage's queue. A binding that no live host uses is kept until a live host runs the stage without it.
CREATE TABLE bindings (
    stage TEXT NOT NULL,
    pattern TEXT NOT NULL,
    host TEXT NOT NULL,
    seen_ms BIGINT NOT NULL,
    PRIMARY KEY (stage, pattern, host)
);

-- The host that runs a single-active stage. SQLite has a single host and no such table.
CREATE TABLE stage_leases (
    stage TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    until_ms BIGINT NOT NULL
);

-- The hosts of the namespace: their settings, so that differences are found. Hosts that are gone are deleted.
CREATE TABLE hosts (
    host TEXT COLLATE "C" PRIMARY KEY,
    seen_ms BIGINT NOT NULL,
    settings TEXT NOT NULL         -- JSON: key to value or digest
);

-- Stages whose state is in a schema of its own. The state of any other stage is in `state`. SQLite has no schemas and no such table.
CREATE TABLE state_places (
    stage TEXT COLLATE "C" PRIMARY KEY,
    schema_name TEXT NOT NULL,
    role_name TEXT                 -- the owner of its table; NULL: the host's own
);

-- What hosts sign their messages with, so that no other program's message is taken for a host's. The one with the highest number signs.
CREATE TABLE message_keys (
    number BIGINT PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL UNIQUE, -- named in each message
    secret BYTEA NOT NULL,
    created_ms BIGINT NOT NULL
);

-- The namespace that these tables belong to: one row.
CREATE TABLE namespace (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    name TEXT NOT NULL
);
