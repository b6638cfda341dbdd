-- Deliveries, attempts, dead letters and outbox rows refer to their event by its position in the log (`events.seq`). That is equivalent to
-- (source, id), which is unique, and keeps every table but `events` and `state` growing at its end.

-- A subject is what events are about, such as one order or one document: its key is <kind>/<id>. Retention sets its status to `pruned` and empties its
-- body and customer. The row stays, so its key is never reused.
CREATE TABLE subjects (
    pos INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    customer TEXT,
    status TEXT NOT NULL,
    body TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    idempotency_key TEXT,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    finished_status TEXT,          -- `status`, once nothing has to follow; NULL before: `status` changes too often for an index
    finished_ms INTEGER            -- since when; NULL: not finished, or pruned
) STRICT;
CREATE INDEX subjects_by_kind ON subjects (kind);
CREATE INDEX subjects_unfinished ON subjects (kind) WHERE finished_status IS NULL;
CREATE INDEX subjects_finished ON subjects (kind, finished_status) WHERE finished_status IS NOT NULL;
CREATE INDEX subjects_by_customer ON subjects (kind, customer) WHERE customer IS NOT NULL;
CREATE UNIQUE INDEX subjects_by_idempotency_key ON subjects (kind, idempotency_key) WHERE idempotency_key IS NOT NULL;
-- Retention reads the oldest subjects of a kind first.
CREATE INDEX subjects_by_age ON subjects (kind, finished_ms) WHERE finished_ms IS NOT NULL;

CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    source TEXT NOT NULL,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    time_ms INTEGER NOT NULL,      -- set by the producer
    content_type TEXT NOT NULL,
    data BLOB NOT NULL,
    attributes TEXT,               -- JSON list of pairs; NULL: none
    subject_key TEXT,
    correlation_id TEXT NOT NULL,
    cause_source TEXT,
    cause_id TEXT,
    hops INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    stage TEXT,                    -- producer
    digest TEXT,                   -- producer
    routed_to TEXT,                -- JSON list of stages; NULL: none
    logged_ms INTEGER NOT NULL,    -- when the event entered this log
    due_ms INTEGER,                -- when a scheduled event is sent; NULL: immediately
    unrouted_ms INTEGER            -- since when it waits for a stage that consumes its type; NULL: it does not
) STRICT;
-- The id comes first because it distinguishes rows sooner than the source does.
CREATE UNIQUE INDEX events_by_key ON events (id, source);
CREATE INDEX events_by_subject ON events (subject_key) WHERE subject_key IS NOT NULL;
-- Retention reads the oldest events first.
CREATE INDEX events_without_subject_by_age ON events (logged_ms) WHERE subject_key IS NULL;
CREATE INDEX events_unrouted ON events (type, seq) WHERE unrouted_ms IS NOT NULL;

CREATE TABLE deliveries (
    event_seq INTEGER NOT NULL,
    stage TEXT NOT NULL,
    round INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'done', 'skipped', 'dead', 'replaced')),
    version TEXT,
    digest TEXT,
    duration_us INTEGER,
    emitted TEXT,                  -- JSON list of event ids; NULL: none
    created_ms INTEGER NOT NULL,
    queued_ms INTEGER NOT NULL,
    settled_ms INTEGER,
    PRIMARY KEY (event_seq, stage)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_open ON deliveries (stage, queued_ms) WHERE status = 'open';

-- Failed attempts only.
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

