CREATE TABLE profiles (
    handle       TEXT   NOT NULL PRIMARY KEY,
    display_name TEXT   NOT NULL,
    town         TEXT   NOT NULL,
    about        TEXT   NOT NULL,
    rating       BIGINT,
    deals        BIGINT NOT NULL,
    joined_at    BIGINT NOT NULL
);
