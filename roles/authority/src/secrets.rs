//! What each callee verifies tokens with. Every key is derived for one callee alone: whoever reads the memory of one
//! learns nothing with which to speak to another, and a callee can forge only towards itself.

use std::{future::ready, sync::Arc, time::Duration};

use countersign_identity::SpiffeId;
use countersign_keys::{Secret, domain, hmac_sha256};
use countersign_sdk::clock;
use countersign_store::StoreError;
use countersign_wire::agent::{BearerEntry, MacaroonKey, SecretsResponse};
use futures::{Stream, StreamExt as _};
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

use crate::{keys::Keys, state::Authority};

/// How long an answer waits for callees to know what it holds.
pub(crate) const KNOWN_WITHIN: Duration = Duration::from_secs(2);

/// The root key of macaroons for `callee` under the newest version, and what macaroons call that version.
pub(crate) fn newest_macaroon_key(keys: &Keys, callee: &SpiffeId) -> Option<(String, Secret<[u8; 32]>)> {
    macaroon_keys(keys, callee).next()
}

/// The key under which bearer tokens are hashed for `callee`.
pub(crate) fn bearer_key(keys: &Keys, callee: &SpiffeId) -> Secret<[u8; 32]> {
    derived(&keys.bearer_hash, "bearer-key", callee)
}

/// All that `callee` must hold: at once, then again after each change.
pub(crate) fn feed(
    authority: Arc<Authority>,
    callee: SpiffeId,
) -> impl Stream<Item = Result<SecretsResponse, Status>> + Send {
    let changes = WatchStream::new(authority.secrets.subscribe());
    let end = authority.shutdown.clone().cancelled_owned();
    let mut said: Option<SecretsResponse> = None;
    changes
        .then(move |_| {
            let (authority, callee) = (Arc::clone(&authority), callee.clone());
            async move { of(&authority, &callee).await }
        })
        .filter_map(move |now| {
            ready(match now {
                Ok(now) if said.as_ref().is_some_and(|said| says_the_same(said, &now)) => None,
                Ok(now) => {
                    said = Some(now.clone());
                    Some(Ok(now))
                }
                Err(error) => {
                    tracing::error!(%error, "a callee's secrets could not be read");
                    Some(Err(Status::unavailable("the authority cannot do this now: try again")))
                }
            })
        })
        .take_until(end)
}

/// Tells every open stream to look again.
pub(crate) fn changed(authority: &Authority) {
    authority.secrets.send_modify(|turn| *turn = turn.wrapping_add(1));
}

/// Waits until all of `callees` that hold secrets hold those of `generation` (as the store counts), for
/// [`KNOWN_WITHIN`] at most: the first call with a new token should not be the one that fails.
pub(crate) async fn known_to(authority: &Authority, callees: &[SpiffeId], generation: u64) {
    let mut news = authority.applied.subscribe();
    let knows = |callee: &SpiffeId| {
        let ack = authority.applied.of(callee, clock::now());
        // Zero says that it holds none: it will get the newest when it asks for the first time.
        ack.is_none_or(|ack| ack.secrets == 0 || ack.secrets >= on_the_wire(generation))
    };
    let all = async {
        while !callees.iter().all(knows) {
            if news.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(KNOWN_WITHIN, all).await.is_err() {
        tracing::warn!(generation, "a callee does not hold a new token's entry yet; its owner has the token");
    }
}

async fn of(authority: &Authority, callee: &SpiffeId) -> Result<SecretsResponse, StoreError> {
    let (generation, hashes) = authority.db.bearers_at(callee, clock::now()).await?;
    let keys = authority.keys.load();
    let macaroon_keys = macaroon_keys(&keys, callee)
        .map(|(id, key)| MacaroonKey { id, key: key.expose().to_vec() })
        .collect();
    let entry = |hash: countersign_store::bearer::BearerHash| BearerEntry {
        id: hash.id,
        hash: hash.hash,
        owner: hash.owner.to_string(),
        expires_at_ms: hash.expires_at.millis(),
    };
    Ok(SecretsResponse {
        generation: on_the_wire(generation),
        macaroon_keys,
        bearer_key: bearer_key(&keys, callee).expose().to_vec(),
        bearer: hashes.into_iter().map(entry).collect(),
    })
}

pub(crate) fn macaroon_keys<'k>(
    keys: &'k Keys,
    callee: &'k SpiffeId,
) -> impl Iterator<Item = (String, Secret<[u8; 32]>)> + 'k {
    let of_version = |(version, root): &'k (u32, Secret<[u8; 32]>)| {
        (format!("k{version}"), derived(root, "macaroon-key", callee))
    };
    keys.macaroon_roots.iter().map(of_version)
}

fn derived(root: &Secret<[u8; 32]>, purpose: &str, callee: &SpiffeId) -> Secret<[u8; 32]> {
    Secret::new(hmac_sha256(root.expose(), &domain(purpose, callee.as_str().as_bytes())))
}

/// Zero means nothing at all, so the wire is one ahead of the store.
fn on_the_wire(generation: u64) -> u64 {
    generation.saturating_add(1)
}

fn says_the_same(said: &SecretsResponse, now: &SecretsResponse) -> bool {
    said.bearer == now.bearer && said.macaroon_keys == now.macaroon_keys && said.bearer_key == now.bearer_key
}
