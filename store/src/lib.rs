//! Where the authority's state is kept: SQLite on one machine, PostgreSQL for many authorities. The only SQL of
//! the system, one set of it for both.
//!
//! What these files promise:
//! - **What was acknowledged survives.** A writing connection that is not durable (`synchronous=FULL`,
//!   `synchronous_commit=on`, read back from the database itself) is refused when it is made.
//! - **What happened is recorded with it.** Every change that matters takes the ledger records that tell of
//!   it, and both commit in one transaction or not at all.
//! - **Once means once.** Single-use rows are consumed by a conditional UPDATE, counters are increased inside
//!   the database, numbers of snapshots and revocation lists only grow.
//! - **Trust domains never mix.** The trust domain is part of every key; a [`Db`] speaks for exactly one.
//! - **Answers are bounded.** Every listing has a limit; see [`ROWS_MAX`].
//!
//! Private keys arrive sealed and leave sealed; passwords arrive hashed; join tokens are kept as hashes.
//!
//! One file per column: [`meta`], [`keys`], [`certificates`], [`services`], [`nodes`], [`users`],
//! [`policies`], [`revoked`], [`token_keys`], [`ledger`], [`edges`], [`federation`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use countersign_identity::TrustDomain;
//! use countersign_store::Db;
//!
//! let home = TrustDomain::parse("fleamarket.test")?;
//! let db = Db::open_sqlite("authority/authority.db".as_ref(), &home).await?;
//! for service in db.services().await? {
//!     tracing_would_say(&service.name);
//! }
//! # fn tracing_would_say(_: &countersign_identity::ServiceName) {}
//! # Ok(()) }
//! ```

pub mod bearer;
pub mod certificates;
pub mod edges;
pub mod federation;
pub mod issued_tokens;
pub mod keys;
pub mod ledger;
pub mod meta;
pub mod nodes;
pub mod policies;
pub mod revoked;
pub mod services;
pub mod token_keys;
pub mod users;
pub mod workload_keys;

mod db;
mod error;
mod row;

pub use db::{Db, Durability, Kind};
pub use error::StoreError;

/// Rows that one call returns at most, whatever was asked for.
pub const ROWS_MAX: u32 = 10_000;
