-- Bytes are base64: the one spelling that both databases read the same way.
CREATE TABLE pictures (
    id           BIGINT NOT NULL PRIMARY KEY,
    owner        TEXT   NOT NULL,
    content_type TEXT   NOT NULL,
    bytes        TEXT   NOT NULL,
    added_at     BIGINT NOT NULL
);
CREATE INDEX pictures_by_owner ON pictures (owner);
