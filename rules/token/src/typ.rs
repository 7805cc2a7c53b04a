//! The registry of `typ` values (RFC 8725 section 3.11): each kind of token has its own, so that a token of one
//! kind never passes as another, whoever signed it.

use countersign_keys::Algorithm;

/// A kind of signed token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// A user's access token (RFC 9068): from login for the gateway ([`crate::access_token`]), or from the token
    /// service for one callee ([`crate::exchanged_token`]). The two have different keys, issuers and audiences,
    /// and only the second has an `act`.
    AccessToken,
    /// The internal token of a transaction ([`crate::txn_token`]).
    TxnToken,
    /// What a service signs for one request of its own ([`crate::service_token`]).
    Service,
    /// A SPIFFE JWT-SVID ([`crate::jwt_svid`]). Its standard allows no type of its own; so everything else must
    /// have one.
    JwtSvid,
    /// A workload identity token ([`crate::wit`]).
    Wit,
    /// A workload proof token ([`crate::wpt`]).
    Wpt,
    /// How a client proves itself to the token service ([`crate::client_assertion`]).
    ClientAssertion,
    /// A proof that a client holds the key of its access token ([`crate::dpop`]).
    Dpop,
}

impl TokenKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::AccessToken,
        Self::TxnToken,
        Self::Service,
        Self::JwtSvid,
        Self::Wit,
        Self::Wpt,
        Self::ClientAssertion,
        Self::Dpop,
    ];

    /// Its `typ`, as we write it.
    pub const fn typ(self) -> &'static str {
        match self {
            Self::AccessToken => "at+jwt",
            Self::TxnToken => "txntoken+jwt",
            Self::Service => "countersign-service+jwt",
            Self::JwtSvid => "JWT",
            Self::Wit => "wit+jwt",
            Self::Wpt => "wpt+jwt",
            Self::ClientAssertion => "client-authentication+jwt",
            Self::Dpop => "dpop+jwt",
        }
    }

    /// The kind of a `typ` in lower case and without `application/`, as [`crate::jws::Unverified::typ`] is.
    pub fn of(typ: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.is_called(typ))
    }

    /// May a token with this `typ` be of this kind?
    pub(crate) fn is_called(self, typ: &str) -> bool {
        match self {
            // JWT-SVID section 2.3. Without one it is empty.
            Self::JwtSvid => matches!(typ, "" | "jwt" | "jose"),
            _ => typ == self.typ(),
        }
    }

    /// Which members its header has.
    pub(crate) const fn form(self) -> HeaderForm {
        match self {
            Self::AccessToken | Self::TxnToken | Self::ClientAssertion => HeaderForm::Plain,
            Self::Service => HeaderForm::Certified,
            Self::JwtSvid | Self::Wit => HeaderForm::Svid,
            Self::Wpt => HeaderForm::Keyless,
            Self::Dpop => HeaderForm::Embedded,
        }
    }

    /// May a key of this algorithm sign tokens of this kind? The standard of JWT-SVIDs has no Ed25519.
    pub const fn allows(self, algorithm: Algorithm) -> bool {
        !matches!((self, algorithm), (Self::JwtSvid, Algorithm::Ed25519))
    }
}

/// Exactly which members a header has: whatever else it holds is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderForm {
    /// `alg`, `kid`, `typ`.
    Plain,
    /// The same, and perhaps `x5t#S256`: the certificate that names the owner of the key.
    Certified,
    /// `alg`, `jwk`, `typ`: whoever holds the key is meant, whoever that is.
    Embedded,
    /// `alg`, `typ` and perhaps `kid`: the key is named by the evidence beside it.
    Keyless,
    /// `alg`, `kid` and, if its kind can go without, perhaps `typ`; the `kid` is whatever a trust domain calls its
    /// key.
    Svid,
    /// As the issuer of another house writes it: `alg`, `kid`, perhaps `typ`, and hints at a certificate that nobody
    /// follows. Nothing that brings a key along, or that would have to be understood (`crit`).
    Foreign,
}

impl HeaderForm {
    pub(crate) const fn members(self) -> &'static [&'static str] {
        match self {
            Self::Plain | Self::Keyless | Self::Svid => &["alg", "kid", "typ"],
            Self::Certified => &["alg", "kid", "typ", "x5t#S256"],
            Self::Embedded => &["alg", "jwk", "typ"],
            Self::Foreign => &["alg", "kid", "typ", "x5t", "x5t#S256"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_type_of_its_own() {
        for kind in TokenKind::ALL {
            let of_its_type: Vec<_> = TokenKind::ALL
                .into_iter()
                .filter(|other| other.is_called(&kind.typ().to_ascii_lowercase()))
                .collect();
            assert_eq!(of_its_type, [kind]);
        }
        assert_eq!(TokenKind::of("logout+jwt"), None);
        assert_eq!(TokenKind::of(""), Some(TokenKind::JwtSvid), "only JWT-SVIDs may go without");
    }

    #[test]
    fn only_jwt_svids_are_never_of_ed25519() {
        for kind in TokenKind::ALL {
            assert_eq!(kind.allows(Algorithm::Ed25519), kind != TokenKind::JwtSvid);
            assert!(kind.allows(Algorithm::EcdsaP256) && kind.allows(Algorithm::RsaPkcs1Sha256));
        }
    }
}
