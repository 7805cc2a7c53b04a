//! For how long what goes on in a user's name may go on.

use std::{fmt, sync::Arc};

use countersign_token::{RevokedError, TokenFacts};
use thiserror::Error;
use tokio::time::Instant;

use crate::{clock, live::LiveCell};

/// By what something streams in a user's name: their token, until it expires, and for as long as nobody takes it back.
#[derive(Clone)]
pub struct UserTerm {
    facts: Arc<TokenFacts>,
    live: Arc<LiveCell>,
    ends: Option<Instant>,
}

/// Why nothing may stream in the user's name any more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UserTermError {
    /// The token expired.
    #[error("the token of the user expired")]
    Expired,
    /// It was taken back.
    #[error(transparent)]
    Revoked(#[from] RevokedError),
}

impl UserTerm {
    /// Of the token of which these are the facts, by the newest word on what was taken back.
    #[must_use]
    pub fn of(facts: Arc<TokenFacts>, live: Arc<LiveCell>) -> Self {
        let ends = Instant::now().checked_add(clock::until(facts.expires));
        Self { facts, live, ends }
    }

    /// The same, but the token may expire: only revocation ends it.
    #[must_use]
    pub fn outliving_the_token(self) -> Self {
        Self { ends: None, ..self }
    }

    /// The same for an answer of so many bytes, where that is known. One that a service could have held whole is no stream:
    /// who was let in gets it, however long the service took for it.
    #[must_use]
    pub fn of_answer(self, bytes: Option<u64>) -> Option<Self> {
        bytes.is_none_or(|bytes| bytes > WHOLE_BYTES_MAX).then_some(self)
    }

    /// When it ends, whatever happens; `None`: not by time.
    #[must_use]
    pub const fn ends(&self) -> Option<Instant> {
        self.ends
    }

    /// May it go on at this moment?
    ///
    /// # Errors
    /// It may not.
    pub fn judge(&self) -> Result<(), UserTermError> {
        if self.ends.is_some_and(|ends| ends <= Instant::now()) {
            return Err(UserTermError::Expired);
        }
        Ok(self.live.peek().tokens().revoked.judge(&self.facts)?)
    }
}

impl fmt::Debug for UserTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserTerm").field("token_expires", &self.facts.expires).finish_non_exhaustive()
    }
}

/// As many as of a body that is bound to its evidence.
const WHOLE_BYTES_MAX: u64 = 256 << 10;

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use countersign_wire::snapshot::RevokedToken;

    use super::*;
    use crate::live::{Live, tests::snapshot};

    /// Of a token that ends after so long, and who says that it was taken back.
    pub(crate) fn term(life: Duration) -> (UserTerm, Arc<LiveCell>) {
        let live = LiveCell::new(Live::compile(snapshot(), None).unwrap());
        let now = clock::now();
        let facts = TokenFacts {
            ids: vec!["txn".into()],
            subject: "u_1".into(),
            kid: "kid".into(),
            issued_at: now,
            expires: now.saturating_add(life),
        };
        (UserTerm::of(facts.into(), Arc::clone(&live)), live)
    }

    pub(crate) fn revoke(live: &LiveCell) {
        let mut next = snapshot();
        let until = clock::now().saturating_add(LONG);
        next.revoked.tokens.push(RevokedToken { id: "txn".into(), until });
        live.store(Live::compile(next, None).unwrap());
    }

    pub(crate) const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn it_is_over_when_the_token_has_expired() {
        assert_eq!(term(LONG).0.judge(), Ok(()));
        let (over, _) = term(Duration::ZERO);
        assert_eq!(over.judge(), Err(UserTermError::Expired));
        let outliving = over.outliving_the_token();
        assert_eq!((outliving.ends(), outliving.judge()), (None, Ok(())));
    }

    #[test]
    fn an_answer_that_could_be_held_whole_is_no_stream() {
        let of = |bytes| term(LONG).0.of_answer(bytes).is_some();
        assert_eq!(
            [None, Some(0), Some(256 << 10), Some((256 << 10) + 1)].map(of),
            [true, false, false, true]
        );
    }

    #[test]
    fn it_is_over_when_the_token_was_taken_back_also_where_it_may_outlive_it() {
        let (term, live) = term(LONG);
        let outliving = term.clone().outliving_the_token();
        revoke(&live);
        for term in [term, outliving] {
            let revoked = RevokedError::Token { id: "txn".into() };
            assert_eq!(term.judge(), Err(UserTermError::Revoked(revoked)));
        }
    }
}
