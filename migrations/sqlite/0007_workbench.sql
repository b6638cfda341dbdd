-- What a dead letter died of, and the group of all that died of it at this stage: computed when the letter is written. NULL: written
-- before there was such a column, or by an older host; filled in when somebody asks for groups.
ALTER TABLE dead_letters ADD COLUMN cause TEXT;
ALTER TABLE dead_letters ADD COLUMN group_id TEXT;
-- When it was replayed or discarded, and the event that an edited replay put in its place.
ALTER TABLE dead_letters ADD COLUMN settled_ms INTEGER;
ALTER TABLE dead_letters ADD COLUMN replayed_source TEXT;
ALTER TABLE dead_letters ADD COLUMN replayed_id TEXT;
-- Holds all that a list of groups counts: the letters themselves are not read.
CREATE INDEX dead_letters_by_group ON dead_letters (group_id, status, id, digest, died_ms);
CREATE INDEX dead_letters_without_group ON dead_letters (id) WHERE group_id IS NULL;
-- The letters of an order; retention looks for them by their event, too.
CREATE INDEX dead_letters_by_event ON dead_letters (event_seq);
