//! Issued certificates, their revocations, and the numbered lists of them.

use countersign_identity::{CLOCK_SKEW, SpiffeId, UnixTime};
use countersign_ledger::Record;
use countersign_pki::revocation::RevocationReason;
use sqlx::AnyConnection;

use crate::ledger::append;
use crate::row::{Row, base64, signed};
use crate::{Db, ROWS_MAX, StoreError};

/// A certificate that we issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Lower-case hex without leading zeros, unique within the trust domain.
    pub serial: String,
    /// Whose it is; `None` for edge servers.
    pub spiffe_id: Option<SpiffeId>,
    /// Which profile.
    pub profile: String,
    /// Serial of the issuing CA's certificate, hex.
    pub issuer: String,
    /// SHA-256 of the DER, hex.
    pub thumbprint: String,
    /// RFC 7638 thumbprint of its public key: the link from an identity to its keys.
    pub key: String,
    /// The certificate.
    pub der: Vec<u8>,
    /// Who asked: an agent, or an administrator (`uid:0`).
    pub requested_by: String,
    /// When it was signed.
    pub issued_at: UnixTime,
    /// Start of its validity.
    pub not_before: UnixTime,
    /// End of its validity.
    pub not_after: UnixTime,
    /// `None` as long as it counts.
    pub revocation: Option<Revocation>,
}

/// That a certificate no longer counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Since when.
    pub at: UnixTime,
    /// Who revoked it.
    pub by: String,
    /// Why.
    pub reason: RevocationReason,
}

/// Which certificates are wanted; every condition that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateQuery {
    /// Whose.
    pub spiffe_id: Option<SpiffeId>,
    /// Neither expired nor revoked at this moment.
    pub live_at: Option<UnixTime>,
    /// Only those that follow this one in the listing: `(issued_at, serial)` of the last one of the part before.
    pub after: Option<(UnixTime, String)>,
    /// [`ROWS_MAX`] at most; 0 is nothing.
    pub limit: u32,
}

/// A signed certificate revocation list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCrl {
    /// Serial of the CA that signed it, hex.
    pub issuer: String,
    /// `crlNumber`.
    pub number: u64,
    /// The list.
    pub der: Vec<u8>,
    /// Its thisUpdate.
    pub this_update: UnixTime,
    /// Its nextUpdate.
    pub next_update: UnixTime,
    /// How many certificates are on it.
    pub entries: u64,
}

impl Db {
    /// Stores a certificate and the events that tell of it, in one transaction. Once this returns, both are
    /// durable: only then may the certificate leave the house.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the serial exists; those of [`Db::append`]; any of the database's.
    pub async fn issue_and_record(
        &self,
        certificate: &Certificate,
        records: &[Record],
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        insert_certificate(&mut tx, self.domain(), certificate).await?;
        append(&mut tx, self.trust_domain(), records, now).await?;
        Ok(tx.commit().await?)
    }

