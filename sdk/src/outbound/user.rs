//! On whose behalf we call: the user's token that goes along.

use std::fmt;

use countersign_identity::UserContext;
use countersign_keys::Secret;
use http::HeaderValue;

use super::{
    CallError,
    exchange::{ExchangeError, Exchanger, HopToken, Presenter},
    sending::Sending,
};
use crate::live::Live;

/// An internal token on its way to the next hop: one that was verified with an inbound request, which may have been sealed
/// meanwhile ([`crate::context`]), or one that a gateway has just minted. There is no third way to get one.
#[derive(Clone)]
pub struct InternalToken {
    token: Secret<String>,
    reach: Reach,
}

/// Who may be shown a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Everybody in the trust domain: it may go on as it is.
    TrustDomain,
    /// Us alone, to whom it was issued: it can only be exchanged for another.
    ThisHop,
}

/// How the user goes along with one request.
#[derive(Clone, Debug)]
pub(super) enum Carried {
    /// There is none.
    Nobody,
    /// Unchanged, in `Txn-Token`.
    Same(InternalToken),
    /// Issued for this hop, in `User-Token`.
    Hop(HopToken),
    /// Inside our own signed token.
    Nested(InternalToken),
}

impl Carried {
    /// Carries `token` to the callee in the way that our entry names. A token that was issued for us alone is
    /// exchanged in any case: nobody else would take it.
    pub(super) async fn of(
        token: Option<&InternalToken>,
        sending: Sending,
        exchanger: &Exchanger,
        (live, presenter): (&Live, Presenter<'_>),
    ) -> Result<Self, CallError> {
        let Some(token) = token else { return Ok(Self::Nobody) };
        match (sending.user, token.reach) {
            (UserContext::Same, Reach::TrustDomain) => Ok(Self::Same(token.clone())),
            (UserContext::Nested, Reach::TrustDomain) if sending.user.works_in(sending.mode) => {
                Ok(Self::Nested(token.clone()))
            }
            // Nothing of ours is signed that it could be put into, and unprotected it must not go.
            (UserContext::Nested, Reach::TrustDomain) => {
                Err(CallError::UserContext { source: ExchangeError::NothingToNestIn { mode: sending.mode } })
            }
            (UserContext::PerHop, _) | (_, Reach::ThisHop) => {
                let hop = exchanger.exchange(token, live, presenter).await;
                hop.map(Self::Hop).map_err(|source| CallError::UserContext { source })
            }
        }
    }
}

impl InternalToken {
    /// What a gateway minted, out of an access token that it verified.
    #[must_use]
    pub fn minted(token: String) -> Self {
        Self { token: Secret::new(token), reach: Reach::TrustDomain }
    }

    /// A transaction token that the door verified.
    pub(crate) fn verified(token: &str) -> Self {
        Self { token: Secret::new(token.to_owned()), reach: Reach::TrustDomain }
    }

    /// A token for this hop alone that the door verified.
    pub(crate) fn verified_for_this_hop(token: &str) -> Self {
        Self { token: Secret::new(token.to_owned()), reach: Reach::ThisHop }
    }

    /// As the value of `Txn-Token` for a callee that takes it unchanged. A token that was issued for us alone has none:
    /// it can only be exchanged.
    #[must_use]
    pub fn txn_token(&self) -> Option<HeaderValue> {
        if self.reach == Reach::ThisHop {
            return None;
        }
        header(self.token.expose()).ok()
    }

    pub(crate) fn expose(&self) -> &str {
        self.token.expose()
    }

    pub(crate) const fn reach(&self) -> Reach {
        self.reach
    }
}

/// A token as the value of a header that is never logged.
pub(super) fn header(token: &str) -> Result<HeaderValue, CallError> {
    let mut value = HeaderValue::from_str(token)
        .map_err(|_| CallError::Proof { why: "a token does not fit into a header".to_owned() })?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Debug for InternalToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InternalToken(..)")
    }
}
