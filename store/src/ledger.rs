//! The ledger at rest: only ever appended to.
//!
//! The authority judges a writer's chain before it stores anything; this file gives every record its place in
//! the whole log and the hash of the log there, in the transaction of whatever the record tells of.

use countersign_identity::{DecisionId, TrustDomain, UnixTime};
use countersign_ledger::{BootId, CallBatch, Digest, Event, LogState, Record, SignedHead, Verdict};
use futures::TryStreamExt as _;
use serde::Deserialize;
use sqlx::AnyConnection;

use crate::row::{Row, signed};
use crate::{Db, ROWS_MAX, StoreError};

/// One event at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Place in the whole log, from 1.
    pub index: u64,
    /// The record, byte for byte as it came.
    pub record: Record,
    /// Hash of the whole log after it.
    pub log: Digest,
    /// When it was stored.
    pub stored_at: UnixTime,
    /// Kind of event, `certificate_signed`.
    pub kind: String,
    /// Its decision id, if it is about one.
    pub decision: Option<String>,
}

/// Which events are wanted; every condition that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerQuery {
    /// Only a greater index.
    pub after: u64,
    /// The newest `limit` of them instead of the oldest; the answer still goes upwards.
    pub newest: bool,
    /// [`ROWS_MAX`] at most; 0 is nothing.
    pub limit: u32,
    /// Kind of event. Calls that were allowed are decisions as well: `decision` is also the kind of their batches.
    pub kind: Option<String>,
    /// SPIFFE ID of the writer.
    pub writer: Option<String>,
    /// Of this decision, or a batch that holds it.
    pub decision: Option<DecisionId>,
    /// What was decided.
    pub verdict: Option<Verdict>,
    /// Stored at or after.
    pub since: Option<UnixTime>,
    /// Stored before.
    pub until: Option<UnixTime>,
}

impl Db {
    /// Appends records in their order. Those that are stored already are skipped, so a retry is harmless.
    ///
    /// # Errors
    /// [`StoreError::LedgerConflict`] when another event has the place of one of them; [`StoreError::NotFounded`];
    /// any of the database's.
    pub async fn append(&self, records: &[Record], now: UnixTime) -> Result<LogState, StoreError> {
        let mut tx = self.begin().await?;
        let state = append(&mut tx, self.trust_domain(), records, now).await?;
        tx.commit().await?;
        Ok(state)
    }

    /// Size and hash of the whole log.
    ///
    /// # Errors
    /// [`StoreError::NotFounded`]; any of the database's.
    pub async fn log_state(&self) -> Result<LogState, StoreError> {
        let row = sqlx::query("SELECT size, hash FROM ledger_state WHERE trust_domain = $1")
            .bind(self.domain())
            .fetch_optional(self.reader())
            .await?;
        state(&Row("ledger_state", &row.ok_or(StoreError::NotFounded)?))
    }

