//! Keys that an issuer publishes where its metadata says (OpenID Connect Discovery 1.0 section 4).

use std::sync::Arc;
use std::time::Duration;

use countersign_keys::JwkSet;
use serde::Deserialize;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use super::IssuerError;
use super::fetch::{FetchError, Fetcher};
use super::settings::IssuerSettings;
use crate::https;

/// Where an issuer's keys are found, and how often that is asked.
pub(super) struct Published {
    issuer: String,
    fetcher: Fetcher,
    /// Keys are asked for again after this long.
    pub(super) refresh: Duration,
    /// Keys that could not be asked for again count for this long.
    pub(super) age_max: Duration,
    /// Between two questions for the sake of requests: strangers invent names of keys.
    pub(super) pause: Duration,
    /// When it was asked last. Held while asking, so that a crowd asks once.
    last_try: Arc<Mutex<Option<Instant>>>,
}

/// The right to ask: as long as it lives, nobody else does.
pub(super) struct Turn {
    _asking: OwnedMutexGuard<Option<Instant>>,
}

/// Why a request does not ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoTurn {
    /// Somebody else asked in the meantime.
    ByAnother,
    /// It was asked a moment ago.
    TooSoon,
}

/// The members that count here.
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

impl Published {
    pub(super) fn new(settings: &IssuerSettings) -> Result<Self, IssuerError> {
        let issuer = settings.issuer.clone();
        let ages = settings.refresh_s..=settings.keys_age_max_s;
        if *ages.start() < REFRESH_S_MIN || ages.is_empty() || *ages.end() > AGE_MAX_S {
            return Err(IssuerError::Ages { issuer });
        }
        let roots = |why| IssuerError::Roots { issuer: issuer.clone(), why };
        let believed = https::roots(settings.ca.as_deref()).map_err(roots)?;
        let fetcher = Fetcher::new(&believed, settings.insecure_http_issuer_on_loopback).map_err(roots)?;
        Ok(Published {
            issuer,
            fetcher,
            refresh: Duration::from_secs(settings.refresh_s),
            age_max: Duration::from_secs(settings.keys_age_max_s),
            pause: Duration::from_secs(settings.unknown_key_pause_s.get().into()),
            last_try: Arc::default(),
        })
    }

    /// For a request: the right to ask, unless somebody does or just did. Waits no longer than one question takes.
    pub(super) async fn turn(&self) -> Result<Turn, NoTurn> {
        let Ok(last) = Arc::clone(&self.last_try).try_lock_owned() else {
            // Whoever waited for another's answer has it now.
            drop(self.last_try.lock().await);
            return Err(NoTurn::ByAnother);
        };
        match last.is_some_and(|last| last.elapsed() < self.pause) {
            true => Err(NoTurn::TooSoon),
            false => Ok(Turn::begin(last)),
        }
    }

    /// For whoever keeps the keys new: as soon as nobody else asks, whatever requests did before.
    pub(super) async fn next_turn(&self) -> Turn {
        Turn::begin(Arc::clone(&self.last_try).lock_owned().await)
    }

    /// Asks for the keys.
    pub(super) async fn keys(&self, _turn: &Turn) -> Result<JwkSet, FetchError> {
        let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let metadata: Metadata = serde_json::from_slice(&self.fetcher.get(&url).await?)
            .map_err(|error| FetchError::Metadata { url: url.clone(), why: error.to_string() })?;
        // Byte for byte (section 4.3): else one provider could speak for another.
        if metadata.issuer != self.issuer {
            return Err(FetchError::OtherIssuer { url, got: metadata.issuer });
        }
        let url = metadata.jwks_uri;
        let set = JwkSet::read(&self.fetcher.get(&url).await?);
        set.map_err(|source| FetchError::Keys { url, source })
    }
}

impl Turn {
    fn begin(mut last: OwnedMutexGuard<Option<Instant>>) -> Self {
        *last = Some(Instant::now());
        Turn { _asking: last }
    }
}

const REFRESH_S_MIN: u64 = 30;
/// A week.
const AGE_MAX_S: u64 = 7 * 24 * 3600;
