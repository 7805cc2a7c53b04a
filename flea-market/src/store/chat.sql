-- One conversation for each pair of people; the names stand in alphabetical order.
CREATE TABLE conversations (
    id         BIGINT NOT NULL PRIMARY KEY,
    one        TEXT   NOT NULL,
    other      TEXT   NOT NULL,
    written_at BIGINT NOT NULL,
    UNIQUE (one, other)
);
CREATE INDEX conversations_by_other ON conversations (other);

CREATE TABLE messages (
    conversation BIGINT NOT NULL REFERENCES conversations (id),
    number       BIGINT NOT NULL,
    author       TEXT   NOT NULL,
    text         TEXT   NOT NULL,
    written_at   BIGINT NOT NULL,
    PRIMARY KEY (conversation, number)
);
