//! How something was proven, as axes and not as a mode name: policies read axes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the evidence of one request amounts to. Within each axis, later variants are stronger.
///
/// Policies read axes and never the name of a [`crate::Mode`]: "the request is bound to its body" is what a rule
/// about orders means, and any mode that does so will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Proof {
    /// How the calling workload was proven.
    pub workload: WorkloadProof,
    /// What of the request the evidence is bound to.
    pub binding: Binding,
    /// How the user was proven.
    pub user: UserProof,
    /// Whether the user's evidence was bound to a key, all the way from where the user showed it.
    pub user_possession: Possession,
    /// How often the same evidence could be presented.
    pub freshness: Freshness,
}

impl Proof {
    /// Nothing was proven.
    pub const NONE: Self = Self {
        workload: WorkloadProof::None,
        binding: Binding::NONE,
        user: UserProof::None,
        user_possession: Possession::None,
        freshness: Freshness::None,
    };

    /// The weaker of two, axis by axis: what a chain or an exchanged token may claim. Of two bindings only what
    /// both are bound to is left.
    #[must_use]
    pub fn weakest(a: Self, b: Self) -> Self {
        Self {
            workload: a.workload.min(b.workload),
            binding: a.binding.both(b.binding),
            user: a.user.min(b.user),
            user_possession: a.user_possession.min(b.user_possession),
            freshness: a.freshness.min(b.freshness),
        }
    }
}

/// An enum whose variants are ordered and have one name each.
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
        /// By a token that whoever has a copy can use: an opaque one, or a JWT-SVID.
        Bearer = "bearer",
        /// By a macaroon, narrowed to this request before it left its holder.
        Macaroon = "macaroon",
        /// By a proof signed for this request with a key of the workload: a self-signed JWT, or a WIMSE proof.
        SignedRequest = "signed_request",
        /// By an X.509-SVID in the TLS handshake.
        Certificate = "certificate",
    }
}

impl WorkloadProof {
    /// Did the workload prove to hold a key?
    #[must_use]
    pub const fn possession(self) -> Possession {
        match self {
            Self::SignedRequest | Self::Certificate => Possession::Key,
            Self::None | Self::Bearer | Self::Macaroon => Possession::None,
        }
    }
}
pub(crate) use axis;

axis! {
    /// Something of a request that evidence can be bound to.
    Bound {
        /// The connection that it came over.
        Channel = "channel",
        /// Whom it was addressed to, and the path there.
        Target = "target",
        /// The method and the query.
        MethodAndQuery = "method_and_query",
        /// The body.
        Body = "body",
    }
}

/// What of the request the evidence is bound to: a set, because neither the connection nor the content of a
/// request implies the other. Empty: whoever holds the evidence may use it anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Binding(u8);

impl Binding {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// The connection alone.
    pub const CHANNEL: Self = Self::of(&[Bound::Channel]);

    /// Exactly these.
    #[must_use]
    pub const fn of(bounds: &[Bound]) -> Self {
        let (mut bits, mut rest) = (0, bounds);
        while let [bound, others @ ..] = rest {
            bits |= bit(*bound);
            rest = others;
        }
        Self(bits)
    }

    /// Is it bound to this?
    #[must_use]
    pub const fn contains(self, bound: Bound) -> bool {
        self.0 & bit(bound) != 0
    }

    /// Bound to this as well.
    #[must_use]
    pub const fn and(self, bound: Bound) -> Self {
        Self(self.0 | bit(bound))
    }

    /// What one of two pieces of evidence *about the same request* is bound to.
    #[must_use]
    pub const fn either(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What both are bound to.
    #[must_use]
    pub const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What it is bound to, in the order of [`Bound::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Bound> {
        Bound::ALL.iter().copied().filter(move |bound| self.contains(*bound))
    }
}

const fn bit(bound: Bound) -> u8 {
    1 << bound as u8
}

impl Serialize for Binding {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Binding {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::of(&Vec::<Bound>::deserialize(deserializer)?))
    }
}

axis! {
    /// Whether evidence was bound to a key that whoever presented it proved to hold.
    Possession {
        /// No: whoever has a copy can use it.
        None = "none",
        /// Yes.
        Key = "key",
    }
}

axis! {
    /// How the user was proven.
    UserProof {
        /// Not at all.
        None = "none",
        /// By the internal token that the gateway minted from an access token, passed on unchanged.
        InternalToken = "internal_token",
        /// By an internal token that the token service issued for this hop alone, or that the caller embedded in
        /// its own signed proof.
        HopToken = "hop_token",
        /// By an access token of an issuer of another house that the edge was told to believe.
        ForeignToken = "foreign_token",
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STRONG: Proof = Proof {
        workload: WorkloadProof::Certificate,
        binding: Binding::CHANNEL,
        user: UserProof::AccessToken,
        user_possession: Possession::Key,
        freshness: Freshness::Connection,
    };

    #[test]
    fn the_weakest_of_two_is_taken_per_axis() {
        let binding = Binding::of(&[Bound::Channel, Bound::Body]);
        let user_possession = Possession::None;
        let other = Proof { binding, user: UserProof::InternalToken, user_possession, ..STRONG };
        let both = Proof::weakest(STRONG, other);
        assert_eq!(both.binding, Binding::CHANNEL);
        assert_eq!((both.user, both.user_possession), (UserProof::InternalToken, Possession::None));
        assert_eq!(both, Proof::weakest(other, STRONG));
        assert_eq!(Proof::weakest(STRONG, Proof::NONE), Proof::NONE);
    }

    #[test]
    fn a_binding_is_a_set_in_which_nothing_implies_another() {
        let body = Binding::NONE.and(Bound::Body);
        assert!(
            body.contains(Bound::Body) && !body.contains(Bound::Channel) && !body.contains(Bound::Target)
        );
        assert_eq!(body.both(Binding::CHANNEL), Binding::NONE);
        assert_eq!(
            serde_json::to_value(body.either(Binding::CHANNEL)).unwrap(),
            serde_json::json!(["channel", "body"])
        );
        assert_eq!(serde_json::from_str::<Binding>(r#"["body"]"#).unwrap(), body);
    }

    #[test]
    fn json_names_are_the_names_that_policies_read() {
        for axis in Bound::ALL {
            assert_eq!(serde_json::to_value(axis).unwrap(), axis.as_str());
        }
    }
}
