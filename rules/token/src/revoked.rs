//! What was taken back before it expired. Asked at every use of a token, also where a cache knows it: by its own
//! id, by its user and when it was issued, by the key that signed it.

use std::collections::{HashMap, HashSet};

use countersign_identity::UnixTime;

/// By what a token can be taken back. Kept beside whatever is cached of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFacts {
    /// `jti`, and the id of its transaction if it has one: taking back either takes back the token.
    pub ids: Vec<String>,
    /// Whom it speaks of: the id of a user, or a SPIFFE ID.
    pub subject: String,
    /// Thumbprint of the key that signed it.
    pub kid: String,
    /// When it was issued.
    pub issued_at: UnixTime,
    /// When it expires.
    pub expires: UnixTime,
}

/// All that counts no longer: a look-up costs the same however much that is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    tokens: HashSet<String>,
    subjects: HashMap<String, UnixTime>,
    keys: HashSet<String>,
}

/// Why a token counts no longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevokedError {
    /// It was taken back itself.
    #[error("the token {id} was revoked")]
    Token {
        /// Its `jti`, or the id of its transaction.
        id: String,
    },
    /// All of its subject's tokens were that had been issued by then.
    #[error("the tokens of {subject} that were issued until then were revoked; log in again")]
    Subject {
        /// Whose.
        subject: String,
    },
    /// All that its key signed was.
    #[error("the key {kid} was revoked, and with it everything that it signed")]
    Key {
        /// Its thumbprint.
        kid: String,
    },
}

impl Revoked {
    /// Takes back a token by its `jti`, by its transaction, or the id of a bearer token or macaroon.
    pub fn token(&mut self, id: impl Into<String>) {
        self.tokens.insert(id.into());
    }

    /// Takes back what was issued to this subject before this moment. Of several the last moment counts.
    pub fn subject(&mut self, subject: impl Into<String>, issued_before: UnixTime) {
        let before = self.subjects.entry(subject.into()).or_insert(issued_before);
        *before = (*before).max(issued_before);
    }

    /// Takes back everything that this key signed.
    pub fn key(&mut self, kid: impl Into<String>) {
        self.keys.insert(kid.into());
    }

    /// Does the token still count?
    pub fn judge(&self, facts: &TokenFacts) -> Result<(), RevokedError> {
        if let Some(id) = facts.ids.iter().find(|id| self.tokens.contains(*id)) {
            return Err(RevokedError::Token { id: id.clone() });
        }
        // Whole seconds are on the wire: what was issued within the second of the revocation is older than it.
        let before = self.subjects.get(&facts.subject);
        if before.is_some_and(|before| facts.issued_at < *before) {
            return Err(RevokedError::Subject { subject: facts.subject.clone() });
        }
        if self.keys.contains(&facts.kid) {
            return Err(RevokedError::Key { kid: facts.kid.clone() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> TokenFacts {
        TokenFacts {
            ids: vec!["jti".into(), "txn".into()],
            subject: "u_1".into(),
            kid: "kid".into(),
            issued_at: UnixTime::from_secs(100),
            expires: UnixTime::from_secs(400),
        }
    }

    #[test]
    fn what_was_not_taken_back_counts() {
        let mut revoked = Revoked::default();
        assert_eq!(revoked.judge(&facts()), Ok(()));
        revoked.token("other");
        revoked.subject("u_2", UnixTime::from_secs(1000));
        revoked.key("other");
        assert_eq!(revoked.judge(&facts()), Ok(()));
    }

    #[test]
    fn rejects_a_token_by_its_id_or_its_transaction() {
        for id in ["jti", "txn"] {
            let mut revoked = Revoked::default();
            revoked.token(id);
            assert_eq!(revoked.judge(&facts()), Err(RevokedError::Token { id: id.into() }));
        }
    }

    #[test]
    fn rejects_what_a_user_was_given_before_the_moment_and_nothing_later() {
        let mut revoked = Revoked::default();
        let subject = RevokedError::Subject { subject: "u_1".into() };
        revoked.subject("u_1", UnixTime::from_millis(100_001));
        assert_eq!(revoked.judge(&facts()), Err(subject.clone()));
        // An earlier revocation that arrives later changes nothing.
        revoked.subject("u_1", UnixTime::from_secs(50));
        assert_eq!(revoked.judge(&facts()), Err(subject));
        let later = TokenFacts { issued_at: UnixTime::from_secs(101), ..facts() };
        assert_eq!(revoked.judge(&later), Ok(()));
    }

    #[test]
    fn rejects_everything_that_a_key_signed() {
        let mut revoked = Revoked::default();
        revoked.key("kid");
        assert_eq!(revoked.judge(&facts()), Err(RevokedError::Key { kid: "kid".into() }));
    }
}
