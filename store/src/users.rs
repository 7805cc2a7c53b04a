//! Accounts and their password hashes. Only here are the hashes at rest (K25); the pepper is not here (K28).

use std::fmt;

use countersign_identity::UnixTime;
use countersign_ledger::Record;

use crate::ledger::append;
use crate::row::{Row, json};
use crate::{Db, ROWS_MAX, StoreError};

/// An account.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Immutable, opaque, never reused: `u_…`.
    pub id: String,
    /// Canonical (PW-2): `countersign_accounts` makes it so.
    pub name: String,
    /// Roles.
    pub roles: Vec<String>,
    /// PHC string; never printed by `Debug`.
    pub password: String,
    /// Consecutive attempts that did not succeed, those in progress included.
    pub attempts: u64,
    /// When it was made.
    pub created_at: UnixTime,
    /// When the password was set.
    pub changed_at: UnixTime,
}

impl fmt::Debug for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("User")
            .field("id", &self.id)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

impl Db {
    /// Stores an account and records it. `attempts` and `changed_at` begin anew.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken; those of [`Db::append`]; any of the database's.
    pub async fn add_user(&self, user: &User, records: &[Record], now: UnixTime) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO users (trust_domain, id, name, roles, password, attempts, created_at, changed_at) \
             VALUES ($1, $2, $3, $4, $5, 0, $6, $6)",
        )
        .bind(self.domain())
        .bind(&user.id)
        .bind(&user.name)
        .bind(json(&user.roles)?)
        .bind(&user.password)
        .bind(now.millis())
        .execute(&mut *tx)
        .await
        .map_err(StoreError::or_conflict("a user with this name"))?;
        append(&mut tx, self.trust_domain(), records, now).await?;
        Ok(tx.commit().await?)
    }

    /// Replaces the password and unlocks the account, and records it.
    ///
    /// # Errors
    /// [`StoreError::Missing`]; those of [`Db::append`]; any of the database's.
    pub async fn set_password(
        &self,
        id: &str,
        password: &str,
        records: &[Record],
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE users SET password = $3, attempts = 0, changed_at = $4 WHERE trust_domain = $1 AND id = $2",
        )
        .bind(self.domain())
        .bind(id)
        .bind(password)
        .bind(now.millis())
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Missing { what: "user" });
        }
        append(&mut tx, self.trust_domain(), records, now).await?;
        Ok(tx.commit().await?)
    }

    /// Puts a newer hash of the same password in the place of `before`. Whoever set another password meanwhile is
    /// not overruled: then nothing changes.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn renew_password_hash(&self, id: &str, before: &str, renewed: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE users SET password = $4 WHERE trust_domain = $1 AND id = $2 AND password = $3")
            .bind(self.domain())
            .bind(id)
            .bind(before)
            .bind(renewed)
            .execute(self.writer())
            .await?;
        Ok(())
    }

    /// The account of a canonical name.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn user_by_name(&self, name: &str) -> Result<Option<User>, StoreError> {
        let row = sqlx::query("SELECT * FROM users WHERE trust_domain = $1 AND name = $2")
            .bind(self.domain())
            .bind(name)
            .fetch_optional(self.reader())
            .await?;
        row.as_ref().map(|row| user(&Row("users", row))).transpose()
    }

    /// The account of an id.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn user(&self, id: &str) -> Result<Option<User>, StoreError> {
        let row = sqlx::query("SELECT * FROM users WHERE trust_domain = $1 AND id = $2")
            .bind(self.domain())
            .bind(id)
            .fetch_optional(self.reader())
            .await?;
        row.as_ref().map(|row| user(&Row("users", row))).transpose()
    }

    /// Accounts by name, after the name given, `limit` and [`ROWS_MAX`] at most.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn users(&self, after: &str, limit: u32) -> Result<Vec<User>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM users WHERE trust_domain = $1 AND name > $2 ORDER BY name LIMIT $3")
                .bind(self.domain())
                .bind(after)
                .bind(i64::from(limit.min(ROWS_MAX)))
                .fetch_all(self.reader())
                .await?;
        rows.iter().map(|row| user(&Row("users", row))).collect()
    }

    /// How many accounts there are.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn user_count(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT COUNT(*) AS users FROM users WHERE trust_domain = $1")
            .bind(self.domain())
            .fetch_one(self.reader())
            .await?;
        Row("users", &row).number("users")
    }

    /// Counts an attempt *before* it is judged and returns how many there now are since the last success. A
    /// caller that judges only while the number is within its limit cannot be raced by parallel guesses (PW-2).
    ///
    /// # Errors
    /// [`StoreError::Missing`]; any of the database's.
    pub async fn count_attempt(&self, id: &str, now: UnixTime) -> Result<u64, StoreError> {
        let row = sqlx::query(
            "UPDATE users SET attempts = attempts + 1, attempted_at = $3 \
             WHERE trust_domain = $1 AND id = $2 RETURNING attempts",
        )
        .bind(self.domain())
        .bind(id)
        .bind(now.millis())
        .fetch_optional(self.writer())
        .await?;
        Row("users", &row.ok_or(StoreError::Missing { what: "user" })?).number("attempts")
    }

    /// The work of [`Db::count_attempt`] for a name that nobody has: one durable write that changes nothing, so that
    /// the wait for the disk does not tell who exists (PW-2).
    ///
    /// # Errors
    /// [`StoreError::NotFounded`]; any of the database's.
    pub async fn count_attempt_of_nobody(&self) -> Result<u64, StoreError> {
        let row = sqlx::query(
            "UPDATE meta SET founded_at = founded_at WHERE trust_domain = $1 RETURNING founded_at AS attempts",
        )
        .bind(self.domain())
        .fetch_optional(self.writer())
        .await?;
        row.ok_or(StoreError::NotFounded).map(|_| 0)
    }

    /// Forgets the attempts after one that succeeded.
    ///
    /// # Errors
    /// [`StoreError::Missing`]; any of the database's.
    pub async fn clear_attempts(&self, id: &str) -> Result<(), StoreError> {
        let done = sqlx::query("UPDATE users SET attempts = 0 WHERE trust_domain = $1 AND id = $2")
            .bind(self.domain())
            .bind(id)
            .execute(self.writer())
            .await?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Missing { what: "user" }) }
    }
}

fn user(row: &Row<'_>) -> Result<User, StoreError> {
    Ok(User {
        id: row.text("id")?,
        name: row.text("name")?,
        roles: row.json("roles")?,
        password: row.text("password")?,
        attempts: row.number("attempts")?,
        created_at: row.time("created_at")?,
        changed_at: row.time("changed_at")?,
    })
}