    /// One certificate by its serial.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn certificate(&self, serial: &str) -> Result<Option<Certificate>, StoreError> {
        let row = sqlx::query("SELECT * FROM certificates WHERE trust_domain = $1 AND serial = $2")
            .bind(self.domain())
            .bind(serial)
            .fetch_optional(self.reader())
            .await?;
        row.as_ref().map(|row| certificate(&Row("certificates", row))).transpose()
    }

    /// The certificates that a query names, newest first.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn certificates(&self, query: &CertificateQuery) -> Result<Vec<Certificate>, StoreError> {
        let (before, serial) = query.after.clone().unzip();
        let rows = sqlx::query(
            "SELECT * FROM certificates WHERE trust_domain = $1 \
             AND (CAST($2 AS TEXT) IS NULL OR spiffe_id = $2) \
             AND (CAST($3 AS BIGINT) IS NULL OR (not_after > $3 AND revoked_at IS NULL)) \
             AND (CAST($4 AS BIGINT) IS NULL OR issued_at < $4 OR (issued_at = $4 AND serial > $5)) \
             ORDER BY issued_at DESC, serial ASC LIMIT $6",
        )
        .bind(self.domain())
        .bind(query.spiffe_id.as_ref().map(SpiffeId::as_str))
        .bind(query.live_at.map(UnixTime::millis))
        .bind(before.map(UnixTime::millis))
        .bind(serial)
        .bind(i64::from(query.limit.min(ROWS_MAX)))
        .fetch_all(self.reader())
        .await?;
        rows.iter().map(|row| certificate(&Row("certificates", row))).collect()
    }

    /// How many workload certificates are neither expired nor revoked.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn live_certificates(&self, now: UnixTime) -> Result<u64, StoreError> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS live FROM certificates \
             WHERE trust_domain = $1 AND spiffe_id IS NOT NULL AND not_after > $2 AND revoked_at IS NULL",
        )
        .bind(self.domain())
        .bind(now.millis())
        .fetch_one(self.reader())
        .await?;
        Row("certificates", &row).number("live")
    }

    /// Revokes certificates and records it, in one transaction. Returns the serials that counted until now: one
    /// that is revoked already stays as it was, an unknown one is left out.
    ///
    /// # Errors
    /// Those of [`Db::append`]; any of the database's.
    pub async fn revoke_and_record(
        &self,
        serials: &[String],
        revocation: &Revocation,
        records: &[Record],
    ) -> Result<Vec<String>, StoreError> {
        let mut tx = self.begin().await?;
        let mut revoked = Vec::new();
        for serial in serials {
            let row = sqlx::query(
                "UPDATE certificates SET revoked_at = $3, revoked_by = $4, reason = $5 \
                 WHERE trust_domain = $1 AND serial = $2 AND revoked_at IS NULL RETURNING serial",
            )
            .bind(self.domain())
            .bind(serial)
            .bind(revocation.at.millis())
            .bind(&revocation.by)
            .bind(revocation.reason.as_str())
            .fetch_optional(&mut *tx)
            .await?;
            revoked.extend(row.map(|row| Row("certificates", &row).text("serial")).transpose()?);
        }
        append(&mut tx, self.trust_domain(), records, revocation.at).await?;
        tx.commit().await?;
        Ok(revoked)
    }

    /// Everything that a revocation list must carry at `now`: revoked and not expired, with a margin for clocks
    /// that go slow (X5-3: a revoked, unexpired certificate never leaves the list). By serial. This listing alone
    /// has no limit but the size of a list: leaving one out would revive it.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn revoked(&self, issuer: &str, now: UnixTime) -> Result<Vec<Certificate>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM certificates WHERE trust_domain = $1 AND issuer = $2 AND revoked_at IS NOT NULL \
             AND not_after > $3 ORDER BY serial",
        )
        .bind(self.domain())
        .bind(issuer)
        .bind(expired_for_everybody(now).millis())
        .fetch_all(self.reader())
        .await?;
        rows.iter().map(|row| certificate(&Row("certificates", row))).collect()
    }

    /// Keeps a list, if its number comes after the one that is kept, and records it.
    ///
    /// # Errors
    /// [`StoreError::NotNewer`]; those of [`Db::append`]; any of the database's.
    pub async fn publish_crl(
        &self,
        crl: &StoredCrl,
        records: &[Record],
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "INSERT INTO crls (trust_domain, issuer, number, der, this_update, next_update, entries) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (trust_domain, issuer) DO UPDATE SET \
             number = excluded.number, der = excluded.der, this_update = excluded.this_update, \
             next_update = excluded.next_update, entries = excluded.entries WHERE crls.number < excluded.number",
        )
        .bind(self.domain())
        .bind(&crl.issuer)
        .bind(signed(crl.number)?)
        .bind(base64(&crl.der))
        .bind(crl.this_update.millis())
        .bind(crl.next_update.millis())
        .bind(signed(crl.entries)?)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            tx.rollback().await?;
            let newest = self.crl(&crl.issuer).await?.map_or(0, |kept| kept.number);
            return Err(StoreError::NotNewer { what: "crlNumber", got: crl.number, newest });
        }
        append(&mut tx, self.trust_domain(), records, now).await?;
        Ok(tx.commit().await?)
    }

    /// The newest list of an issuer.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn crl(&self, issuer: &str) -> Result<Option<StoredCrl>, StoreError> {
        let row = sqlx::query("SELECT * FROM crls WHERE trust_domain = $1 AND issuer = $2")
            .bind(self.domain())
            .bind(issuer)
            .fetch_optional(self.reader())
            .await?;
        row.as_ref().map(|row| crl(&Row("crls", row))).transpose()
    }

    /// The newest list of every issuer.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn crls(&self) -> Result<Vec<StoredCrl>, StoreError> {
        let rows = sqlx::query("SELECT * FROM crls WHERE trust_domain = $1 ORDER BY issuer LIMIT $2")
            .bind(self.domain())
            .bind(i64::from(ROWS_MAX))
            .fetch_all(self.reader())
            .await?;
        rows.iter().map(|row| crl(&Row("crls", row))).collect()
    }

    /// Forgets certificates that expired before `now - keep`, revoked or not; a certificate that somebody could
    /// still accept is never forgotten, whatever `keep` says (lesson 54). The ledger keeps what happened.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn tidy_certificates(
        &self,
        now: UnixTime,
        keep: std::time::Duration,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM certificates WHERE trust_domain = $1 AND not_after <= $2")
            .bind(self.domain())
            .bind(expired_for_everybody(now).saturating_sub(keep).millis())
            .execute(self.writer())
            .await?;
        Ok(done.rows_affected())
    }
}

