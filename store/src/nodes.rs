//! Agents, and the join tokens that let them in.
//!
//! A join token is kept as a hash, expires, and is consumed by one conditional UPDATE in the transaction that
//! stores what it bought. An agent whose answer was lost may ask again with the same key for ten minutes and
//! gets the same answer (DESIGN section 5 point 7).

use std::time::Duration;

use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::{constant_time_eq, sha256_hex};
use countersign_ledger::Record;
use sqlx::AnyConnection;

use crate::certificates::{Certificate, insert_certificate};
use crate::ledger::append;
use crate::row::{Row, base64};
use crate::{Db, ROWS_MAX, StoreError};

/// How long the same token with the same key gets the same answer.
pub const JOIN_RETRY: Duration = Duration::from_secs(600);

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Immutable, opaque, never reused.
    pub id: String,
    /// Its identity.
    pub spiffe_id: SpiffeId,
    /// When it joined last.
    pub joined_at: UnixTime,
    /// When it last asked or reported anything.
    pub seen_at: UnixTime,
}

/// A join token without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Public name of it, for the ledger.
    pub id: String,
    /// The identity that it buys.
    pub spiffe_id: SpiffeId,
    /// When it was made.
    pub created_at: UnixTime,
    /// Until when it counts.
    pub expires_at: UnixTime,
    /// When it was used, and the thumbprint of the key that it was used with.
    pub used: Option<(UnixTime, String)>,
}

/// What an agent joins with, prepared before the token is consumed.
#[derive(Clone, Debug)]
pub struct Joining {
    /// Thumbprint of the agent's key (RFC 7638).
    pub key: String,
    /// Opaque, random; used only if the node is new.
    pub node_id: String,
    /// The agent's certificate.
    pub certificate: Certificate,
    /// The bytes that the agent is answered with.
    pub answer: Vec<u8>,
    /// The events that tell of it.
    pub records: Vec<Record>,
}

/// That an agent may join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// Now: the token is spent, certificate and events are durable.
    Now,
    /// Within the last ten minutes, with the same key: this was the answer. Nothing was stored.
    Again {
        /// The bytes.
        answer: Vec<u8>,
    },
}

/// Why an agent may not join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Never made here.
    #[error("the join token is unknown: make a new one")]
    Unknown,
    /// Too late.
    #[error("the join token has expired: make a new one")]
    Expired,
    /// Used with another key, or more than ten minutes ago.
    #[error("the join token has been used: see who joined, then make a new one")]
    Spent,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Db {
    /// Stores a join token by the hash of its secret, and records it.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it is there already; those of [`Db::append`]; any of the database's.
    pub async fn add_join_token(
        &self,
        secret: &[u8],
        token: &JoinToken,
        records: &[Record],
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO join_tokens (trust_domain, hash, id, spiffe_id, created_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(self.domain())
        .bind(sha256_hex(secret))
        .bind(&token.id)
        .bind(token.spiffe_id.as_str())
        .bind(token.created_at.millis())
        .bind(token.expires_at.millis())
        .execute(&mut *tx)
        .await
        .map_err(StoreError::or_conflict("this join token"))?;
        append(&mut tx, self.trust_domain(), records, now).await?;
        Ok(tx.commit().await?)
    }

    /// Looks at a join token without consuming it: what it would buy. `key` is the thumbprint of the key that
    /// is offered with it.
    ///
    /// # Errors
    /// [`JoinError`], as [`Db::join`] would say.
    pub async fn join_token(&self, secret: &[u8], key: &str, now: UnixTime) -> Result<JoinToken, JoinError> {
        let mut connection = self.reader().acquire().await.map_err(StoreError::from)?;
        let (token, _) = read_token(&mut connection, self.domain(), secret).await?;
        judge(&token, key, now)?;
        Ok(token)
    }

    /// Consumes a join token and stores what it buys: all of it, or nothing.
    ///
    /// # Errors
    /// [`JoinError`].
    pub async fn join(&self, secret: &[u8], joining: &Joining, now: UnixTime) -> Result<Joined, JoinError> {
        let mut tx = self.begin().await?;
        let spent = sqlx::query(
            "UPDATE join_tokens SET used_at = $3, used_by = $4, answer = $5 \
             WHERE trust_domain = $1 AND hash = $2 AND used_at IS NULL AND expires_at > $3 RETURNING spiffe_id",
        )
        .bind(self.domain())
        .bind(sha256_hex(secret))
        .bind(now.millis())
        .bind(&joining.key)
        .bind(base64(&joining.answer))
        .fetch_optional(&mut *tx)
        .await
        .map_err(StoreError::from)?;
        let Some(row) = spent else {
            let (token, answer) = read_token(&mut tx, self.domain(), secret).await?;
            judge(&token, &joining.key, now)?;
            // Neither free nor refused: it was used just now, by this key.
            return Ok(Joined::Again { answer: answer.ok_or(JoinError::Spent)? });
        };
        let spiffe_id: SpiffeId = Row("join_tokens", &row).parsed("spiffe_id")?;
        insert_certificate(&mut tx, self.domain(), &joining.certificate).await?;
        upsert_node(&mut tx, self.domain(), &joining.node_id, &spiffe_id, now).await?;
        append(&mut tx, self.trust_domain(), &joining.records, now).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(Joined::Now)
    }

    /// All agents by identity, [`ROWS_MAX`] at most.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        let rows = sqlx::query("SELECT * FROM nodes WHERE trust_domain = $1 ORDER BY spiffe_id LIMIT $2")
            .bind(self.domain())
            .bind(i64::from(ROWS_MAX))
            .fetch_all(self.reader())
            .await?;
        rows.iter().map(|row| node(&Row("nodes", row))).collect()
    }

    /// Notes that an agent was heard of; an older moment changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Missing`] for an agent that never joined; any of the database's.
    pub async fn node_seen(&self, spiffe_id: &SpiffeId, now: UnixTime) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE nodes SET seen_at = CASE WHEN seen_at < $3 THEN $3 ELSE seen_at END \
             WHERE trust_domain = $1 AND spiffe_id = $2",
        )
        .bind(self.domain())
        .bind(spiffe_id.as_str())
        .bind(now.millis())
        .execute(self.writer())
        .await?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Missing { what: "node" }) }
    }

    /// Forgets join tokens that can neither be used nor answered again.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn tidy_join_tokens(&self, now: UnixTime) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "DELETE FROM join_tokens WHERE trust_domain = $1 AND expires_at <= $2 \
             AND (used_at IS NULL OR used_at <= $2)",
        )
        .bind(self.domain())
        .bind(now.saturating_sub(JOIN_RETRY).millis())
        .execute(self.writer())
        .await?;
        Ok(done.rows_affected())
    }
}

