-- One dialect for SQLite and PostgreSQL: TEXT and BIGINT only. Moments are milliseconds since 1970, bytes are
-- hex or base64, truth is an absent or present moment. The trust domain is part of every key.

CREATE TABLE meta (
    trust_domain      TEXT   NOT NULL PRIMARY KEY,
    epoch             TEXT   NOT NULL,
    canary            TEXT   NOT NULL,
    snapshot_sequence BIGINT NOT NULL,
    crl_number        BIGINT NOT NULL,
    policy_generation BIGINT NOT NULL,
    policy_digest     TEXT   NOT NULL,
    founded_at        BIGINT NOT NULL
);

CREATE TABLE sealed_keys (
    trust_domain TEXT   NOT NULL,
    purpose      TEXT   NOT NULL,
    version      BIGINT NOT NULL,
    sealed       TEXT   NOT NULL,
    public       TEXT,
    certificate  TEXT,
    created_at   BIGINT NOT NULL,
    retired_at   BIGINT,
    PRIMARY KEY (trust_domain, purpose, version)
);

CREATE TABLE certificates (
    trust_domain TEXT   NOT NULL,
    serial       TEXT   NOT NULL,
    spiffe_id    TEXT,
    profile      TEXT   NOT NULL,
    issuer       TEXT   NOT NULL,
    thumbprint   TEXT   NOT NULL,
    key          TEXT   NOT NULL,
    der          TEXT   NOT NULL,
    requested_by TEXT   NOT NULL,
    issued_at    BIGINT NOT NULL,
    not_before   BIGINT NOT NULL,
    not_after    BIGINT NOT NULL,
    revoked_at   BIGINT,
    revoked_by   TEXT,
    reason       TEXT,
    PRIMARY KEY (trust_domain, serial)
);
CREATE INDEX certificates_by_identity ON certificates (trust_domain, spiffe_id, issued_at);
CREATE INDEX certificates_by_end ON certificates (trust_domain, not_after);
CREATE INDEX certificates_by_issue ON certificates (trust_domain, issued_at, serial);

CREATE TABLE crls (
    trust_domain TEXT   NOT NULL,
    issuer       TEXT   NOT NULL,
    number       BIGINT NOT NULL,
    der          TEXT   NOT NULL,
    this_update  BIGINT NOT NULL,
    next_update  BIGINT NOT NULL,
    entries      BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, issuer)
);

CREATE TABLE services (
    trust_domain TEXT   NOT NULL,
    id           TEXT   NOT NULL,
    name         TEXT   NOT NULL,
    spiffe_id    TEXT   NOT NULL,
    address      TEXT   NOT NULL,
    accepts      TEXT   NOT NULL,
    sends        TEXT   NOT NULL,
    launch_by    TEXT   NOT NULL,
    nodes        TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, id),
    UNIQUE (trust_domain, name),
    UNIQUE (trust_domain, spiffe_id)
);

CREATE TABLE nodes (
    trust_domain TEXT   NOT NULL,
    id           TEXT   NOT NULL,
    spiffe_id    TEXT   NOT NULL,
    joined_at    BIGINT NOT NULL,
    seen_at      BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, id),
    UNIQUE (trust_domain, spiffe_id)
);

CREATE TABLE join_tokens (
    trust_domain TEXT   NOT NULL,
    hash         TEXT   NOT NULL,
    id           TEXT   NOT NULL,
    spiffe_id    TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    used_at      BIGINT,
    used_by      TEXT,
    answer       TEXT,
    PRIMARY KEY (trust_domain, hash)
);

CREATE TABLE users (
    trust_domain TEXT   NOT NULL,
    id           TEXT   NOT NULL,
    name         TEXT   NOT NULL,
    roles        TEXT   NOT NULL,
    password     TEXT   NOT NULL,
    attempts     BIGINT NOT NULL,
    attempted_at BIGINT,
    created_at   BIGINT NOT NULL,
    changed_at   BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, id),
    UNIQUE (trust_domain, name)
);

CREATE TABLE policies (
    trust_domain TEXT   NOT NULL,
    name         TEXT   NOT NULL,
    body         TEXT   NOT NULL,
    changed_by   TEXT   NOT NULL,
    changed_at   BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, name)
);

CREATE TABLE token_keys (
    trust_domain TEXT   NOT NULL,
    owner        TEXT   NOT NULL,
    kid          TEXT   NOT NULL,
    jwk          TEXT   NOT NULL,
    published_at BIGINT NOT NULL,
    -- Null while it counts. A withdrawn key stays, so that it can never be published again.
    withdrawn_at BIGINT,
    PRIMARY KEY (trust_domain, kid)
);
CREATE INDEX token_keys_by_owner ON token_keys (trust_domain, owner, published_at);

-- The ledger is only ever appended to.
CREATE TABLE ledger_state (
    trust_domain TEXT   NOT NULL PRIMARY KEY,
    size         BIGINT NOT NULL,
    hash         TEXT   NOT NULL
);
CREATE TABLE ledger (
    trust_domain TEXT   NOT NULL,
    idx          BIGINT NOT NULL,
    writer       TEXT   NOT NULL,
    boot         TEXT   NOT NULL,
    sequence     BIGINT NOT NULL,
    event        TEXT   NOT NULL,
    chain        TEXT   NOT NULL,
    log          TEXT   NOT NULL,
    stored_at    BIGINT NOT NULL,
    kind         TEXT   NOT NULL,
    decision     TEXT,
    verdict      TEXT,
    PRIMARY KEY (trust_domain, idx),
    UNIQUE (trust_domain, writer, boot, sequence)
);
CREATE INDEX ledger_by_decision ON ledger (trust_domain, decision);
CREATE INDEX ledger_by_kind ON ledger (trust_domain, kind, idx);
CREATE INDEX ledger_by_verdict ON ledger (trust_domain, verdict, idx);
CREATE TABLE ledger_heads (
    trust_domain TEXT   NOT NULL,
    size         BIGINT NOT NULL,
    payload      TEXT   NOT NULL,
    kid          TEXT   NOT NULL,
    signature    TEXT   NOT NULL,
    signed_at    BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, size)
);

CREATE TABLE edges (
    trust_domain TEXT   NOT NULL,
    source       TEXT   NOT NULL,
    target       TEXT   NOT NULL,
    mode         TEXT   NOT NULL,
    user_proof   TEXT   NOT NULL,
    policy       TEXT   NOT NULL,
    requests     BIGINT NOT NULL,
    denied       BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, source, target, mode, user_proof)
);
CREATE TABLE edge_latency (
    trust_domain TEXT   NOT NULL,
    source       TEXT   NOT NULL,
    target       TEXT   NOT NULL,
    mode         TEXT   NOT NULL,
    user_proof   TEXT   NOT NULL,
    bucket       BIGINT NOT NULL,
    calls        BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, source, target, mode, user_proof, bucket)
);