    /// The last record that is stored of a writer's start.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn last_of_writer(
        &self,
        writer: &countersign_identity::SpiffeId,
        boot: BootId,
    ) -> Result<Option<StoredRecord>, StoreError> {
        let row = sqlx::query(
            "SELECT * FROM ledger WHERE trust_domain = $1 AND writer = $2 AND boot = $3 \
             ORDER BY sequence DESC LIMIT 1",
        )
        .bind(self.domain())
        .bind(writer.as_str())
        .bind(boot.to_string())
        .fetch_optional(self.reader())
        .await?;
        row.as_ref().map(|row| stored(&Row("ledger", row))).transpose()
    }

    /// The events that a query names, by index, upwards: no more once they are [`EVENTS_BYTES_MAX`] long together.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn events(&self, query: &LedgerQuery) -> Result<Vec<StoredRecord>, StoreError> {
        let sql = if query.newest { EVENTS_NEWEST } else { EVENTS_OLDEST };
        let mut rows = sqlx::query(sql)
            .bind(self.domain())
            .bind(signed(query.after)?)
            .bind(query.kind.as_deref())
            .bind(query.writer.as_deref())
            .bind(query.decision.map(|id| id.to_string()))
            .bind(query.verdict.map(Verdict::as_str))
            .bind(query.since.map(UnixTime::millis))
            .bind(query.until.map(UnixTime::millis))
            .bind(i64::from(query.limit.min(ROWS_MAX)))
            .bind(query.decision.map(pattern))
            .fetch(self.reader());
        let (mut events, mut bytes) = (Vec::new(), 0);
        while bytes < EVENTS_BYTES_MAX
            && let Some(row) = rows.try_next().await?
        {
            let event = stored(&Row("ledger", &row))?;
            bytes += event.record.bytes.len();
            events.push(event);
        }
        if let Some(id) = query.decision {
            events.retain(|event| event.tells_of(id));
        }
        if query.newest {
            events.reverse();
        }
        Ok(events)
    }

    /// The event of a decision, or the batch that holds it: the first with its id, so that no later record can speak in
    /// its place. Takes a look at every batch before it, so that its time grows with the ledger.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn decision(&self, id: DecisionId) -> Result<Option<StoredRecord>, StoreError> {
        let row = sqlx::query(
            "SELECT * FROM ledger WHERE trust_domain = $1 AND decision = $2 ORDER BY idx LIMIT 1",
        )
        .bind(self.domain())
        .bind(id.to_string())
        .fetch_optional(self.reader())
        .await?;
        let alone = row.as_ref().map(|row| stored(&Row("ledger", row))).transpose()?;
        let before = alone.as_ref().map_or(i64::MAX.unsigned_abs(), |alone| alone.index);
        Ok(self.first_batch(id, before).await?.or(alone))
    }

    /// The first batch that holds a call with this id, of those at lower places than `before`.
    async fn first_batch(&self, id: DecisionId, before: u64) -> Result<Option<StoredRecord>, StoreError> {
        let mut after = 0;
        loop {
            let row = sqlx::query(
                "SELECT * FROM ledger WHERE trust_domain = $1 AND kind = $2 AND idx > $3 AND idx < $4 \
                 AND event LIKE $5 ORDER BY idx LIMIT 1",
            )
            .bind(self.domain())
            .bind(KIND_CALLS)
            .bind(signed(after)?)
            .bind(signed(before)?)
            .bind(pattern(id))
            .fetch_optional(self.reader())
            .await?;
            let Some(row) = row else { return Ok(None) };
            let batch = stored(&Row("ledger", &row))?;
            if batch.tells_of(id) {
                return Ok(Some(batch));
            }
            // The same characters by accident.
            after = batch.index;
        }
    }

    /// The newest decision about a request, of any verdict or of one; an allowed one may be a batch.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn last_decision(&self, verdict: Option<Verdict>) -> Result<Option<StoredRecord>, StoreError> {
        let kind = Some(KIND_DECISION.to_owned());
        let query = LedgerQuery { kind, verdict, newest: true, limit: 1, ..LedgerQuery::default() };
        Ok(self.events(&query).await?.pop())
    }

    /// Keeps a signed head of `size` events; a second one of the same size replaces the first.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn save_head(&self, head: &SignedHead, size: u64, now: UnixTime) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO ledger_heads (trust_domain, size, payload, kid, signature, signed_at) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (trust_domain, size) DO UPDATE SET \
             payload = excluded.payload, kid = excluded.kid, signature = excluded.signature, \
             signed_at = excluded.signed_at",
        )
        .bind(self.domain())
        .bind(signed(size)?)
        .bind(&head.payload)
        .bind(&head.kid)
        .bind(&head.signature)
        .bind(now.millis())
        .execute(self.writer())
        .await?;
        Ok(())
    }

    /// The signed head of the most events.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn latest_head(&self) -> Result<Option<SignedHead>, StoreError> {
        let row =
            sqlx::query("SELECT * FROM ledger_heads WHERE trust_domain = $1 ORDER BY size DESC LIMIT 1")
                .bind(self.domain())
                .fetch_optional(self.reader())
                .await?;
        row.as_ref()
            .map(|row| {
                let row = Row("ledger_heads", row);
                Ok(SignedHead {
                    payload: row.text("payload")?,
                    kid: row.text("kid")?,
                    signature: row.text("signature")?,
                })
            })
            .transpose()
    }
}

