CREATE TABLE searches (
    id              BIGINT NOT NULL PRIMARY KEY,
    owner           TEXT   NOT NULL,
    words           TEXT,
    kind            TEXT,
    price_cents_max BIGINT,
    latitude        BIGINT,
    longitude       BIGINT,
    within_km       BIGINT,
    created_at      BIGINT NOT NULL
);
CREATE INDEX searches_by_owner ON searches (owner);

CREATE TABLE notifications (
    owner      TEXT   NOT NULL,
    number     BIGINT NOT NULL,
    search     BIGINT NOT NULL,
    ad         BIGINT NOT NULL,
    title      TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (owner, number),
    UNIQUE (search, ad)
);
