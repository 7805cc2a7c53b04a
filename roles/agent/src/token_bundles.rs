//! Bundles of keys that verify JWT-SVIDs and WIT-SVIDs, by trust domain and one kind at a time (sections 6.2.2 and
//! 7.2.2 of the SPIFFE Workload API): a key of one kind never appears among those of the other.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use countersign_wire::snapshot::{Jwk, Snapshot, TokenAuthority};
use futures::Stream;
use futures::stream;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tonic::Status;

use crate::registry::Registered;
use crate::serve::{gone, starting};
use crate::snapshot::Held;

/// Which kind of tokens the keys sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SvidKind {
    /// JWT-SVID.md section 6.1.
    Jwt,
    /// WIT-SVID.md section 6.1.
    Wit,
}

/// JWK sets by the SPIFFE ID of their trust domain.
pub(crate) type Bundles = HashMap<String, String>;

/// All bundles at once, then all again whenever one changes.
pub(crate) fn feed<T: 'static>(
    held: Arc<Registered>,
    snapshots: watch::Receiver<Option<Arc<Held>>>,
    kind: SvidKind,
    form: fn(Bundles) -> T,
) -> Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>> {
    let feed = Feed { held, snapshots, kind, said: None, over: false };
    Box::pin(stream::unfold(feed, move |mut feed| async move {
        let next = feed.next().await?;
        Some((next.map(form), feed))
    }))
}

struct Feed {
    held: Arc<Registered>,
    snapshots: watch::Receiver<Option<Arc<Held>>>,
    kind: SvidKind,
    said: Option<Bundles>,
    over: bool,
}

impl Feed {
    async fn next(&mut self) -> Option<Result<Bundles, Status>> {
        if self.over {
            return None;
        }
        let outcome = self.news().await;
        self.over = outcome.is_err();
        Some(outcome)
    }

    async fn news(&mut self) -> Result<Bundles, Status> {
        loop {
            if self.held.gone.is_cancelled() {
                return Err(gone());
            }
            let now = self.snapshots.borrow_and_update().clone().ok_or_else(starting)?;
            let bundles = bundles(now.live.snapshot(), self.kind)?;
            if self.said.as_ref() != Some(&bundles) {
                self.said = Some(bundles.clone());
                return Ok(bundles);
            }
            tokio::select! {
                () = self.held.gone.cancelled() => {}
                changed = self.snapshots.changed() => changed.map_err(|_| starting())?,
            }
        }
    }
}

fn bundles(snapshot: &Snapshot, kind: SvidKind) -> Result<Bundles, Status> {
    let one = |authority: &TokenAuthority| {
        let (keys, usage) = match kind {
            SvidKind::Jwt => (&authority.jwt_svid, "jwt-svid"),
            SvidKind::Wit => (&authority.wit, "wit-svid"),
        };
        let keys = keys.iter().map(|jwk| with_use(jwk, usage)).collect::<Result<Vec<_>, _>>()?;
        Ok((format!("spiffe://{}", authority.trust_domain), json!({ "keys": keys }).to_string()))
    };
    snapshot.token_authorities.iter().map(one).collect()
}

/// Both standards demand a `use` of their own.
fn with_use(jwk: &Jwk, usage: &str) -> Result<Value, Status> {
    let unreadable = |_| Status::internal("a key of the snapshot cannot be read");
    let mut members: Map<String, Value> = serde_json::from_str(jwk.as_str()).map_err(unreadable)?;
    members.insert("use".to_owned(), usage.into());
    Ok(members.into())
}