/// Appends inside the transaction of whatever the records tell of.
pub(crate) async fn append(
    tx: &mut AnyConnection,
    domain: &TrustDomain,
    records: &[Record],
    now: UnixTime,
) -> Result<LogState, StoreError> {
    let before = lock_state(tx, domain).await?;
    let mut log = before;
    for record in records {
        let mut next = log;
        next.append(record);
        if insert(tx, domain, record, &next, now).await? {
            log = next;
        } else {
            refuse_unless_same(tx, domain, record).await?;
        }
    }
    if log != before {
        sqlx::query("UPDATE ledger_state SET size = $2, hash = $3 WHERE trust_domain = $1")
            .bind(domain.as_str())
            .bind(signed(log.size())?)
            .bind(log.hash().to_string())
            .execute(tx)
            .await?;
    }
    Ok(log)
}

/// The state of an empty log.
pub(crate) async fn insert_state(tx: &mut AnyConnection, domain: &TrustDomain) -> Result<(), StoreError> {
    let log = LogState::empty(domain);
    sqlx::query("INSERT INTO ledger_state (trust_domain, size, hash) VALUES ($1, 0, $2)")
        .bind(domain.as_str())
        .bind(log.hash().to_string())
        .execute(tx)
        .await?;
    Ok(())
}

/// Reads the end of the log and holds its row until the transaction ends: one appender at a time.
async fn lock_state(tx: &mut AnyConnection, domain: &TrustDomain) -> Result<LogState, StoreError> {
    let row = sqlx::query("UPDATE ledger_state SET size = size WHERE trust_domain = $1 RETURNING size, hash")
        .bind(domain.as_str())
        .fetch_optional(tx)
        .await?;
    state(&Row("ledger_state", &row.ok_or(StoreError::NotFounded)?))
}

/// A retry of what is stored already is fine; another event at its place is not.
async fn refuse_unless_same(
    tx: &mut AnyConnection,
    domain: &TrustDomain,
    record: &Record,
) -> Result<(), StoreError> {
    let row = sqlx::query(
        "SELECT event, chain FROM ledger WHERE trust_domain = $1 AND writer = $2 AND boot = $3 AND sequence = $4",
    )
    .bind(domain.as_str())
    .bind(record.writer.as_str())
    .bind(record.boot.to_string())
    .bind(signed(record.sequence)?)
    .fetch_one(tx)
    .await?;
    let row = Row("ledger", &row);
    if row.text("event")?.as_bytes() == record.bytes && row.parsed::<Digest>("chain")? == record.chain {
        return Ok(());
    }
    Err(StoreError::LedgerConflict {
        writer: record.writer.to_string(),
        boot: record.boot.to_string(),
        sequence: record.sequence,
    })
}