pub(crate) async fn insert_certificate(
    tx: &mut AnyConnection,
    domain: &str,
    certificate: &Certificate,
) -> Result<(), StoreError> {
    let revocation = certificate.revocation.as_ref();
    sqlx::query(
        "INSERT INTO certificates (trust_domain, serial, spiffe_id, profile, issuer, thumbprint, key, der, \
         requested_by, issued_at, not_before, not_after, revoked_at, revoked_by, reason) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(domain)
    .bind(&certificate.serial)
    .bind(certificate.spiffe_id.as_ref().map(SpiffeId::as_str))
    .bind(&certificate.profile)
    .bind(&certificate.issuer)
    .bind(&certificate.thumbprint)
    .bind(&certificate.key)
    .bind(base64(&certificate.der))
    .bind(&certificate.requested_by)
    .bind(certificate.issued_at.millis())
    .bind(certificate.not_before.millis())
    .bind(certificate.not_after.millis())
    .bind(revocation.map(|revocation| revocation.at.millis()))
    .bind(revocation.map(|revocation| revocation.by.as_str()))
    .bind(revocation.map(|revocation| revocation.reason.as_str()))
    .execute(tx)
    .await
    .map_err(StoreError::or_conflict("a certificate with this serial"))?;
    Ok(())
}

/// A clock that goes slow by [`CLOCK_SKEW`] may still accept what expired after this.
fn expired_for_everybody(now: UnixTime) -> UnixTime {
    now.saturating_sub(CLOCK_SKEW)
}

fn certificate(row: &Row<'_>) -> Result<Certificate, StoreError> {
    Ok(Certificate {
        serial: row.text("serial")?,
        spiffe_id: row.parsed_or_none("spiffe_id")?,
        profile: row.text("profile")?,
        issuer: row.text("issuer")?,
        thumbprint: row.text("thumbprint")?,
        key: row.text("key")?,
        der: row.bytes("der")?,
        requested_by: row.text("requested_by")?,
        issued_at: row.time("issued_at")?,
        not_before: row.time("not_before")?,
        not_after: row.time("not_after")?,
        revocation: revocation(row)?,
    })
}

fn revocation(row: &Row<'_>) -> Result<Option<Revocation>, StoreError> {
    let Some(at) = row.time_or_none("revoked_at")? else { return Ok(None) };
    let reason = RevocationReason::parse(&row.text("reason")?).ok_or_else(|| row.corrupt("reason"))?;
    Ok(Some(Revocation { at, by: row.text("revoked_by")?, reason }))
}

fn crl(row: &Row<'_>) -> Result<StoredCrl, StoreError> {
    Ok(StoredCrl {
        issuer: row.text("issuer")?,
        number: row.number("number")?,
        der: row.bytes("der")?,
        this_update: row.time("this_update")?,
        next_update: row.time("next_update")?,
        entries: row.number("entries")?,
    })
}
