-- What stages were given and decided, for time travel. Rows are added when a delivery is settled and never change; they go with their
-- delivery. The key is how they are read: a stage's deliveries in the order in which they were settled.
CREATE TABLE recordings (
    stage TEXT COLLATE "C" NOT NULL,
    settled_ms BIGINT NOT NULL,    -- as in `deliveries`
    event_seq BIGINT NOT NULL,
    body TEXT NOT NULL,            -- JSON
    PRIMARY KEY (stage, settled_ms, event_seq)
);
