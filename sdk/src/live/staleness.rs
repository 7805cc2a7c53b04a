//! What still counts when the authority is not heard: its last word on who is revoked grows old.

use std::time::Duration;

use countersign_pki::verify::CrlPolicy;
use serde::Deserialize;

/// How old the news of revocations may be. One for each service, by name: nothing is soft by accident.
///
/// | | snapshot past its `valid_until` | no current revocation list of an issuer |
/// |---|---|---|
/// | `refuse` | nobody is let in | the handshake is refused |
/// | `grace` | counts for `grace_s` more, then as above | the handshake is refused |
/// | `accept_insecure` | counts for ever | the certificate is believed, unless an old list has it |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Staleness {
    /// What becomes of requests.
    pub when_stale: WhenStale,
    /// Of `grace` alone: from the end of the snapshot's validity, in seconds.
    pub grace_s: u64,
}

/// What becomes of requests once a snapshot is past its `valid_until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenStale {
    /// They are refused at once: hard fail.
    Refuse,
    /// They are refused after a while.
    #[default]
    Grace,
    /// They go on: soft fail. Who is revoked from now on is let in until the authority is heard again.
    AcceptInsecure,
}

impl Default for Staleness {
    fn default() -> Self {
        Self { when_stale: WhenStale::Grace, grace_s: STALE_GRACE.as_secs() }
    }
}

impl Staleness {
    /// How long a snapshot counts past its end; `None` is for ever.
    #[must_use]
    pub const fn grace(&self) -> Option<Duration> {
        match self.when_stale {
            WhenStale::Refuse => Some(Duration::ZERO),
            WhenStale::Grace => Some(Duration::from_secs(self.grace_s)),
            WhenStale::AcceptInsecure => None,
        }
    }

    /// What a missing or expired revocation list means.
    #[must_use]
    pub const fn lists(&self) -> CrlPolicy {
        match self.when_stale {
            WhenStale::Refuse | WhenStale::Grace => CrlPolicy::Require,
            WhenStale::AcceptInsecure => CrlPolicy::AcceptMissing,
        }
    }
}

/// How long a snapshot still counts after its `valid_until`, where nobody says anything else.
pub const STALE_GRACE: Duration = Duration::from_mins(10);
