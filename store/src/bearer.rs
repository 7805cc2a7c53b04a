//! Opaque bearer tokens: whose they are, where they count, until when. The tokens themselves are never here; for
//! each callee in its scope there is a hash under a key of that callee.
//!
//! Every change grows one number per trust domain, by which callees tell how new what they hold is.

use countersign_identity::{SpiffeId, UnixTime};
use countersign_ledger::Record;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use crate::ledger::append;
use crate::row::{Row, base64};
use crate::{Db, ROWS_MAX, StoreError};

/// Tokens that count at one callee at one time: what it must hold in memory, and what fits into one message.
pub const BEARER_PER_CALLEE_MAX: u32 = 4096;

/// A token, to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBearer {
    /// Public part of the token.
    pub id: String,
    /// For whom it speaks.
    pub owner: SpiffeId,
    /// Its scope: each callee with the hash under that callee's key.
    pub hashes: Vec<(SpiffeId, [u8; 32])>,
    /// Who had it issued.
    pub issued_by: String,
    /// When.
    pub issued_at: UnixTime,
    /// Until when it counts.
    pub expires_at: UnixTime,
}

/// A token, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Public part of the token.
    pub id: String,
    /// For whom it speaks.
    pub owner: SpiffeId,
    /// Where it counts, by name.
    pub scope: Vec<SpiffeId>,
    /// Who had it issued.
    pub issued_by: String,
    /// When.
    pub issued_at: UnixTime,
    /// Until when it counts.
    pub expires_at: UnixTime,
    /// The token that takes its place.
    pub replaced_by: Option<String>,
    /// When it was taken back.
    pub revoked_at: Option<UnixTime>,
}

/// What one callee needs in order to know a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BearerHash {
    /// Public part of the token.
    pub id: String,
    /// Under the callee's key.
    pub hash: Vec<u8>,
    /// For whom it speaks.
    pub owner: SpiffeId,
    /// Until when it counts.
    pub expires_at: UnixTime,
}

