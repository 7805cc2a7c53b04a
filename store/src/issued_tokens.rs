//! Which signed tokens of a workload may be alive, by their public ids alone: whoever takes the workload's identity
//! back takes these back with it.

use countersign_identity::{SpiffeId, UnixTime};
use countersign_ledger::Record;

use crate::ledger::append;
use crate::row::Row;
use crate::{Db, ROWS_MAX, StoreError};

/// A token that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedToken {
    /// Its `jti`, or what its kind calls it.
    pub id: String,
    /// Whom it speaks for.
    pub owner: SpiffeId,
    /// Until when.
    pub expires_at: UnixTime,
}

impl Db {
    /// Remembers a token and records it.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the id is there already; those of [`Db::append`]; any of the database's.
    pub async fn add_issued_token(
        &self,
        token: &IssuedToken,
        records: &[Record],
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO issued_tokens (trust_domain, id, owner, expires_at) VALUES ($1, $2, $3, $4)",
        )
        .bind(self.domain())
        .bind(&token.id)
        .bind(token.owner.as_str())
        .bind(token.expires_at.millis())
        .execute(&mut *tx)
        .await
        .map_err(StoreError::or_conflict("a token with this id"))?;
        append(&mut tx, self.trust_domain(), records, now).await?;
        Ok(tx.commit().await?)
    }

    /// Tokens of a workload that have not expired, those that live longest first, [`ROWS_MAX`] at most.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn issued_tokens_of(
        &self,
        owner: &SpiffeId,
        now: UnixTime,
    ) -> Result<Vec<IssuedToken>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, owner, expires_at FROM issued_tokens \
             WHERE trust_domain = $1 AND owner = $2 AND expires_at > $3 ORDER BY expires_at DESC, id LIMIT $4",
        )
        .bind(self.domain())
        .bind(owner.as_str())
        .bind(now.millis())
        .bind(i64::from(ROWS_MAX))
        .fetch_all(self.reader())
        .await?;
        let issued = |row| {
            let row = Row("issued_tokens", row);
            Ok(IssuedToken {
                id: row.text("id")?,
                owner: row.parsed("owner")?,
                expires_at: row.time("expires_at")?,
            })
        };
        rows.iter().map(issued).collect()
    }

    /// Forgets tokens that have expired.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn tidy_issued_tokens(&self, now: UnixTime) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM issued_tokens WHERE trust_domain = $1 AND expires_at <= $2")
            .bind(self.domain())
            .bind(now.millis())
            .execute(self.writer())
            .await?;
        Ok(done.rows_affected())
    }
}
