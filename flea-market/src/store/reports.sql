CREATE TABLE reports (
    id          BIGINT NOT NULL PRIMARY KEY,
    ad          BIGINT NOT NULL,
    ad_title    TEXT,
    reporter    TEXT   NOT NULL,
    reason      TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    closed_at   BIGINT,
    closed_by   TEXT,
    outcome     TEXT,
    UNIQUE (ad, reporter)
);
