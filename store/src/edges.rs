//! Who calls whom: counters that only grow, with a logarithmic histogram of latency.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_identity::UnixTime;

use crate::row::{Row, signed};
use crate::{Db, ROWS_MAX, StoreError};

/// Buckets of a histogram: bucket i counts calls of less than 2^i microseconds and not less than 2^(i-1); the
/// last one also all longer ones (2^31 microseconds are 36 minutes).
pub const BUCKETS: usize = 32;

/// What distinguishes one edge from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeKey {
    /// SPIFFE ID of the caller, `user` or `stranger`.
    pub source: String,
    /// Short name of the callee.
    pub target: String,
    /// What the callee verified of the caller.
    pub mode: String,
    /// What stood for the user.
    pub user: String,
}

/// Calls on one edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Which edge.
    pub key: EdgeKey,
    /// Id of the policy that allowed the latest call; empty for none.
    pub policy: String,
    /// Calls, refused ones included.
    pub requests: u64,
    /// Refused calls.
    pub denied: u64,
    /// Latencies of the calls.
    pub latency: Histogram,
}

/// Latencies by powers of two of a microsecond.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram([u64; BUCKETS]);

impl Histogram {
    /// From counts per bucket; what lies beyond the last bucket counts in it.
    #[must_use]
    pub fn from_counts(counts: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for (bucket, count) in counts.iter().enumerate() {
            histogram.add(bucket, *count);
        }
        histogram
    }

    /// Counts per bucket.
    #[must_use]
    pub fn counts(&self) -> &[u64; BUCKETS] {
        &self.0
    }

    /// How many calls there are.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The latency that `share` (0 to 1) of the calls do not exceed: exact to its bucket, in between by the
    /// assumption that calls are spread evenly there. `None` without calls.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "an estimate, not a count"
    )]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let calls = self.calls();
        if calls == 0 {
            return None;
        }
        let wanted = (calls as f64 * share.clamp(0.0, 1.0)).max(1.0);
        let mut below = 0.0;
        for (bucket, count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            let here = *count as f64;
            if below + here >= wanted {
                let upper = 2_f64.powi(bucket as i32);
                let lower = if bucket == 0 { 0.0 } else { upper / 2.0 };
                return Some(Duration::from_secs_f64(
                    (lower + (upper - lower) * (wanted - below) / here) / 1e6,
                ));
            }
            below += here;
        }
        None
    }

    fn add(&mut self, bucket: usize, count: u64) {
        if let Some(slot) = self.0.get_mut(bucket.min(BUCKETS - 1)) {
            *slot = slot.saturating_add(count);
        }
    }
}

impl Db {
    /// Adds to the counters. A new edge is counted only while there are fewer than [`ROWS_MAX`], so callers
    /// cannot fill the table; returns how many edges were left out for that reason.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn add_edges(&self, edges: &[Edge], now: UnixTime) -> Result<u64, StoreError> {
        // One order for all writers: two transactions can wait for each other, never in a circle.
        let mut sorted: Vec<&Edge> = edges.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        let mut left_out = 0;
        let mut tx = self.begin().await?;
        for edge in sorted {
            let done = sqlx::query(UPSERT_EDGE)
                .bind(self.domain())
                .bind(&edge.key.source)
                .bind(&edge.key.target)
                .bind(&edge.key.mode)
                .bind(&edge.key.user)
                .bind(&edge.policy)
                .bind(signed(edge.requests)?)
                .bind(signed(edge.denied)?)
                .bind(now.millis())
                .bind(i64::from(ROWS_MAX))
                .execute(&mut *tx)
                .await?;
            if done.rows_affected() == 0 {
                left_out += 1;
                continue;
            }
            for (bucket, calls) in edge.latency.0.iter().enumerate().filter(|(_, calls)| **calls > 0) {
                sqlx::query(UPSERT_BUCKET)
                    .bind(self.domain())
                    .bind(&edge.key.source)
                    .bind(&edge.key.target)
                    .bind(&edge.key.mode)
                    .bind(&edge.key.user)
                    .bind(signed(bucket as u64)?)
                    .bind(signed(*calls)?)
                    .execute(&mut *tx)
                    .await?;
            }
        }
        tx.commit().await?;
        Ok(left_out)
    }

    /// All edges by key, [`ROWS_MAX`] at most.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn edges(&self) -> Result<Vec<Edge>, StoreError> {
        let rows = sqlx::query(
            "SELECT edges.*, COALESCE(edge_latency.bucket, 0) AS bucket, COALESCE(edge_latency.calls, 0) AS calls \
             FROM edges LEFT JOIN edge_latency ON edge_latency.trust_domain = edges.trust_domain \
             AND edge_latency.source = edges.source AND edge_latency.target = edges.target \
             AND edge_latency.mode = edges.mode AND edge_latency.user_proof = edges.user_proof \
             WHERE edges.trust_domain = $1 LIMIT $2",
        )
        .bind(self.domain())
        .bind(i64::from(ROWS_MAX) * BUCKETS as i64)
        .fetch_all(self.reader())
        .await?;
        let mut edges: BTreeMap<EdgeKey, Edge> = BTreeMap::new();
        for row in &rows {
            let row = Row("edges", row);
            let edge = edge(&row)?;
            let bucket = usize::try_from(row.number("bucket")?).map_err(|_| row.corrupt("bucket"))?;
            edges.entry(edge.key.clone()).or_insert(edge).latency.add(bucket, row.number("calls")?);
        }
        Ok(edges.into_values().collect())
    }
}

fn edge(row: &Row<'_>) -> Result<Edge, StoreError> {
    Ok(Edge {
        key: EdgeKey {
            source: row.text("source")?,
            target: row.text("target")?,
            mode: row.text("mode")?,
            user: row.text("user_proof")?,
        },
        policy: row.text("policy")?,
        requests: row.number("requests")?,
        denied: row.number("denied")?,
        latency: Histogram::default(),
    })
}

/// A sum that stops at the largest BIGINT. Counts are what a node says: PostgreSQL would refuse the sum and
/// SQLite make it a fraction, and either would end the counting for everybody.
macro_rules! sum {
    ($counter:literal, $more:literal) => {
        concat!(
            "CASE WHEN ",
            $counter,
            " > 9223372036854775807 - ",
            $more,
            " THEN 9223372036854775807 ELSE ",
            $counter,
            " + ",
            $more,
            " END"
        )
    };
}

/// The WHERE of the SELECT bounds new rows; an existing one is always found.
const UPSERT_EDGE: &str = concat!(
    "INSERT INTO edges (trust_domain, source, target, mode, user_proof, policy, requests, denied, updated_at) \
     SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 \
     WHERE (SELECT COUNT(*) FROM edges WHERE trust_domain = $1) < $10 OR EXISTS (SELECT 1 FROM edges \
     WHERE trust_domain = $1 AND source = $2 AND target = $3 AND mode = $4 AND user_proof = $5) \
     ON CONFLICT (trust_domain, source, target, mode, user_proof) DO UPDATE SET requests = ",
    sum!("edges.requests", "excluded.requests"),
    ", denied = ",
    sum!("edges.denied", "excluded.denied"),
    ", policy = CASE WHEN excluded.policy = '' THEN edges.policy ELSE excluded.policy END, \
     updated_at = excluded.updated_at"
);
const UPSERT_BUCKET: &str = concat!(
    "INSERT INTO edge_latency (trust_domain, source, target, mode, user_proof, bucket, calls) \
     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (trust_domain, source, target, mode, user_proof, bucket) \
     DO UPDATE SET calls = ",
    sum!("edge_latency.calls", "excluded.calls")
);
