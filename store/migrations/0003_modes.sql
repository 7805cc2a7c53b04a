-- How services prove themselves to each other, and what was taken back before it expired.

ALTER TABLE services ADD COLUMN user_context TEXT NOT NULL DEFAULT '"same"';
ALTER TABLE services ADD COLUMN wimse TEXT NOT NULL DEFAULT '"token"';
-- A floor that was lowered: until when, and the modes that come back then.
ALTER TABLE services ADD COLUMN lowered_until BIGINT;
ALTER TABLE services ADD COLUMN lowered_from TEXT;

CREATE TABLE revoked (
    trust_domain  TEXT   NOT NULL,
    -- token, user, key
    kind          TEXT   NOT NULL,
    id            TEXT   NOT NULL,
    -- Users alone: tokens issued from then on count.
    issued_before BIGINT NOT NULL,
    -- When nothing that the row speaks of can be alive any more.
    until         BIGINT NOT NULL,
    revoked_by    TEXT   NOT NULL,
    PRIMARY KEY (trust_domain, kind, id)
);
CREATE INDEX revoked_by_end ON revoked (trust_domain, until);
