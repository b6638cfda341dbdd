-- Which host ran a delivery, and each of its failed attempts: docs/cluster.md.

-- The host that handled it last; NULL: none did, or an older version of the program.
ALTER TABLE deliveries ADD COLUMN host TEXT;

-- NULL: no host ran it, or an older version of the program.
ALTER TABLE attempts ADD COLUMN host TEXT;