/// Is it new? If another record has this place in the writer's chain, nothing is inserted.
async fn insert(
    tx: &mut AnyConnection,
    domain: &TrustDomain,
    record: &Record,
    log: &LogState,
    now: UnixTime,
) -> Result<bool, StoreError> {
    let text = storable(record)?;
    let facts = Facts::of(record);
    let done = sqlx::query(
        "INSERT INTO ledger (trust_domain, idx, writer, boot, sequence, event, chain, log, stored_at, kind, \
         decision, verdict) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
         ON CONFLICT (trust_domain, writer, boot, sequence) DO NOTHING",
    )
    .bind(domain.as_str())
    .bind(signed(log.size())?)
    .bind(record.writer.as_str())
    .bind(record.boot.to_string())
    .bind(signed(record.sequence)?)
    .bind(text)
    .bind(record.chain.to_string())
    .bind(log.hash().to_string())
    .bind(now.millis())
    .bind(facts.kind)
    .bind(facts.decision)
    .bind(facts.verdict)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

impl StoredRecord {
    fn tells_of(&self, id: DecisionId) -> bool {
        match self.record.entry().map(|entry| entry.event) {
            Ok(Event::AllowedCalls(batch)) => batch.find(id).is_some(),
            Ok(event) => event.decision() == Some(&id),
            Err(_) => false,
        }
    }
}

/// Matches every batch that holds this decision, and few others. Base64 has none of the characters that LIKE knows.
fn pattern(id: DecisionId) -> String {
    format!("%{}%", CallBatch::search_text(id))
}

/// JSON is text without NUL, and text is what both databases keep byte for byte.
fn storable(record: &Record) -> Result<&str, StoreError> {
    std::str::from_utf8(&record.bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
        .ok_or(StoreError::Unstorable { what: "a ledger record", why: "it is not JSON" })
}

/// What we search by. An event kind of a newer release keeps its kind and has no decision.
struct Facts {
    kind: String,
    decision: Option<String>,
    verdict: Option<&'static str>,
}

impl Facts {
    fn of(record: &Record) -> Facts {
        #[derive(Deserialize)]
        struct Tagged {
            event: Kind,
        }
        #[derive(Deserialize)]
        struct Kind {
            kind: String,
        }
        let kind = serde_json::from_slice::<Tagged>(&record.bytes)
            .map_or_else(|_| KIND_UNKNOWN.to_owned(), |tagged| tagged.event.kind);
        let event = record.entry().ok().map(|entry| entry.event);
        let decision = event.as_ref().and_then(Event::decision).map(ToString::to_string);
        let verdict = match &event {
            Some(Event::Decision(decision)) => Some(decision.verdict.as_str()),
            Some(Event::AdminCall { verdict, .. }) => Some(verdict.as_str()),
            Some(Event::AllowedCalls(_)) => Some(Verdict::Allow.as_str()),
            _ => None,
        };
        Facts { kind, decision, verdict }
    }
}

fn state(row: &Row<'_>) -> Result<LogState, StoreError> {
    Ok(LogState::at(row.number("size")?, row.parsed("hash")?))
}

fn stored(row: &Row<'_>) -> Result<StoredRecord, StoreError> {
    Ok(StoredRecord {
        index: row.number("idx")?,
        record: Record {
            writer: row.parsed("writer")?,
            boot: row.parsed("boot")?,
            sequence: row.number("sequence")?,
            bytes: row.text("event")?.into_bytes(),
            chain: row.parsed("chain")?,
        },
        log: row.parsed("log")?,
        stored_at: row.time("stored_at")?,
        kind: row.text("kind")?,
        decision: row.text_or_none("decision")?,
    })
}

macro_rules! events_by {
    ($order:literal) => {
        concat!(
            "SELECT * FROM ledger WHERE trust_domain = $1 AND idx > $2 ",
            "AND (CAST($3 AS TEXT) IS NULL OR kind = $3 ",
            "OR ($3 = 'decision' AND kind = 'allowed_calls')) AND (CAST($4 AS TEXT) IS NULL OR writer = $4) ",
            "AND (CAST($5 AS TEXT) IS NULL OR decision = $5 ",
            "OR (kind = 'allowed_calls' AND event LIKE $10)) AND (CAST($6 AS TEXT) IS NULL OR verdict = $6) ",
            "AND (CAST($7 AS BIGINT) IS NULL OR stored_at >= $7) ",
            "AND (CAST($8 AS BIGINT) IS NULL OR stored_at < $8) ORDER BY idx ",
            $order,
            " LIMIT $9"
        )
    };
}
const EVENTS_OLDEST: &str = events_by!("ASC");
const EVENTS_NEWEST: &str = events_by!("DESC");

/// When a search has found enough, whatever its limit.
pub const EVENTS_BYTES_MAX: usize = 4 << 20;
const KIND_DECISION: &str = "decision";
const KIND_CALLS: &str = "allowed_calls";
const KIND_UNKNOWN: &str = "unknown";