impl Db {
    /// Stores a token and records it. Returns the generation from which on callees know it.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the id is there already, or a callee of its scope holds
    /// [`BEARER_PER_CALLEE_MAX`]; those of [`Db::append`]; any of the database's.
    pub async fn add_bearer(&self, token: &NewBearer, records: &[Record]) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        insert(&mut tx, self.domain(), token).await?;
        let generation = grow(&mut tx, self.domain()).await?;
        append(&mut tx, self.trust_domain(), records, token.issued_at).await?;
        tx.commit().await?;
        Ok(generation)
    }

    /// Stores `token` in the place of `old`, which counts until `ends_at` or its own end, whichever is earlier. Once.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when `old` does not count any more or was replaced; those of [`Db::add_bearer`].
    pub async fn replace_bearer(
        &self,
        old: &str,
        ends_at: UnixTime,
        token: &NewBearer,
        records: &[Record],
    ) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE bearer_tokens SET replaced_by = $3, \
             expires_at = CASE WHEN expires_at < $4 THEN expires_at ELSE $4 END WHERE trust_domain = $1 AND id = $2 \
             AND replaced_by IS NULL AND revoked_at IS NULL AND expires_at > $5",
        )
        .bind(self.domain())
        .bind(old)
        .bind(&token.id)
        .bind(ends_at.millis())
        .bind(token.issued_at.millis())
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::Missing { what: LIVE });
        }
        insert(&mut tx, self.domain(), token).await?;
        let generation = grow(&mut tx, self.domain()).await?;
        append(&mut tx, self.trust_domain(), records, token.issued_at).await?;
        tx.commit().await?;
        Ok(generation)
    }

    /// Takes a token back. Returns the generation from which on callees do not know it.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when it does not count anyway; those of [`Db::append`]; any of the database's.
    pub async fn revoke_bearer(
        &self,
        id: &str,
        now: UnixTime,
        records: &[Record],
    ) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE bearer_tokens SET revoked_at = $3 \
             WHERE trust_domain = $1 AND id = $2 AND revoked_at IS NULL AND expires_at > $3",
        )
        .bind(self.domain())
        .bind(id)
        .bind(now.millis())
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::Missing { what: LIVE });
        }
        let generation = grow(&mut tx, self.domain()).await?;
        append(&mut tx, self.trust_domain(), records, now).await?;
        tx.commit().await?;
        Ok(generation)
    }

    /// Takes back all tokens of an owner whose identity was revoked. Returns how many counted until now.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn revoke_bearers_of(&self, owner: &SpiffeId, now: UnixTime) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE bearer_tokens SET revoked_at = $3 \
             WHERE trust_domain = $1 AND owner = $2 AND revoked_at IS NULL AND expires_at > $3",
        )
        .bind(self.domain())
        .bind(owner.as_str())
        .bind(now.millis())
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() > 0 {
            grow(&mut tx, self.domain()).await?;
        }
        tx.commit().await?;
        Ok(done.rows_affected())
    }

    /// One token that has not expired.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn bearer(&self, id: &str, now: UnixTime) -> Result<Option<Bearer>, StoreError> {
        let row = sqlx::query(
            "SELECT * FROM bearer_tokens WHERE trust_domain = $1 AND id = $2 AND expires_at > $3",
        )
        .bind(self.domain())
        .bind(id)
        .bind(now.millis())
        .fetch_optional(self.reader())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let mut token = bearer(&Row("bearer_tokens", &row))?;
        token.scope = self.scopes(Some(id)).await?.into_iter().map(|(_, callee)| callee).collect();
        Ok(Some(token))
    }

    /// The hash of a token under the key of `callee`, expired and revoked ones among them; `None` where the token is not
    /// for `callee`.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn bearer_hash(&self, id: &str, callee: &SpiffeId) -> Result<Option<Vec<u8>>, StoreError> {
        let row =
            sqlx::query("SELECT hash FROM bearer_hashes WHERE trust_domain = $1 AND callee = $2 AND id = $3")
                .bind(self.domain())
                .bind(callee.as_str())
                .bind(id)
                .fetch_optional(self.reader())
                .await?;
        row.map(|row| Row("bearer_hashes", &row).bytes("hash")).transpose()
    }

    /// Tokens that have not expired, revoked ones among them, newest first, [`ROWS_MAX`] at most.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn bearers(&self, now: UnixTime) -> Result<Vec<Bearer>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM bearer_tokens WHERE trust_domain = $1 AND expires_at > $2 \
             ORDER BY issued_at DESC, id LIMIT $3",
        )
        .bind(self.domain())
        .bind(now.millis())
        .bind(i64::from(ROWS_MAX))
        .fetch_all(self.reader())
        .await?;
        let mut tokens: Vec<Bearer> =
            rows.iter().map(|row| bearer(&Row("bearer_tokens", row))).collect::<Result<_, _>>()?;
        let mut scopes = std::collections::HashMap::<String, Vec<SpiffeId>>::new();
        for (id, callee) in self.scopes(None).await? {
            scopes.entry(id).or_default().push(callee);
        }
        tokens.iter_mut().for_each(|token| token.scope = scopes.remove(&token.id).unwrap_or_default());
        Ok(tokens)
    }

    /// What `callee` must know at the moment, and a generation that is not newer than it.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn bearers_at(
        &self,
        callee: &SpiffeId,
        now: UnixTime,
    ) -> Result<(u64, Vec<BearerHash>), StoreError> {
        // First the number: what is read after it is at least as new.
        let generation = sqlx::query("SELECT generation FROM secrets WHERE trust_domain = $1")
            .bind(self.domain())
            .fetch_optional(self.reader())
            .await?;
        let generation = generation.as_ref().map_or(Ok(0), |row| Row("secrets", row).number("generation"))?;
        let rows = sqlx::query(
            "SELECT h.id AS id, h.hash AS hash, t.owner AS owner, t.expires_at AS expires_at \
             FROM bearer_hashes h JOIN bearer_tokens t ON t.trust_domain = h.trust_domain AND t.id = h.id \
             WHERE h.trust_domain = $1 AND h.callee = $2 AND t.revoked_at IS NULL AND t.expires_at > $3 \
             ORDER BY h.id LIMIT $4",
        )
        .bind(self.domain())
        .bind(callee.as_str())
        .bind(now.millis())
        .bind(i64::from(BEARER_PER_CALLEE_MAX))
        .fetch_all(self.reader())
        .await?;
        let hash = |row: &AnyRow| {
            let row = Row("bearer_hashes", row);
            Ok(BearerHash {
                id: row.text("id")?,
                hash: row.bytes("hash")?,
                owner: row.parsed("owner")?,
                expires_at: row.time("expires_at")?,
            })
        };
        Ok((generation, rows.iter().map(hash).collect::<Result<_, StoreError>>()?))
    }

    /// Forgets tokens that have expired.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn tidy_bearers(&self, now: UnixTime) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "DELETE FROM bearer_hashes WHERE trust_domain = $1 AND id IN \
             (SELECT id FROM bearer_tokens WHERE trust_domain = $1 AND expires_at <= $2)",
        )
        .bind(self.domain())
        .bind(now.millis())
        .execute(&mut *tx)
        .await?;
        let done = sqlx::query("DELETE FROM bearer_tokens WHERE trust_domain = $1 AND expires_at <= $2")
            .bind(self.domain())
            .bind(now.millis())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }

    async fn scopes(&self, id: Option<&str>) -> Result<Vec<(String, SpiffeId)>, StoreError> {
        let rows = match id {
            Some(id) => sqlx::query(
                "SELECT id, callee FROM bearer_hashes WHERE trust_domain = $1 AND id = $2 ORDER BY callee",
            )
            .bind(self.domain())
            .bind(id)
            .fetch_all(self.reader())
            .await?,
            None => sqlx::query(
                "SELECT id, callee FROM bearer_hashes WHERE trust_domain = $1 ORDER BY id, callee LIMIT $2",
            )
            .bind(self.domain())
            .bind(SCOPES_MAX)
            .fetch_all(self.reader())
            .await?,
        };
        let scope = |row: &AnyRow| {
            let row = Row("bearer_hashes", row);
            Ok((row.text("id")?, row.parsed("callee")?))
        };
        rows.iter().map(scope).collect()
    }
}

