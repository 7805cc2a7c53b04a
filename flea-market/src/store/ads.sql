-- Places are in millionths of a degree, money in cents, moments in milliseconds since 1970.
CREATE TABLE ads (
    id          BIGINT NOT NULL PRIMARY KEY,
    seller      TEXT   NOT NULL,
    kind        TEXT   NOT NULL CHECK (kind IN ('sell', 'rent', 'swap')),
    title       TEXT   NOT NULL,
    description TEXT   NOT NULL,
    category    TEXT   NOT NULL,
    price_cents BIGINT,
    swap_for    TEXT,
    town        TEXT   NOT NULL,
    latitude    BIGINT NOT NULL,
    longitude   BIGINT NOT NULL,
    picture     BIGINT,
    created_at  BIGINT NOT NULL,
    taken_at    BIGINT,
    taken_by    TEXT,
    taken_note  TEXT
);
CREATE INDEX ads_open_by_place ON ads (latitude, longitude) WHERE taken_at IS NULL;
CREATE INDEX ads_by_seller ON ads (seller);
