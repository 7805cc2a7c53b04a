//! Bundles of other trust domains, each as its operator handed it in.

use countersign_identity::{TrustDomain, UnixTime};
use countersign_ledger::Record;

use crate::ledger::append;
use crate::row::{Row, signed};
use crate::{Db, StoreError};

/// Trust domains that one deployment federates with: every data plane holds the bundles of all of them.
pub const PEERS_MAX: u32 = 64;

/// The bundle of another trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerBundle {
    /// Whose.
    pub peer: TrustDomain,
    /// Its number; 0 where it has none.
    pub sequence: u64,
    /// The bundle document, JSON.
    pub document: String,
    /// When it was handed in.
    pub stored_at: UnixTime,
    /// Who handed it in.
    pub stored_by: String,
}

impl Db {
    /// Stores the bundle of a trust domain in place of the one before, and records it.
    ///
    /// # Errors
    /// [`StoreError::NotNewer`] when the one at hand has a greater number: it may know of revocations that this one
    /// does not; [`StoreError::Conflict`] beyond [`PEERS_MAX`]; those of [`Db::append`]; any of the database's.
    pub async fn federate(&self, bundle: &PeerBundle, records: &[Record]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "INSERT INTO federation (trust_domain, peer, sequence, document, stored_at, stored_by) \
             SELECT $1, $2, $3, $4, $5, $6 \
             WHERE (SELECT COUNT(*) FROM federation WHERE trust_domain = $1) < $7 \
             OR EXISTS (SELECT 1 FROM federation WHERE trust_domain = $1 AND peer = $2) \
             ON CONFLICT (trust_domain, peer) DO UPDATE SET sequence = excluded.sequence, \
             document = excluded.document, stored_at = excluded.stored_at, stored_by = excluded.stored_by \
             WHERE federation.sequence <= excluded.sequence",
        )
        .bind(self.domain())
        .bind(bundle.peer.as_str())
        .bind(signed(bundle.sequence)?)
        .bind(&bundle.document)
        .bind(bundle.stored_at.millis())
        .bind(&bundle.stored_by)
        .bind(i64::from(PEERS_MAX))
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            let row = sqlx::query("SELECT sequence FROM federation WHERE trust_domain = $1 AND peer = $2")
                .bind(self.domain())
                .bind(bundle.peer.as_str())
                .fetch_optional(&mut *tx)
                .await?;
            let Some(row) = row else {
                return Err(StoreError::Conflict {
                    what: "one more trust domain, beyond the most that are kept,",
                });
            };
            let newest = Row("federation", &row).number("sequence")?;
            return Err(StoreError::NotNewer { what: "bundle", got: bundle.sequence, newest });
        }
        append(&mut tx, self.trust_domain(), records, bundle.stored_at).await?;
        Ok(tx.commit().await?)
    }

    /// Forgets a trust domain, and records it.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such one; those of [`Db::append`]; any of the database's.
    pub async fn end_federation(
        &self,
        peer: &TrustDomain,
        records: &[Record],
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query("DELETE FROM federation WHERE trust_domain = $1 AND peer = $2")
            .bind(self.domain())
            .bind(peer.as_str())
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::Missing { what: "federated trust domain" });
        }
        append(&mut tx, self.trust_domain(), records, now).await?;
        Ok(tx.commit().await?)
    }

    /// Every trust domain that we federate with, by name, [`PEERS_MAX`] at most.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn federation(&self) -> Result<Vec<PeerBundle>, StoreError> {
        let rows = sqlx::query("SELECT * FROM federation WHERE trust_domain = $1 ORDER BY peer LIMIT $2")
            .bind(self.domain())
            .bind(i64::from(PEERS_MAX))
            .fetch_all(self.reader())
            .await?;
        rows.iter().map(|row| bundle(&Row("federation", row))).collect()
    }
}

fn bundle(row: &Row<'_>) -> Result<PeerBundle, StoreError> {
    Ok(PeerBundle {
        peer: row.parsed("peer")?,
        sequence: row.number("sequence")?,
        document: row.text("document")?,
        stored_at: row.time("stored_at")?,
        stored_by: row.text("stored_by")?,
    })
}
