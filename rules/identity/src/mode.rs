//! How callers are to prove themselves: what is configured on an edge, as opposed to [`crate::Proof`], which is what
//! happened.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::proof::axis;

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
    /// May a request that was proven in this mode pass where `accepts` is the floor? Both is as good as either, and where
    /// nothing has to be proven, anything may be; apart from that a mode stands for itself alone.
    #[must_use]
    pub fn satisfies(self, accepts: &[Self]) -> bool {
        accepts.iter().any(|accepted| {
            self == *accepted
                || *accepted == Self::None
                || (self == Self::MtlsJwt && matches!(accepted, Self::Mtls | Self::Jwt))
        })
    }

    /// Does the caller show a certificate in the TLS handshake?
    #[must_use]
    pub const fn shows_certificate(self) -> bool {
        matches!(self, Self::Mtls | Self::MtlsJwt)
    }

    /// Does the caller sign a token of its own for each request? That has room for claims, and for a user's token.
    #[must_use]
    pub const fn carries_claims(self) -> bool {
        matches!(self, Self::Jwt | Self::MtlsJwt)
    }

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

axis! {
    /// How a service carries its user along when it calls others.
    #[derive(Default)]
    UserContext {
        /// The internal token that came in goes on unchanged (thesis, figure 4.2).
        #[default]
        Same = "same",
        /// The token service issues one for each hop (figure 4.3).
        PerHop = "per-hop",
        /// Inside the caller's own signed token (section 4.2.2). Needs a mode that signs one.
        Nested = "nested",
    }
}

axis! {
    /// Which proof accompanies a workload identity token in mode `wimse`.
    #[derive(Default)]
    WimseProof {
        /// A workload proof token (draft-ietf-wimse-wpt): bound to the target.
        #[default]
        Token = "token",
        /// An HTTP message signature (draft-ietf-wimse-http-signature): bound to method, query and body as well, and
        /// the answer is signed too.
        HttpSignature = "http-signature",
    }
}

impl UserContext {
    /// Reads it as [`UserContext::as_str`] writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|context| context.as_str() == text)
    }

    /// Can a caller that proves itself in `mode` carry its user along like this?
    #[must_use]
    pub const fn works_in(self, mode: Mode) -> bool {
        match self {
            Self::Same | Self::PerHop => true,
            Self::Nested => mode.carries_claims(),
        }
    }
}

impl WimseProof {
    /// Reads it as [`WimseProof::as_str`] writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|proof| proof.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_proofs_are_as_good_as_either_and_nothing_else_is() {
        assert!(Mode::MtlsJwt.satisfies(&[Mode::Mtls]) && Mode::MtlsJwt.satisfies(&[Mode::Jwt]));
        assert!(!Mode::Mtls.satisfies(&[Mode::MtlsJwt]) && !Mode::Jwt.satisfies(&[Mode::MtlsJwt]));
        assert!(!Mode::Mtls.satisfies(&[Mode::Bearer]) && !Mode::Mtls.satisfies(&[]));
        // Whoever proves something could as well leave it out.
        assert!(Mode::ALL.iter().all(|mode| mode.satisfies(&[Mode::None])));
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
    fn a_user_is_embedded_only_where_the_caller_signs_a_token() {
        for mode in Mode::ALL {
            assert!(UserContext::Same.works_in(*mode) && UserContext::PerHop.works_in(*mode));
            assert_eq!(UserContext::Nested.works_in(*mode), matches!(mode, Mode::Jwt | Mode::MtlsJwt));
        }
    }

    #[test]
    fn json_names_are_those_of_the_command_line() {
        for context in UserContext::ALL {
            assert_eq!(serde_json::to_value(context).unwrap(), context.as_str());
            assert_eq!(UserContext::parse(context.as_str()), Some(*context));
        }
        for proof in WimseProof::ALL {
            assert_eq!(WimseProof::parse(proof.as_str()), Some(*proof));
        }
        for mode in Mode::ALL {
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.as_str());
        }
    }
}
