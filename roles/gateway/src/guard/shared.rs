//! Limits that several gateways share, in a Redis or Valkey server. One script takes from a bucket, by the server's
//! clock, so that two gateways never both take the last one. The server is asked with a short timeout; what happens when
//! it does not answer is a setting.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::UnixTime;
use countersign_keys::sha256;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Script};
use schemars::JsonSchema;
use serde::Deserialize;

/// `[gateway.shared_limits]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedLimitSettings {
    /// A file with the server's URL, `redis://[user:password@]host:port/database` or `unix:///path`.
    pub url_file: PathBuf,
    /// How long one question may take, in milliseconds.
    #[serde(default = "fifty")]
    pub timeout_ms: NonZeroU32,
    /// What counts while the server does not answer.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// What counts while the server of shared limits does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Each gateway counts alone.
    #[default]
    Local,
    /// Requests that are limited get 503.
    Refuse,
}

/// Why the settings of shared limits cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharedLimitsError {
    /// The file cannot be read.
    #[error("cannot read {path}: {why}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        why: String,
    },
    /// It holds no such URL. What it holds may be a secret.
    #[error("{path} holds no url of a Redis server; write redis://host:port")]
    Url {
        /// The file.
        path: String,
    },
}

/// A bucket's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Taken {
        left: u32,
    },
    Exceeded {
        retry_after: Duration,
    },
    /// The server did not answer: this counts now.
    Unknown(OnFailure),
}

/// The buckets of all gateways.
pub(crate) struct SharedLimits {
    connection: ConnectionManager,
    script: Script,
    timeout: Duration,
    on_failure: OnFailure,
    /// Until then nobody waits for a server that did not answer.
    down_until: Mutex<Option<UnixTime>>,
}

impl SharedLimits {
    /// Connects with the first question.
    pub(crate) fn new(settings: &SharedLimitSettings) -> Result<Self, SharedLimitsError> {
        let path = || settings.url_file.display().to_string();
        let unreadable =
            |error: std::io::Error| SharedLimitsError::Unreadable { path: path(), why: error.to_string() };
        let url = std::fs::read_to_string(&settings.url_file).map_err(unreadable)?;
        let refused = |_| SharedLimitsError::Url { path: path() };
        let client = Client::open(url.trim()).map_err(refused)?;
        let timeout = Duration::from_millis(settings.timeout_ms.get().into());
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        let connection = ConnectionManager::new_lazy_with_config(client, config).map_err(refused)?;
        let (script, on_failure) = (Script::new(TAKE), settings.on_failure);
        Ok(SharedLimits { connection, script, timeout, on_failure, down_until: Mutex::default() })
    }

    /// Takes one from the bucket of this name, which holds `burst` and gets one more after each `every`.
    pub(crate) async fn take(
        &self,
        bucket: &str,
        every: Duration,
        burst: NonZeroU32,
        now: UnixTime,
    ) -> Verdict {
        if self.down().is_some_and(|until| now < until) {
            return Verdict::Unknown(self.on_failure);
        }
        // Names of users are nobody's business there, and keys of one length are cheap.
        let key = format!("countersign:limit:{}", URL_SAFE_NO_PAD.encode(sha256(bucket.as_bytes())));
        let mut connection = self.connection.clone();
        let mut asked = self.script.key(key);
        asked.arg(u64::try_from(every.as_micros()).unwrap_or(u64::MAX)).arg(burst.get());
        let answer =
            tokio::time::timeout(self.timeout, asked.invoke_async::<(u8, u64, u32)>(&mut connection)).await;
        let why = match answer {
            Ok(Ok((1, _, left))) => return self.answered(Verdict::Taken { left }),
            Ok(Ok((_, wait_us, _))) => {
                return self.answered(Verdict::Exceeded { retry_after: Duration::from_micros(wait_us) });
            }
            Ok(Err(error)) => error.category().to_owned(),
            Err(_) => format!("no answer within {} ms", self.timeout.as_millis()),
        };
        let mut down = self.down_until.lock().unwrap_or_else(PoisonError::into_inner);
        if down.is_none() {
            tracing::error!(why, on_failure = ?self.on_failure, "shared limits cannot be asked");
        }
        *down = Some(now.saturating_add(DOWN_FOR));
        metrics::counter!("countersign_shared_limits_failures_total").increment(1);
        Verdict::Unknown(self.on_failure)
    }

    fn answered(&self, verdict: Verdict) -> Verdict {
        let mut down = self.down_until.lock().unwrap_or_else(PoisonError::into_inner);
        if down.take().is_some() {
            tracing::info!("shared limits answer again");
        }
        verdict
    }

    fn down(&self) -> Option<UnixTime> {
        *self.down_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fifty() -> NonZeroU32 {
    NonZeroU32::new(50).unwrap_or(NonZeroU32::MIN)
}

/// After a failure the next question is asked this much later.
const DOWN_FOR: Duration = Duration::from_secs(1);

/// The generic cell rate algorithm in microseconds. What is kept is when the bucket will be full again, and only until then.
const TAKE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local every, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now) + every
local wait = full - every * burst - now
if wait > 0 then return {0, math.ceil(wait), 0} end
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
return {1, 0, math.floor((every * burst - (full - now)) / every)}
";
