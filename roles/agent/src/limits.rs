//! How much one process may ask of the agent.

use std::num::NonZeroU32;

use countersign_policy::Quota;
use countersign_sdk::clock;
use tonic::Status;

use crate::attest::ProcessKey;
use crate::socket::CONNECTIONS_MAX;

/// Calls of any kind.
const CALLS_PER_SECOND: NonZeroU32 = number(50);
const CALLS_BURST: NonZeroU32 = number(200);
/// Certificates: one per start and per half life is what an honest process needs.
const CERTIFICATES_PER_MINUTE: NonZeroU32 = number(30);
const CERTIFICATES_BURST: NonZeroU32 = number(30);
/// Tokens: one per callee and half life; those of the SPIFFE Workload API are remembered besides.
const TOKENS_PER_MINUTE: NonZeroU32 = number(120);
const TOKENS_BURST: NonZeroU32 = number(120);
/// Processes that are counted at one time.
const PROCESSES_MAX: usize = 4 * CONNECTIONS_MAX;

/// One bucket per process and kind.
pub(crate) struct Limits {
    calls: Quota<ProcessKey>,
    certificates: Quota<ProcessKey>,
    tokens: Quota<ProcessKey>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            calls: Quota::per_second(CALLS_PER_SECOND, CALLS_BURST, PROCESSES_MAX),
            certificates: Quota::per_minute(CERTIFICATES_PER_MINUTE, CERTIFICATES_BURST, PROCESSES_MAX),
            tokens: Quota::per_minute(TOKENS_PER_MINUTE, TOKENS_BURST, PROCESSES_MAX),
        }
    }
}

impl Limits {
    /// Counts a call.
    pub(crate) fn call(&self, process: ProcessKey) -> Result<(), Status> {
        self.calls.check(&process, clock::now()).map_err(|e| Status::resource_exhausted(e.to_string()))
    }

    /// Counts a certificate.
    pub(crate) fn certificate(&self, process: ProcessKey) -> Result<(), Status> {
        self.certificates.check(&process, clock::now()).map_err(|e| Status::resource_exhausted(e.to_string()))
    }

    /// Counts a token.
    pub(crate) fn token(&self, process: ProcessKey) -> Result<(), Status> {
        self.tokens.check(&process, clock::now()).map_err(|e| Status::resource_exhausted(e.to_string()))
    }
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Limits(..)")
    }
}

const fn number(n: u32) -> NonZeroU32 {
    match NonZeroU32::new(n) {
        Some(n) => n,
        None => NonZeroU32::MIN,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_that_asks_too_much_is_refused_and_others_are_not() {
        let limits = Limits::default();
        let key = |pid| ProcessKey { pid, start_time: 1 };
        let refused = (0..2 * CALLS_BURST.get()).filter_map(|_| limits.call(key(1)).err()).next().unwrap();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(limits.call(key(2)).is_ok());
        let refused =
            (0..2 * CERTIFICATES_BURST.get()).filter_map(|_| limits.certificate(key(1)).err()).next();
        assert_eq!(refused.unwrap().code(), tonic::Code::ResourceExhausted);
        let refused = (0..2 * TOKENS_BURST.get()).filter_map(|_| limits.token(key(1)).err()).next();
        assert_eq!(refused.unwrap().code(), tonic::Code::ResourceExhausted);
        assert!(limits.token(key(2)).is_ok());
    }
}
