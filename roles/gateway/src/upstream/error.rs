//! Why an upstream gave no answer. Each message names the upstream, the endpoint, what failed, and what to try.

use countersign_sdk::tls::HandshakeError;
use countersign_wire::codes::Code;

/// Why a request to an upstream has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// Discovery found none, or none is well.
    #[error("upstream {upstream} has no usable endpoint: {why}")]
    NoEndpoint {
        /// Name of the upstream.
        upstream: String,
        /// What is known of them, and what to try.
        why: String,
    },
    /// A setting of `breaker` is reached.
    #[error(
        "upstream {upstream} is full at {endpoint}: breaker.{setting} = {limit}; add endpoints, or raise it if they can bear more"
    )]
    Full {
        /// Name of the upstream.
        upstream: String,
        /// The least loaded endpoint.
        endpoint: String,
        /// Which setting.
        setting: &'static str,
        /// Its value.
        limit: u32,
    },
    /// No connection.
    #[error(
        "upstream {upstream}: nobody can be reached at {endpoint}: {why}; is it running, and is this its address?"
    )]
    Unreachable {
        /// Name of the upstream.
        upstream: String,
        /// Where.
        endpoint: String,
        /// What the system says.
        why: String,
    },
    /// No connection in time, or none was free.
    #[error(
        "upstream {upstream}: no connection to {endpoint} within timeouts.connect_ms = {after_ms}; look for a firewall, or a stalled TLS handshake"
    )]
    ConnectTimedOut {
        /// Name of the upstream.
        upstream: String,
        /// Where.
        endpoint: String,
        /// The limit.
        after_ms: u64,
    },
    /// Whoever answers is not whom we expect, or TLS failed.
    #[error("upstream {upstream}: {endpoint} was not accepted {met}")]
    Identity {
        /// Name of the upstream.
        upstream: String,
        /// Where.
        endpoint: String,
        /// Whom we expected and whom we met.
        met: Box<Met>,
    },
    /// It took no more of the request, and did not begin to answer.
    #[error(
        "upstream {upstream}: {endpoint} did not answer within timeouts.answer_ms = {after_ms}; look at its log, or raise the limit"
    )]
    AnswerTimedOut {
        /// Name of the upstream.
        upstream: String,
        /// Where.
        endpoint: String,
        /// The limit.
        after_ms: u64,
    },
    /// All tries together took too long.
    #[error("upstream {upstream} did not answer within timeouts.whole_ms = {after_ms}, all tries together")]
    TookTooLong {
        /// Name of the upstream.
        upstream: String,
        /// The limit.
        after_ms: u64,
    },
    /// The connection ended before the answer began.
    #[error(
        "upstream {upstream}: the connection to {endpoint} broke before an answer: {why}; look at its log"
    )]
    Broken {
        /// Name of the upstream.
        upstream: String,
        /// Where.
        endpoint: String,
        /// What the HTTP library says.
        why: String,
    },
    /// What came back cannot be read as one HTTP answer.
    #[error(
        "upstream {upstream}: {endpoint} does not answer in {protocol}: {why}; set http2 as the upstream speaks"
    )]
    NotHttp {
        /// Name of the upstream.
        upstream: String,
        /// Where.
        endpoint: String,
        /// What was expected.
        protocol: &'static str,
        /// What the HTTP library says.
        why: String,
    },
}

/// Somebody at the address of an endpoint who was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("as {expected}: {source}; it presented {presented}; {hint}")]
pub struct Met {
    /// Whom the configuration names.
    pub expected: String,
    /// Which name its certificate has, proven or not.
    pub presented: String,
    /// Which check failed.
    pub source: HandshakeError,
    /// What to try.
    pub hint: &'static str,
}

impl UpstreamError {
    /// Its row of the registry.
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::NoEndpoint { .. } => Code::UpstreamDown,
            Self::Full { .. } => Code::UpstreamFull,
            Self::Unreachable { .. } | Self::Broken { .. } => Code::UpstreamUnreachable,
            Self::ConnectTimedOut { .. } | Self::AnswerTimedOut { .. } | Self::TookTooLong { .. } => {
                Code::UpstreamTimeout
            }
            Self::Identity { .. } => Code::UpstreamIdentity,
            Self::NotHttp { .. } => Code::UpstreamProtocol,
        }
    }

    /// Seconds after which the same request may succeed, where waiting helps.
    pub(crate) const fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::NoEndpoint { .. } | Self::Full { .. } => Some(1),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use countersign_sdk::tls::HandshakeRefusal;

    use super::*;

    /// One of each, with its status and what it tells besides upstream and endpoint.
    fn each() -> Vec<(UpstreamError, u16, &'static str)> {
        let (upstream, endpoint, why) =
            (|| "backend".to_owned(), || "10.0.0.7:9000".to_owned(), || "why".to_owned());
        let source: HandshakeError = HandshakeRefusal::NoPossession.into();
        vec![
            (
                UpstreamError::NoEndpoint { upstream: upstream(), why: "10.0.0.7:9000 is away".into() },
                503,
                "is away",
            ),
            (
                UpstreamError::Full {
                    upstream: upstream(),
                    endpoint: endpoint(),
                    setting: "requests_max",
                    limit: 7,
                },
                503,
                "breaker.requests_max = 7",
            ),
            (
                UpstreamError::Unreachable { upstream: upstream(), endpoint: endpoint(), why: why() },
                502,
                "is it running",
            ),
            (
                UpstreamError::ConnectTimedOut { upstream: upstream(), endpoint: endpoint(), after_ms: 7 },
                504,
                "timeouts.connect_ms = 7",
            ),
            (
                UpstreamError::Identity {
                    upstream: upstream(),
                    endpoint: endpoint(),
                    met: Box::new(Met {
                        expected: "spiffe://a/b".into(),
                        presented: "spiffe://a/c".into(),
                        source,
                        hint: "find out who listens there",
                    }),
                },
                502,
                "it presented spiffe://a/c; find out who listens there",
            ),
            (
                UpstreamError::AnswerTimedOut { upstream: upstream(), endpoint: endpoint(), after_ms: 7 },
                504,
                "timeouts.answer_ms = 7",
            ),
            (
                UpstreamError::Broken { upstream: upstream(), endpoint: endpoint(), why: why() },
                502,
                "look at its log",
            ),
            (
                UpstreamError::NotHttp {
                    upstream: upstream(),
                    endpoint: endpoint(),
                    protocol: "HTTP/2",
                    why: why(),
                },
                502,
                "set http2 as the upstream speaks",
            ),
        ]
    }

    #[test]
    fn every_refusal_names_the_upstream_the_endpoint_and_what_to_try() {
        for (error, status, says) in each() {
            assert_eq!(error.code().status(), status, "{error}");
            let text = error.to_string();
            for part in ["upstream backend", "10.0.0.7:9000", says] {
                assert!(text.contains(part), "{part} is not in: {text}");
            }
        }
        let late = UpstreamError::TookTooLong { upstream: "backend".into(), after_ms: 7 };
        assert_eq!(late.code().status(), 504);
        assert!(late.to_string().contains("timeouts.whole_ms = 7"), "{late}");
    }

    #[test]
    fn only_where_waiting_helps_is_it_advised() {
        for (error, status, _) in each() {
            assert_eq!(error.retry_after_s().is_some(), status == 503, "{error}");
        }
    }
}
