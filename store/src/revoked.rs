//! What was taken back before it expired: single tokens, all tokens of a user, all tokens of a key.

use countersign_identity::UnixTime;
use countersign_ledger::Record;

use crate::ledger::append;
use crate::row::Row;
use crate::{Db, StoreError};

/// Rows that count at one time: every data plane holds all of them.
pub const REVOKED_MAX: u32 = 4_096;

/// What a row speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RevokedKind {
    /// One token, by `jti` or public id.
    Token,
    /// All tokens of a user that were issued before a moment.
    User,
    /// All tokens signed with a key, by `kid`.
    Key,
}

/// Something that counts no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// What the id names.
    pub kind: RevokedKind,
    /// `jti`, opaque user id, or `kid`.
    pub id: String,
    /// For users: tokens issued before this moment are refused. For the others, when it was revoked.
    pub issued_before: UnixTime,
    /// When the row may be forgotten.
    pub until: UnixTime,
    /// Who revoked it.
    pub by: String,
}

impl RevokedKind {
    /// As it is stored and printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::User => "user",
            Self::Key => "key",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Token, Self::User, Self::Key].into_iter().find(|kind| kind.as_str() == text)
    }
}

impl Db {
    /// Revokes, and records it. A row of the same kind and id only ever grows.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when [`REVOKED_MAX`] rows count already; those of [`Db::append`]; any of the
    /// database's.
    pub async fn revoke(
        &self,
        revoked: &Revoked,
        records: &[Record],
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "INSERT INTO revoked (trust_domain, kind, id, issued_before, until, revoked_by) \
             SELECT $1, $2, $3, $4, $5, $6 \
             WHERE (SELECT COUNT(*) FROM revoked WHERE trust_domain = $1 AND until > $7) < $8 \
             OR EXISTS (SELECT 1 FROM revoked WHERE trust_domain = $1 AND kind = $2 AND id = $3) \
             ON CONFLICT (trust_domain, kind, id) DO UPDATE SET \
             issued_before = CASE WHEN revoked.issued_before > excluded.issued_before \
             THEN revoked.issued_before ELSE excluded.issued_before END, \
             until = CASE WHEN revoked.until > excluded.until THEN revoked.until ELSE excluded.until END",
        )
        .bind(self.domain())
        .bind(revoked.kind.as_str())
        .bind(&revoked.id)
        .bind(revoked.issued_before.millis())
        .bind(revoked.until.millis())
        .bind(&revoked.by)
        .bind(now.millis())
        .bind(i64::from(REVOKED_MAX))
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::Conflict {
                what: "one more revocation, beyond the most that can be held,",
            });
        }
        append(&mut tx, self.trust_domain(), records, now).await?;
        Ok(tx.commit().await?)
    }

    /// What counts no longer at `now`, by kind and id, [`REVOKED_MAX`] at most.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn revocations(&self, now: UnixTime) -> Result<Vec<Revoked>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM revoked WHERE trust_domain = $1 AND until > $2 ORDER BY kind, id LIMIT $3",
        )
        .bind(self.domain())
        .bind(now.millis())
        .bind(i64::from(REVOKED_MAX))
        .fetch_all(self.reader())
        .await?;
        rows.iter().map(|row| revoked(&Row("revoked", row))).collect()
    }

    /// Forgets rows of which nothing can be alive any more.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn forget_revocations(&self, now: UnixTime) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query("DELETE FROM revoked WHERE trust_domain = $1 AND until <= $2")
            .bind(self.domain())
            .bind(now.millis())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }
}

fn revoked(row: &Row<'_>) -> Result<Revoked, StoreError> {
    let kind = row.text("kind")?;
    Ok(Revoked {
        kind: RevokedKind::parse(&kind).ok_or(StoreError::Corrupt { table: "revoked", column: "kind" })?,
        id: row.text("id")?,
        issued_before: row.time("issued_before")?,
        until: row.time("until")?,
        by: row.text("revoked_by")?,
    })
}
