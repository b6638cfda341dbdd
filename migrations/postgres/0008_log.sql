-- When an event entered this log (`time_ms` is its producer's word), and when a scheduled one falls due. Empty in older rows.
ALTER TABLE events ADD COLUMN logged_ms BIGINT;
ALTER TABLE events ADD COLUMN due_ms BIGINT;
-- The `Idempotency-Key` that an order was sent with names one body for ever, as its id does.
ALTER TABLE orders ADD COLUMN idempotency_key TEXT COLLATE "C";
CREATE UNIQUE INDEX orders_by_idempotency_key ON orders (idempotency_key) WHERE idempotency_key IS NOT NULL;