-- What a stage received and decided, for replays. A row is written when its delivery is settled, never changes, and is deleted with the
-- delivery. The key is the order in which rows are read: a stage's deliveries as they were settled.
CREATE TABLE recordings (
    stage TEXT NOT NULL,
    settled_ms INTEGER NOT NULL,   -- as in `deliveries`
    event_seq INTEGER NOT NULL,
    body TEXT NOT NULL,            -- JSON
    PRIMARY KEY (stage, settled_ms, event_seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event_seq INTEGER NOT NULL,
    stage TEXT NOT NULL,
    round INTEGER NOT NULL,
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    digest TEXT NOT NULL,
    fingerprint TEXT NOT NULL,     -- the failure without its variable parts
    group_id TEXT NOT NULL,        -- dead letters of one stage with the same fingerprint
    dead_lettered_ms INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'replayed', 'discarded')),
    note TEXT,
    settled_ms INTEGER,            -- when it was replayed or discarded
    replayed_source TEXT,          -- the event that an edited replay created
    replayed_id TEXT
) STRICT;
CREATE INDEX dead_letters_by_stage ON dead_letters (stage);
CREATE INDEX dead_letters_by_code ON dead_letters (code);
CREATE INDEX dead_letters_by_status ON dead_letters (status);
-- Covers every column that the list of groups counts, so the table itself is not read.
CREATE INDEX dead_letters_by_group ON dead_letters (group_id, status, id, digest, dead_lettered_ms);
-- Filters by subject and retention search by event.
CREATE INDEX dead_letters_by_event ON dead_letters (event_seq);

CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,
    event_seq INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    owner TEXT,                    -- the host that holds the lease; NULL: not leased
    lease_until_ms INTEGER,
    stage TEXT,                    -- sent directly to this stage's queue; NULL: published by type
    round INTEGER,
    attempt INTEGER
) STRICT;
CREATE INDEX outbox_free ON outbox (due_ms) WHERE owner IS NULL;
CREATE INDEX outbox_leased ON outbox (lease_until_ms) WHERE owner IS NOT NULL;
CREATE INDEX outbox_by_event ON outbox (event_seq);

CREATE TABLE state (
    stage TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB,                    -- NULL: removed; the version keeps growing
    version INTEGER NOT NULL,
    removed_ms INTEGER,             -- when the value was removed; NULL: there is one
    PRIMARY KEY (stage, key)
) STRICT, WITHOUT ROWID;

-- Retention deletes removed keys.
CREATE INDEX state_removed ON state (removed_ms) WHERE removed_ms IS NOT NULL;

CREATE TABLE plugin_loads (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stage TEXT NOT NULL,
    digest TEXT NOT NULL,
    version TEXT NOT NULL,
    host TEXT NOT NULL,
    loaded_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX plugin_loads_by_stage ON plugin_loads (stage);

-- The state that operators set for a stage; a stage without a row runs.
CREATE TABLE stage_controls (
    stage TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('running', 'paused', 'draining')),
    reason TEXT,
    since_ms INTEGER NOT NULL,
    held_from_ms INTEGER           -- when the stage last stopped running; kept after a resume, which extends expiry by the pause
) STRICT, WITHOUT ROWID;

-- Chains of events that are large or were stopped. A chain without a row is small and runs.
CREATE TABLE chains (
    correlation_id TEXT PRIMARY KEY,
    events INTEGER NOT NULL,       -- emitted by stages on all hosts, since it began or was last resumed
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL,
    stopped_ms INTEGER,            -- when an operator stopped it; NULL: it runs
    reason TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX chains_by_change ON chains (changed_ms);
CREATE INDEX chains_stopped ON chains (stopped_ms) WHERE stopped_ms IS NOT NULL;

-- Which bindings of a stage's queue the host uses. An unused binding is kept until the host runs the stage without it.
CREATE TABLE bindings (
    stage TEXT NOT NULL,
    pattern TEXT NOT NULL,
    host TEXT NOT NULL,
    seen_ms INTEGER NOT NULL,
    PRIMARY KEY (stage, pattern, host)
) STRICT, WITHOUT ROWID;

-- The host and its settings. Rows of earlier runs are deleted.
CREATE TABLE hosts (
    host TEXT PRIMARY KEY,
    seen_ms INTEGER NOT NULL,
    settings TEXT NOT NULL         -- JSON: key to value or digest
) STRICT, WITHOUT ROWID;

-- What the host signs its messages with, so that no other program's message is taken for its own. The one with the highest number signs.
CREATE TABLE message_keys (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,       -- named in each message
    secret BLOB NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;

-- The namespace that the file belongs to: one row.
CREATE TABLE namespace (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    name TEXT NOT NULL
) STRICT;