async fn read_token(
    connection: &mut AnyConnection,
    domain: &str,
    secret: &[u8],
) -> Result<(JoinToken, Option<Vec<u8>>), JoinError> {
    let row = sqlx::query("SELECT * FROM join_tokens WHERE trust_domain = $1 AND hash = $2")
        .bind(domain)
        .bind(sha256_hex(secret))
        .fetch_optional(connection)
        .await
        .map_err(StoreError::from)?
        .ok_or(JoinError::Unknown)?;
    let row = Row("join_tokens", &row);
    let used = match row.time_or_none("used_at")? {
        Some(at) => Some((at, row.text("used_by")?)),
        None => None,
    };
    let token = JoinToken {
        id: row.text("id")?,
        spiffe_id: row.parsed("spiffe_id")?,
        created_at: row.time("created_at")?,
        expires_at: row.time("expires_at")?,
        used,
    };
    Ok((token, row.bytes_or_none("answer")?))
}

fn judge(token: &JoinToken, key: &str, now: UnixTime) -> Result<(), JoinError> {
    match &token.used {
        None if token.expires_at > now => Ok(()),
        None => Err(JoinError::Expired),
        Some((at, by))
            if constant_time_eq(by.as_bytes(), key.as_bytes()) && at.saturating_add(JOIN_RETRY) > now =>
        {
            Ok(())
        }
        Some(_) => Err(JoinError::Spent),
    }
}

async fn upsert_node(
    tx: &mut AnyConnection,
    domain: &str,
    id: &str,
    spiffe_id: &SpiffeId,
    now: UnixTime,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO nodes (trust_domain, id, spiffe_id, joined_at, seen_at) VALUES ($1, $2, $3, $4, $4) \
         ON CONFLICT (trust_domain, spiffe_id) DO UPDATE SET joined_at = excluded.joined_at, \
         seen_at = excluded.seen_at",
    )
    .bind(domain)
    .bind(id)
    .bind(spiffe_id.as_str())
    .bind(now.millis())
    .execute(tx)
    .await
    .map_err(StoreError::or_conflict("a node with this id"))?;
    Ok(())
}

fn node(row: &Row<'_>) -> Result<Node, StoreError> {
    Ok(Node {
        id: row.text("id")?,
        spiffe_id: row.parsed("spiffe_id")?,
        joined_at: row.time("joined_at")?,
        seen_at: row.time("seen_at")?,
    })
}
