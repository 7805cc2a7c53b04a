-- Tokens that are looked up instead of verified, and the keys that workloads register.

CREATE TABLE bearer_tokens (
    trust_domain TEXT   NOT NULL,
    -- Public part of the token.
    id           TEXT   NOT NULL,
    owner        TEXT   NOT NULL,
    issued_by    TEXT   NOT NULL,
    issued_at    BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    replaced_by  TEXT,
    revoked_at   BIGINT,
    PRIMARY KEY (trust_domain, id)
);
CREATE INDEX bearer_tokens_by_end ON bearer_tokens (trust_domain, expires_at);

-- A hash for each callee in the scope, under that callee's own key: one callee's hashes say nothing to another.
CREATE TABLE bearer_hashes (
    trust_domain TEXT   NOT NULL,
    callee       TEXT   NOT NULL,
    id           TEXT   NOT NULL,
    hash         TEXT   NOT NULL,
    PRIMARY KEY (trust_domain, callee, id)
);
CREATE INDEX bearer_hashes_by_token ON bearer_hashes (trust_domain, id);

-- Grows with every change of what callees must know in order to verify.
CREATE TABLE secrets (
    trust_domain TEXT   NOT NULL PRIMARY KEY,
    generation   BIGINT NOT NULL
);

-- Signed tokens that are alive, so that all tokens of a workload can be taken back.
CREATE TABLE issued_tokens (
    trust_domain TEXT   NOT NULL,
    id           TEXT   NOT NULL,
    owner        TEXT   NOT NULL,
    expires_at   BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, id)
);
CREATE INDEX issued_tokens_by_owner ON issued_tokens (trust_domain, owner, expires_at);
CREATE INDEX issued_tokens_by_end ON issued_tokens (trust_domain, expires_at);

CREATE TABLE workload_keys (
    trust_domain  TEXT   NOT NULL,
    kid           TEXT   NOT NULL,
    owner         TEXT   NOT NULL,
    -- signing, encryption
    purpose       TEXT   NOT NULL,
    jwk           TEXT   NOT NULL,
    registered_by TEXT   NOT NULL,
    registered_at BIGINT NOT NULL,
    -- Null while it counts. A withdrawn key stays, so that it can never be registered again.
    withdrawn_at  BIGINT,
    PRIMARY KEY (trust_domain, kid)
);
CREATE INDEX workload_keys_by_owner ON workload_keys (trust_domain, owner, registered_at);
