//! Sealed private keys and secrets, each with what is public about it.
//!
//! A version of a key is written once and never changed; the seal binds trust domain, purpose, row and version.

use countersign_identity::UnixTime;
use countersign_keys::Sealed;
use sqlx::AnyConnection;

use crate::row::{Row, base64};
use crate::{Db, ROWS_MAX, StoreError};

/// One version of a key, to be stored.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// What it is for: `issuing-ca`, `access-token`, `pepper`, …
    pub purpose: String,
    /// From 1.
    pub version: u32,
    /// The secret, sealed.
    pub sealed: Sealed,
    /// The public key, a JWK; `None` for secrets without one.
    pub public: Option<String>,
    /// The certificate of a CA, DER.
    pub certificate: Option<Vec<u8>>,
}

/// One version of a key, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedKey {
    /// What it is for.
    pub purpose: String,
    /// From 1; the greatest one that is not retired signs.
    pub version: u32,
    /// The secret, sealed.
    pub sealed: Sealed,
    /// The public key, a JWK.
    pub public: Option<String>,
    /// The certificate of a CA, DER.
    pub certificate: Option<Vec<u8>>,
    /// When it was stored.
    pub created_at: UnixTime,
    /// Since when it only verifies.
    pub retired_at: Option<UnixTime>,
}

impl SealedKey {
    /// The row id that the seal binds: `purpose/version`.
    #[must_use]
    pub fn row_id(purpose: &str, version: u32) -> String {
        format!("{purpose}/{version}")
    }
}

impl Db {
    /// All versions of all keys, oldest first within a purpose.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn keys(&self) -> Result<Vec<SealedKey>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM sealed_keys WHERE trust_domain = $1 ORDER BY purpose, version LIMIT $2",
        )
        .bind(self.domain())
        .bind(i64::from(ROWS_MAX))
        .fetch_all(self.reader())
        .await?;
        rows.iter().map(|row| key(&Row("sealed_keys", row))).collect()
    }

    /// Stores the next version of a key.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when this version is there already; any of the database's.
    pub async fn add_key(&self, key: &NewKey, now: UnixTime) -> Result<(), StoreError> {
        let mut connection = self.writer().acquire().await?;
        insert_key(&mut connection, self.domain(), key, now).await
    }

    /// Stores keys of purposes that were not there before: all of them, or none.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when one of them is there already; any of the database's.
    pub async fn add_keys(&self, keys: &[NewKey], now: UnixTime) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for key in keys {
            insert_key(&mut tx, self.domain(), key, now).await?;
        }
        Ok(tx.commit().await?)
    }

    /// From now on this version only verifies.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such version or it is retired already; any of the database's.
    pub async fn retire_key(&self, purpose: &str, version: u32, now: UnixTime) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE sealed_keys SET retired_at = $4 \
             WHERE trust_domain = $1 AND purpose = $2 AND version = $3 AND retired_at IS NULL",
        )
        .bind(self.domain())
        .bind(purpose)
        .bind(i64::from(version))
        .bind(now.millis())
        .execute(self.writer())
        .await?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Missing { what: "live key" }) }
    }
}

pub(crate) async fn insert_key(
    connection: &mut AnyConnection,
    domain: &str,
    key: &NewKey,
    now: UnixTime,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO sealed_keys (trust_domain, purpose, version, sealed, public, certificate, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(domain)
    .bind(&key.purpose)
    .bind(i64::from(key.version))
    .bind(base64(key.sealed.as_bytes()))
    .bind(key.public.as_deref())
    .bind(key.certificate.as_deref().map(base64))
    .bind(now.millis())
    .execute(connection)
    .await
    .map_err(StoreError::or_conflict("this version of the key"))?;
    Ok(())
}

fn key(row: &Row<'_>) -> Result<SealedKey, StoreError> {
    Ok(SealedKey {
        purpose: row.text("purpose")?,
        version: u32::try_from(row.number("version")?).map_err(|_| row.corrupt("version"))?,
        sealed: Sealed::from_bytes(row.bytes("sealed")?),
        public: row.text_or_none("public")?,
        certificate: row.bytes_or_none("certificate")?,
        created_at: row.time("created_at")?,
        retired_at: row.time_or_none("retired_at")?,
    })
}
