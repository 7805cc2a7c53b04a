-- Whose database this is: a service refuses to open another one's.
CREATE TABLE owner (service TEXT NOT NULL PRIMARY KEY);

-- Whom a name belongs to. The first verified account to use a name keeps it for good, so that a
-- later account of the same name does not inherit anything.
CREATE TABLE people (
    handle  TEXT NOT NULL PRIMARY KEY,
    account TEXT NOT NULL UNIQUE
);

-- Numbers that are never given twice, not even after a deletion.
CREATE TABLE counters (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
