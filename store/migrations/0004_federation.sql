-- Bundles of other trust domains, as they were handed in.

CREATE TABLE federation (
    trust_domain TEXT   NOT NULL,
    peer         TEXT   NOT NULL,
    -- spiffe_sequence; 0 where the document has none.
    sequence     BIGINT NOT NULL,
    document     TEXT   NOT NULL,
    stored_at    BIGINT NOT NULL,
    stored_by    TEXT   NOT NULL,
    PRIMARY KEY (trust_domain, peer)
);
