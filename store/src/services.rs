//! Registration entries: which identities exist, who may launch them, where they are.

use countersign_identity::{Mode, ServiceName, SpiffeId, UnixTime, UserContext, WimseProof};
use countersign_ledger::Record;
use serde::{Deserialize, Serialize};

use crate::ledger::append;
use crate::row::{Row, json};
use crate::{Db, ROWS_MAX, StoreError};

/// A registration entry, to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewService {
    /// Opaque, random; used only if the name is new.
    pub id: String,
    /// Short name.
    pub name: ServiceName,
    /// The identity that it grants.
    pub spiffe_id: SpiffeId,
    /// `host:port`.
    pub address: String,
    /// Modes that it accepts.
    pub accepts: Vec<Mode>,
    /// The mode in which it calls others.
    pub sends: Mode,
    /// How it carries its user along.
    pub user_context: UserContext,
    /// Which proof it sends in mode `wimse`.
    pub wimse: WimseProof,
    /// Uids that may launch it.
    pub launch_by: Vec<u32>,
    /// Agents that may hold it; empty means all agents of this trust domain.
    pub nodes: Vec<SpiffeId>,
}

/// A registration entry, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Immutable, opaque, never reused.
    pub id: String,
    /// Short name.
    pub name: ServiceName,
    /// The identity that it grants.
    pub spiffe_id: SpiffeId,
    /// `host:port`.
    pub address: String,
    /// Modes that it accepts.
    pub accepts: Vec<Mode>,
    /// The mode in which it calls others.
    pub sends: Mode,
    /// How it carries its user along.
    pub user_context: UserContext,
    /// Which proof it sends in mode `wimse`.
    pub wimse: WimseProof,
    /// Uids that may launch it.
    pub launch_by: Vec<u32>,
    /// Agents that may hold it; empty means all agents of this trust domain.
    pub nodes: Vec<SpiffeId>,
    /// Set while its floor is lower than it should be.
    pub lowered: Option<Lowered>,
    /// When it was made.
    pub created_at: UnixTime,
    /// When it last changed.
    pub updated_at: UnixTime,
}

/// How a service proves itself to others, and what it asks of those who call it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Modes {
    /// Modes that it accepts: its floor.
    pub accepts: Vec<Mode>,
    /// The mode in which it calls others.
    pub sends: Mode,
    /// How it carries its user along.
    pub user_context: UserContext,
    /// Which proof it sends in mode `wimse`.
    pub wimse: WimseProof,
}

/// A floor that was lowered for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lowered {
    /// When it ends.
    pub until: UnixTime,
    /// What comes back then.
    pub from: Modes,
}

impl Service {
    /// Its modes.
    #[must_use]
    pub fn modes(&self) -> Modes {
        Modes {
            accepts: self.accepts.clone(),
            sends: self.sends,
            user_context: self.user_context,
            wimse: self.wimse,
        }
    }
}