async fn insert(tx: &mut AnyConnection, domain: &str, token: &NewBearer) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO bearer_tokens (trust_domain, id, owner, issued_by, issued_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(domain)
    .bind(&token.id)
    .bind(token.owner.as_str())
    .bind(&token.issued_by)
    .bind(token.issued_at.millis())
    .bind(token.expires_at.millis())
    .execute(&mut *tx)
    .await
    .map_err(StoreError::or_conflict("a bearer token with this id"))?;
    for (callee, hash) in &token.hashes {
        refuse_unless_there_is_room(tx, domain, callee, token.issued_at).await?;
        sqlx::query("INSERT INTO bearer_hashes (trust_domain, callee, id, hash) VALUES ($1, $2, $3, $4)")
            .bind(domain)
            .bind(callee.as_str())
            .bind(&token.id)
            .bind(base64(hash))
            .execute(&mut *tx)
            .await
            .map_err(StoreError::or_conflict("this callee in the scope of a bearer token"))?;
    }
    Ok(())
}

async fn refuse_unless_there_is_room(
    tx: &mut AnyConnection,
    domain: &str,
    callee: &SpiffeId,
    now: UnixTime,
) -> Result<(), StoreError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS held FROM bearer_hashes h JOIN bearer_tokens t \
         ON t.trust_domain = h.trust_domain AND t.id = h.id \
         WHERE h.trust_domain = $1 AND h.callee = $2 AND t.revoked_at IS NULL AND t.expires_at > $3",
    )
    .bind(domain)
    .bind(callee.as_str())
    .bind(now.millis())
    .fetch_one(tx)
    .await?;
    match Row("bearer_hashes", &row).number("held")? {
        held if held < u64::from(BEARER_PER_CALLEE_MAX) => Ok(()),
        _ => Err(StoreError::Conflict {
            what: "as many bearer tokens as a callee of its scope can hold: one more",
        }),
    }
}

async fn grow(tx: &mut AnyConnection, domain: &str) -> Result<u64, StoreError> {
    let row = sqlx::query(
        "INSERT INTO secrets (trust_domain, generation) VALUES ($1, 1) \
         ON CONFLICT (trust_domain) DO UPDATE SET generation = secrets.generation + 1 RETURNING generation",
    )
    .bind(domain)
    .fetch_one(tx)
    .await?;
    Row("secrets", &row).number("generation")
}

fn bearer(row: &Row<'_>) -> Result<Bearer, StoreError> {
    Ok(Bearer {
        id: row.text("id")?,
        owner: row.parsed("owner")?,
        scope: Vec::new(),
        issued_by: row.text("issued_by")?,
        issued_at: row.time("issued_at")?,
        expires_at: row.time("expires_at")?,
        replaced_by: row.text_or_none("replaced_by")?,
        revoked_at: row.time_or_none("revoked_at")?,
    })
}

const LIVE: &str = "bearer token that still counts";
/// Callees of all tokens of one listing.
const SCOPES_MAX: i64 = 100_000;
