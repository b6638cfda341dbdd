-- Retention looks for what is oldest. A pruned order keeps its row, without body and customer: its id is never another order's.
CREATE INDEX orders_by_age ON orders (updated_ms) WHERE status <> 'pruned';
CREATE INDEX events_without_order_by_age ON events (time_ms) WHERE order_id IS NULL;
