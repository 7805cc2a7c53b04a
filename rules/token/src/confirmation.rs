//! The key that a token is bound to (RFC 7800 `cnf`): whoever shows the token has to hold that key.

use serde_json::{Value, json};

use crate::claims::{ClaimError, Claims, optional};

/// The one key that the holder of a token proves to have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Confirmation {
    /// `jkt`: RFC 7638 thumbprint of a key, proven by DPoP (RFC 9449 section 6) or by a signature of the request.
    Key(String),
    /// `x5t#S256`: SHA-256 of the certificate of the TLS connection (RFC 8705 section 3.1), in base64url.
    Certificate(String),
}

/// In whose hands a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown<'a> {
    /// In those of somebody who proved to hold these keys, on this connection and for this request.
    Held {
        /// RFC 7638 thumbprints.
        keys: &'a [String],
        /// SHA-256 of the DER of certificates, in base64url.
        certificates: &'a [String],
    },
    /// Its holder showed it elsewhere, to the one whom it is for, who saw the key and now gives the token away or asks
    /// what it is: for the token service alone, where the holder is not at hand.
    Elsewhere,
}

impl Shown<'_> {
    /// Whoever shows the token proved to hold no key.
    pub const NOTHING: Self = Self::Held { keys: &[], certificates: &[] };
}

/// The key of a token is not at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfirmationError {
    /// A stolen token, or one sent without its proof.
    #[error("the token is bound to a key by {method}, and whoever sent it did not prove to hold that key")]
    NotHeld {
        /// `jkt` or `x5t#S256`.
        method: &'static str,
    },
}

impl Confirmation {
    /// Does whoever shows the token hold its key?
    pub fn judge(&self, shown: Shown<'_>) -> Result<(), ConfirmationError> {
        let Shown::Held { keys, certificates } = shown else { return Ok(()) };
        let (held, wanted) = match self {
            Self::Key(thumbprint) => (keys, thumbprint),
            Self::Certificate(hash) => (certificates, hash),
        };
        match held.contains(wanted) {
            true => Ok(()),
            false => Err(ConfirmationError::NotHeld { method: self.method() }),
        }
    }

    fn method(&self) -> &'static str {
        match self {
            Self::Key(_) => "jkt",
            Self::Certificate(_) => "x5t#S256",
        }
    }

    /// As the claim `cnf`, and as the member of that name in an introspection response.
    pub fn to_claim(&self) -> Value {
        let (Self::Key(value) | Self::Certificate(value)) = self;
        json!({ self.method(): value })
    }

    /// Reads `cnf`. A method that is not known here is no permission to do without.
    pub(crate) fn read(claims: &Claims) -> Result<Option<Self>, ClaimError> {
        let Some(cnf) = optional(claims.object("cnf"))? else { return Ok(None) };
        let wrong = ClaimError::WrongType { name: "cnf", want: "exactly one of jkt and x5t#S256" };
        let mut names = cnf.names();
        match (names.next(), names.next()) {
            (Some("jkt"), None) => {
                cnf.sha256("jkt")?;
                Ok(Some(Self::Key(cnf.string("jkt")?.to_owned())))
            }
            (Some("x5t#S256"), None) => {
                cnf.sha256("x5t#S256")?;
                Ok(Some(Self::Certificate(cnf.string("x5t#S256")?.to_owned())))
            }
            _ => Err(wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HASH: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";

    fn read(cnf: &str) -> Result<Option<Confirmation>, ClaimError> {
        Confirmation::read(&Claims::parse(format!(r#"{{"cnf":{cnf}}}"#).as_bytes()).unwrap())
    }

    #[test]
    fn reads_back_what_it_writes() {
        for confirmation in [Confirmation::Key(HASH.into()), Confirmation::Certificate(HASH.into())] {
            assert_eq!(read(&confirmation.to_claim().to_string()), Ok(Some(confirmation)));
        }
        assert_eq!(Confirmation::read(&Claims::parse(b"{}").unwrap()), Ok(None));
    }

    #[test]
    fn rejects_no_method_an_unknown_one_and_two() {
        let wrong = Err(ClaimError::WrongType { name: "cnf", want: "exactly one of jkt and x5t#S256" });
        for cnf in [
            "{}".to_owned(),
            r#"{"jwk":{}}"#.into(),
            format!(r#"{{"jkt":"{HASH}","x5t#S256":"{HASH}"}}"#),
            format!(r#"{{"jkt":"{HASH}","later":1}}"#),
        ] {
            assert_eq!(read(&cnf), wrong, "{cnf}");
        }
        assert!(matches!(read("null"), Err(ClaimError::WrongType { name: "cnf", .. })));
        assert!(matches!(read(r#"{"jkt":"short"}"#), Err(ClaimError::WrongType { name: "jkt", .. })));
        assert!(matches!(read(r#"{"x5t#S256":1}"#), Err(ClaimError::WrongType { name: "x5t#S256", .. })));
    }

    #[test]
    fn rejects_whoever_does_not_hold_the_key() {
        let held = [HASH.to_owned()];
        let key = Confirmation::Key(HASH.into());
        let certificate = Confirmation::Certificate(HASH.into());
        let by_key = Shown::Held { keys: &held, certificates: &[] };
        let by_certificate = Shown::Held { keys: &[], certificates: &held };
        assert_eq!(key.judge(by_key), Ok(()));
        assert_eq!(certificate.judge(by_certificate), Ok(()));
        // The same digits of the other method prove nothing.
        assert_eq!(key.judge(by_certificate), Err(ConfirmationError::NotHeld { method: "jkt" }));
        assert_eq!(certificate.judge(by_key), Err(ConfirmationError::NotHeld { method: "x5t#S256" }));
        assert_eq!(key.judge(Shown::NOTHING), Err(ConfirmationError::NotHeld { method: "jkt" }));
        assert_eq!((key.judge(Shown::Elsewhere), certificate.judge(Shown::Elsewhere)), (Ok(()), Ok(())));
    }
}