impl Db {
    /// Stores an entry, or changes the one of the same name, and records it. Of an entry that exists, id,
    /// identity and modes stay: those change by [`Db::set_modes`] alone, which knows what lowering a floor needs.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the identity or the id belongs to another name; those of [`Db::append`];
    /// any of the database's.
    pub async fn register_service(
        &self,
        service: &NewService,
        records: &[Record],
        now: UnixTime,
    ) -> Result<Service, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "INSERT INTO services (trust_domain, id, name, spiffe_id, address, accepts, sends, user_context, \
             wimse, launch_by, nodes, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12) \
             ON CONFLICT (trust_domain, name) DO UPDATE SET address = excluded.address, \
             launch_by = excluded.launch_by, nodes = excluded.nodes, updated_at = excluded.updated_at \
             WHERE services.spiffe_id = excluded.spiffe_id RETURNING *",
        )
        .bind(self.domain())
        .bind(&service.id)
        .bind(service.name.as_str())
        .bind(service.spiffe_id.as_str())
        .bind(&service.address)
        .bind(json(&service.accepts)?)
        .bind(json(&service.sends)?)
        .bind(json(&service.user_context)?)
        .bind(json(&service.wimse)?)
        .bind(json(&service.launch_by)?)
        .bind(json(&service.nodes)?)
        .bind(now.millis())
        .fetch_optional(&mut *tx)
        .await
        .map_err(StoreError::or_conflict(IDENTITY))?;
        let row = row.ok_or(StoreError::Conflict { what: IDENTITY })?;
        append(&mut tx, self.trust_domain(), records, now).await?;
        tx.commit().await?;
        entry(&Row("services", &row))
    }

    /// Gives each of the named services its modes, all of them or none, and records it. `lowered` says what comes back
    /// when; without it a floor that was lowered before stays as it is now.
    ///
    /// # Errors
    /// [`StoreError::Missing`] for a name without an entry; those of [`Db::append`]; any of the database's.
    pub async fn set_modes(
        &self,
        changes: &[(ServiceName, Modes, Option<Lowered>)],
        records: &[Record],
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for (name, modes, lowered) in changes {
            let done = sqlx::query(
                "UPDATE services SET accepts = $1, sends = $2, user_context = $3, wimse = $4, lowered_until = $5, \
                 lowered_from = $6, updated_at = $7 WHERE trust_domain = $8 AND name = $9",
            )
            .bind(json(&modes.accepts)?)
            .bind(json(&modes.sends)?)
            .bind(json(&modes.user_context)?)
            .bind(json(&modes.wimse)?)
            .bind(lowered.as_ref().map(|lowered| lowered.until.millis()))
            .bind(lowered.as_ref().map(|lowered| json(&lowered.from)).transpose()?)
            .bind(now.millis())
            .bind(self.domain())
            .bind(name.as_str())
            .execute(&mut *tx)
            .await?;
            if done.rows_affected() == 0 {
                return Err(StoreError::Missing { what: "service" });
            }
        }
        append(&mut tx, self.trust_domain(), records, now).await?;
        Ok(tx.commit().await?)
    }

    /// The entry of a short name.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn service(&self, name: &str) -> Result<Option<Service>, StoreError> {
        let row = sqlx::query("SELECT * FROM services WHERE trust_domain = $1 AND name = $2")
            .bind(self.domain())
            .bind(name)
            .fetch_optional(self.reader())
            .await?;
        row.as_ref().map(|row| entry(&Row("services", row))).transpose()
    }

    /// The entry of an identity.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn service_of(&self, spiffe_id: &SpiffeId) -> Result<Option<Service>, StoreError> {
        let row = sqlx::query("SELECT * FROM services WHERE trust_domain = $1 AND spiffe_id = $2")
            .bind(self.domain())
            .bind(spiffe_id.as_str())
            .fetch_optional(self.reader())
            .await?;
        row.as_ref().map(|row| entry(&Row("services", row))).transpose()
    }

    /// All entries by name, [`ROWS_MAX`] at most.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn services(&self) -> Result<Vec<Service>, StoreError> {
        let rows = sqlx::query("SELECT * FROM services WHERE trust_domain = $1 ORDER BY name LIMIT $2")
            .bind(self.domain())
            .bind(i64::from(ROWS_MAX))
            .fetch_all(self.reader())
            .await?;
        rows.iter().map(|row| entry(&Row("services", row))).collect()
    }
}

fn entry(row: &Row<'_>) -> Result<Service, StoreError> {
    Ok(Service {
        id: row.text("id")?,
        name: row.parsed("name")?,
        spiffe_id: row.parsed("spiffe_id")?,
        address: row.text("address")?,
        accepts: row.json("accepts")?,
        sends: row.json("sends")?,
        user_context: row.json("user_context")?,
        wimse: row.json("wimse")?,
        lowered: lowered(row)?,
        launch_by: row.json("launch_by")?,
        nodes: row.json("nodes")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

fn lowered(row: &Row<'_>) -> Result<Option<Lowered>, StoreError> {
    let Some(until) = row.time_or_none("lowered_until")? else { return Ok(None) };
    Ok(Some(Lowered { until, from: row.json("lowered_from")? }))
}

const IDENTITY: &str =
    "a service with this name and another identity, or with this identity and another name,";
