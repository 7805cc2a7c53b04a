//! On whose behalf we call: the user's token that goes along.

use std::fmt;

use countersign_keys::Secret;
use http::HeaderValue;

/// An internal token on its way to the next hop: one that was verified with an inbound request, or one
/// that a gateway has just minted. There is no third way to get one.
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

    pub(crate) fn expose(&self) -> &str {
        self.token.expose()
    }

    pub(crate) const fn reach(&self) -> Reach {
        self.reach
    }

    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(self.token.expose()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for InternalToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InternalToken(..)")
    }
}
