//! How something was proven, as axes and not as a mode name: policies read axes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What the evidence of one request amounts to. Within each axis, later variants are stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Proof {
    /// How the calling workload was proven.
    pub workload: WorkloadProof,
    /// What of the request the evidence is bound to.
    pub binding: Binding,
    /// How the user was proven.
    pub user: UserProof,
    /// How often the same evidence could be presented.
    pub freshness: Freshness,
}

impl Proof {
    /// Nothing was proven.
    pub const NONE: Self = Self {
        workload: WorkloadProof::None,
        binding: Binding::None,
        user: UserProof::None,
        freshness: Freshness::None,
    };

    /// The weaker of two, axis by axis: what a chain or an exchanged token may claim.
    #[must_use]
    pub fn weakest(a: Self, b: Self) -> Self {
        Self {
            workload: a.workload.min(b.workload),
            binding: a.binding.min(b.binding),
            user: a.user.min(b.user),
            freshness: a.freshness.min(b.freshness),
        }
    }
}

macro_rules! axis {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)+ }

        impl $name {
            /// Every variant, from the weakest to the strongest.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name that policies, JSON and people read.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

axis! {
    /// How the calling workload was proven.
    WorkloadProof {
        /// Not at all.
        None = "none",
        /// By an X.509-SVID in the TLS handshake.
        Certificate = "certificate",
    }
}

axis! {
    /// What of the request the evidence is bound to.
    Binding {
        /// Nothing: whoever holds the evidence may use it anywhere.
        None = "none",
        /// The connection that it came over.
        Channel = "channel",
        /// Whom it was addressed to.
        Target = "target",
        /// Method and query as well.
        MethodAndQuery = "method_and_query",
        /// The body as well.
        Body = "body",
    }
}

axis! {
    /// How the user was proven.
    UserProof {
        /// Not at all.
        None = "none",
        /// By the internal token that the gateway minted from an access token.
        InternalToken = "internal_token",
        /// By an access token of our own issuer.
        AccessToken = "access_token",
        /// By the operating system: the uid at the other end of a Unix socket.
        LocalUid = "local_uid",
    }
}

axis! {
    /// How often the same evidence could be presented.
    Freshness {
        /// Without end.
        None = "none",
        /// Until it expires.
        Reusable = "reusable",
        /// As long as the connection that it was proven on.
        Connection = "connection",
        /// Once.
        SingleUse = "single_use",
    }
}

axis! {
    /// The ways in which a caller can prove itself on an edge: what is configured, as opposed to
    /// [`Proof`], which is what happened.
    Mode {
        /// Nothing, plain HTTP.
        None = "none",
        /// Opaque random token.
        Bearer = "bearer",
        /// Macaroon with caveats.
        Macaroon = "macaroon",
        /// Self-signed JWT over TLS.
        Jwt = "jwt",
        /// Workload identity token and proof.
        Wimse = "wimse",
        /// X.509-SVID in the TLS handshake.
        Mtls = "mtls",
        /// Both.
        MtlsJwt = "mtls+jwt",
    }
}

/// There is no mode of this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("mode {0:?} does not exist: use one of none, bearer, macaroon, jwt, wimse, mtls, mtls+jwt")]
pub struct UnknownMode(pub String);

impl Mode {
    /// Reads a mode as [`Mode::as_str`] writes it.
    ///
    /// # Errors
    /// No mode has this name; case counts.
    pub fn parse(text: &str) -> Result<Self, UnknownMode> {
        Self::ALL
            .iter()
            .copied()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| UnknownMode(text.chars().take(32).collect()))
    }
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STRONG: Proof = Proof {
        workload: WorkloadProof::Certificate,
        binding: Binding::Channel,
        user: UserProof::AccessToken,
        freshness: Freshness::Connection,
    };

    #[test]
    fn the_weakest_of_two_is_taken_per_axis() {
        let other = Proof { binding: Binding::Body, user: UserProof::InternalToken, ..STRONG };
        let both = Proof::weakest(STRONG, other);
        assert_eq!(both.binding, Binding::Channel);
        assert_eq!(both.user, UserProof::InternalToken);
        assert_eq!(both, Proof::weakest(other, STRONG));
        assert_eq!(Proof::weakest(STRONG, Proof::NONE), Proof::NONE);
    }

    #[test]
    fn every_mode_reads_back_what_it_writes() {
        for mode in Mode::ALL {
            assert_eq!(Mode::parse(mode.as_str()).unwrap(), *mode);
        }
    }

    #[test]
    fn rejects_an_unknown_mode_and_keeps_the_message_short() {
        assert_eq!(Mode::parse("MTLS"), Err(UnknownMode("MTLS".into())));
        let refused = Mode::parse(&"m".repeat(1_000_000)).unwrap_err();
        assert_eq!(refused, UnknownMode("m".repeat(32)));
    }

    #[test]
    fn json_names_are_the_names_that_policies_read() {
        for axis in Binding::ALL {
            assert_eq!(serde_json::to_value(axis).unwrap(), axis.as_str());
        }
        for mode in Mode::ALL {
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.as_str());
        }
    }
}
