//! Reports about advertisements.

use countersign_identity::UnixTime;
use sqlx::{Row, any::AnyRow};

use super::{Db, StoreError};

/// Most reports in one answer.
const REPORTS_MAX: i64 = 200;

/// The reports of everybody.
#[derive(Clone, Debug)]
pub struct ReportStore(Db);

/// Somebody thinks that an advertisement should not be here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its number.
    pub id: i64,
    /// Which advertisement.
    pub ad: i64,
    /// Its title, if the ads service could be asked.
    pub ad_title: Option<String>,
    /// Who thinks so.
    pub reporter: String,
    /// Why.
    pub reason: String,
    /// When.
    pub created_at: UnixTime,
    /// When a moderator closed it, who, and how.
    pub closed: Option<(UnixTime, String, String)>,
}

impl ReportStore {
    /// Opens the database of the reports service.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn open(address: &str) -> Result<Self, StoreError> {
        Ok(Self(Db::open(address, "reports", include_str!("reports.sql")).await?))
    }

    /// What every service keeps.
    #[must_use]
    pub const fn db(&self) -> &Db {
        &self.0
    }

    /// Files a report; nothing if this person has reported this advertisement before.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn file(
        &self,
        ad: i64,
        ad_title: Option<&str>,
        reporter: &str,
        reason: &str,
        now: UnixTime,
    ) -> Result<Option<Report>, StoreError> {
        let mut transaction = self.0.begin().await?;
        let id = Db::next_number(&mut transaction, "reports").await?;
        let file = "INSERT INTO reports (id, ad, ad_title, reporter, reason, created_at)
                    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (ad, reporter) DO NOTHING RETURNING *";
        let file = sqlx::query(file).bind(id).bind(ad).bind(ad_title).bind(reporter).bind(reason);
        let row = file.bind(now.millis()).fetch_optional(&mut *transaction).await?;
        transaction.commit().await?;
        row.as_ref().map(report).transpose()
    }

    /// Reports, open ones first, then the newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn all(&self) -> Result<Vec<Report>, StoreError> {
        let all = "SELECT * FROM reports
                   ORDER BY CASE WHEN closed_at IS NULL THEN 0 ELSE 1 END, id DESC LIMIT $1";
        sqlx::query(all).bind(REPORTS_MAX).fetch_all(self.0.reader()).await?.iter().map(report).collect()
    }

    /// Closes a report that is open, and returns it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn close(
        &self,
        id: i64,
        moderator: &str,
        outcome: &str,
        now: UnixTime,
    ) -> Result<Option<Report>, StoreError> {
        let close = "UPDATE reports SET closed_at = $1, closed_by = $2, outcome = $3
                     WHERE id = $4 AND closed_at IS NULL RETURNING *";
        let close = sqlx::query(close).bind(now.millis()).bind(moderator).bind(outcome).bind(id);
        close.fetch_optional(self.0.writer()).await?.as_ref().map(report).transpose()
    }

    /// Whether there never was a report.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn is_new(&self) -> Result<bool, StoreError> {
        self.0.is_unused("reports").await
    }
}

fn report(row: &AnyRow) -> Result<Report, StoreError> {
    let closed = match row.try_get::<Option<i64>, _>("closed_at")? {
        None => None,
        Some(at) => Some((UnixTime::from_millis(at), row.try_get("closed_by")?, row.try_get("outcome")?)),
    };
    Ok(Report {
        id: row.try_get("id")?,
        ad: row.try_get("ad")?,
        ad_title: row.try_get("ad_title")?,
        reporter: row.try_get("reporter")?,
        reason: row.try_get("reason")?,
        created_at: UnixTime::from_millis(row.try_get("created_at")?),
        closed,
    })
}
