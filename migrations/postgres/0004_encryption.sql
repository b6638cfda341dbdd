-- Encryption of what is stored: docs/encryption.md.

-- What the values of a subject are sealed with: <id of the key that wraps it>:<wrapped key in Base64>; NULL: they are not sealed, or were erased.
ALTER TABLE subjects ADD COLUMN data_key TEXT COLLATE "C";

-- What values without a subject are sealed with, wrapped in the same way. The one with the highest number seals.
CREATE TABLE shared_keys (
    number BIGINT PRIMARY KEY,
    wrapped TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL
);
