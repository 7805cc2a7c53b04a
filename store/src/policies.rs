//! Policy files, all of one generation.

use countersign_identity::UnixTime;
use countersign_keys::sha256_hex;
use countersign_ledger::Record;

use crate::ledger::append;
use crate::row::Row;
use crate::{Db, ROWS_MAX, StoreError};

/// The Cedar text of one target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyFile {
    /// The target service, `gateway`, …
    pub name: String,
    /// Cedar.
    pub text: String,
}

/// All files of one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policies {
    /// Grows with every change.
    pub generation: u64,
    /// By name.
    pub files: Vec<PolicyFile>,
}

/// SHA-256 over names and texts, hex: equal exactly when the files are.
#[must_use]
pub fn digest(files: &[PolicyFile]) -> String {
    let mut sorted: Vec<&PolicyFile> = files.iter().collect();
    sorted.sort();
    let mut bytes = Vec::new();
    for part in sorted.iter().flat_map(|file| [&file.name, &file.text]) {
        // With the length before each part no two sets of files share their bytes.
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    sha256_hex(&bytes)
}

impl Db {
    /// Replaces all files. If they differ from those that are stored, the generation grows by one and the
    /// records are appended; if not, nothing happens. Returns the generation that holds afterwards.
    ///
    /// The records name a generation, so `expected` says which one their author saw before the change.
    ///
    /// # Errors
    /// [`StoreError::NotNewer`] when the stored generation is no longer `expected`; [`StoreError::Conflict`] for
    /// two files of one name; [`StoreError::NotFounded`]; those of [`Db::append`]; any of the database's.
    pub async fn replace_policies(
        &self,
        files: &[PolicyFile],
        expected: u64,
        changed_by: &str,
        records: &[Record],
        now: UnixTime,
    ) -> Result<u64, StoreError> {
        let digest = digest(files);
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "UPDATE meta SET policy_generation = policy_generation WHERE trust_domain = $1 \
             RETURNING policy_generation, policy_digest",
        )
        .bind(self.domain())
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::NotFounded)?;
        let row = Row("meta", &row);
        let newest = row.number("policy_generation")?;
        if row.text("policy_digest")? == digest {
            return Ok(newest);
        }
        if newest != expected {
            return Err(StoreError::NotNewer { what: "policy generation", got: expected + 1, newest });
        }
        sqlx::query(
            "UPDATE meta SET policy_generation = policy_generation + 1, policy_digest = $2 WHERE trust_domain = $1",
        )
        .bind(self.domain())
        .bind(&digest)
        .execute(&mut *tx)
        .await?;
        sqlx::query("DELETE FROM policies WHERE trust_domain = $1")
            .bind(self.domain())
            .execute(&mut *tx)
            .await?;
        for file in files {
            sqlx::query(
                "INSERT INTO policies (trust_domain, name, body, changed_by, changed_at) VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(self.domain())
            .bind(&file.name)
            .bind(&file.text)
            .bind(changed_by)
            .bind(now.millis())
            .execute(&mut *tx)
            .await
            .map_err(StoreError::or_conflict("a policy file with this name"))?;
        }
        append(&mut tx, self.trust_domain(), records, now).await?;
        tx.commit().await?;
        Ok(newest + 1)
    }

    /// All files with their generation, as one consistent picture.
    ///
    /// # Errors
    /// [`StoreError::NotFounded`]; any of the database's.
    pub async fn policies(&self) -> Result<Policies, StoreError> {
        let rows = sqlx::query(
            "SELECT meta.policy_generation, policies.name, policies.body FROM meta \
             LEFT JOIN policies ON policies.trust_domain = meta.trust_domain \
             WHERE meta.trust_domain = $1 ORDER BY policies.name LIMIT $2",
        )
        .bind(self.domain())
        .bind(i64::from(ROWS_MAX))
        .fetch_all(self.reader())
        .await?;
        let first = rows.first().ok_or(StoreError::NotFounded)?;
        let generation = Row("meta", first).number("policy_generation")?;
        let mut files = Vec::with_capacity(rows.len());
        for row in &rows {
            let row = Row("policies", row);
            if let Some(name) = row.text_or_none("name")? {
                files.push(PolicyFile { name, text: row.text("body")? });
            }
        }
        Ok(Policies { generation, files })
    }
}
