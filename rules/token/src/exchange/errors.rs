//! Why an exchange is refused, and what OAuth calls it.

use countersign_identity::SpiffeId;

use crate::actors::ACTORS_MAX;

/// Why a token does not become another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// The subject token was taken back.
    #[error("the subject token was revoked; nothing comes of it any more")]
    SubjectRevoked,
    /// The subject token is over.
    #[error("the subject token expired {by_seconds} s ago; get a new one")]
    SubjectExpired {
        /// How long ago.
        by_seconds: u64,
    },
    /// The actor token is over.
    #[error("the actor token of {actor} has expired; get a new one")]
    ActorExpired {
        /// Whose it is.
        actor: SpiffeId,
    },
    /// The subject token is for somebody else.
    #[error("the subject token is not for {client}; only the one whom a token is for may exchange it")]
    NotForClient {
        /// Who asks.
        client: SpiffeId,
    },
    /// The subject token names who may act, and this is somebody else.
    #[error("{actor} may not act with the subject token; its may_act names others")]
    MayNotAct {
        /// Who wants to.
        actor: SpiffeId,
    },
    /// More words than the subject token has.
    #[error("the scope {scope:?} is wider than that of the subject token; ask for less")]
    WiderScope {
        /// What was asked for.
        scope: String,
    },
    /// Nobody, or somebody whom no token of this kind can be for.
    #[error("no token of this kind can be issued for {target:?}; name one callee, or this trust domain")]
    WrongTarget {
        /// Who was asked for.
        target: String,
    },
    /// A workload's token does not become a user's.
    #[error("the subject token is a workload's, and a workload never becomes a user")]
    WorkloadIsNoUser,
    /// A user's token does not become a workload's.
    #[error("the subject token is a user's, and a user never becomes a workload")]
    UserIsNoWorkload,
    /// A JWT-SVID of another trust domain.
    #[error("{subject} belongs to another trust domain, whose own authority issues its JWT-SVIDs")]
    ForeignWorkload {
        /// Whose it would be.
        subject: SpiffeId,
    },
    /// Nobody but the client vouches for the subject.
    #[error("the subject is only stated by the client; that is good for a transaction token alone")]
    StatedSubject,
    /// A transaction token is passed on as it is.
    #[error("the subject token is a transaction token already; pass it on as it is")]
    AlreadyTxnToken,
    /// A workload's own token has no actors.
    #[error("a JWT-SVID is a workload's own: nobody acts for a workload, leave the actor token out")]
    NobodyToActFor,
    /// Too many have acted.
    #[error("more than {ACTORS_MAX} workloads would have acted for the user; shorten the chain of calls")]
    ChainTooLong,
}

impl ExchangeError {
    /// The error code of the token endpoint (RFC 6749 section 5.2, RFC 8693 section 2.2.2). A subject token that is
    /// not acceptable is `invalid_request`.
    #[must_use]
    pub fn oauth_code(&self) -> &'static str {
        match self {
            Self::WiderScope { .. } => "invalid_scope",
            Self::WrongTarget { .. } => "invalid_target",
            Self::SubjectRevoked
            | Self::SubjectExpired { .. }
            | Self::ActorExpired { .. }
            | Self::NotForClient { .. }
            | Self::MayNotAct { .. }
            | Self::WorkloadIsNoUser
            | Self::UserIsNoWorkload
            | Self::ForeignWorkload { .. }
            | Self::StatedSubject
            | Self::AlreadyTxnToken
            | Self::NobodyToActFor
            | Self::ChainTooLong => "invalid_request",
        }
    }
}
