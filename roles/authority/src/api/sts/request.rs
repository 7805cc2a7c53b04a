//! A token request (RFC 8693 section 2.1; draft-ietf-oauth-transaction-tokens), read and not yet believed.

use std::fmt;

use countersign_token::Scope;
use countersign_wire::codes::Code;

use super::{Form, OAuthError};

/// RFC 8693 section 2.1.
pub(crate) const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// A type of token, as requests and answers name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenType {
    /// An access token: from login, or from an exchange.
    AccessToken,
    /// A JWT; here always a JWT-SVID.
    Jwt,
    /// A transaction token.
    TxnToken,
    /// What the client says of a subject by its own word, in plain JSON.
    UnsignedJson,
}

impl TokenType {
    /// All that exist here.
    pub(crate) const ALL: [Self; 4] = [Self::AccessToken, Self::Jwt, Self::TxnToken, Self::UnsignedJson];

    /// Its last part: the rest is the same for all of them.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::AccessToken => "access_token",
            Self::Jwt => "jwt",
            Self::TxnToken => "txn_token",
            Self::UnsignedJson => "unsigned_json",
        }
    }

    fn parse(urn: &str) -> Option<Self> {
        let name = urn.strip_prefix(TOKEN_TYPE)?;
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for TokenType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TOKEN_TYPE}{}", self.name())
    }
}

/// A token and its type, as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Presented<'a> {
    pub(crate) token: &'a str,
    pub(crate) kind: TokenType,
}

/// What is asked for. Of whom and for whom is told by client and target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exchange<'a> {
    pub(crate) subject: Presented<'a>,
    pub(crate) actor: Option<Presented<'a>>,
    pub(crate) requested: TokenType,
    /// `None` where the client leaves it to the subject token.
    pub(crate) scope: Option<Scope>,
}

impl<'a> Exchange<'a> {
    /// Reads a request.
    pub(crate) fn read(form: &'a Form) -> Result<Self, OAuthError> {
        match form.required("grant_type")? {
            TOKEN_EXCHANGE => {}
            _ => return Err(OAuthError::new(Code::GrantUnsupported, "the grant is no token exchange")),
        }
        let subject = Presented {
            token: form.required("subject_token")?,
            kind: kind("subject_token_type", form.required("subject_token_type")?)?,
        };
        let requested = match form.optional("requested_token_type") {
            Some(urn) => kind("requested_token_type", urn)?,
            None => TokenType::AccessToken,
        };
        if requested == TokenType::UnsignedJson {
            return Err(OAuthError::form("requested_token_type is not one that is issued"));
        }
        if subject.kind == TokenType::UnsignedJson && requested != TokenType::TxnToken {
            return Err(OAuthError::form("a subject that the client states is good for a txn_token alone"));
        }
        let scope = form.optional("scope").map(Scope::parse).transpose();
        let scope = scope.map_err(|_| OAuthError::form("scope is not a list of words"))?;
        Ok(Self { subject, actor: actor(form)?, requested, scope })
    }
}

/// One without the other says nothing (RFC 8693 section 2.1).
fn actor(form: &Form) -> Result<Option<Presented<'_>>, OAuthError> {
    match (form.optional("actor_token"), form.optional("actor_token_type")) {
        (None, None) => Ok(None),
        (Some(token), Some(urn)) => match kind("actor_token_type", urn)? {
            kind @ TokenType::Jwt => Ok(Some(Presented { token, kind })),
            _ => Err(OAuthError::form("actor_token_type must be that of a jwt")),
        },
        (Some(_), None) => Err(OAuthError::form("actor_token_type is missing")),
        (None, Some(_)) => Err(OAuthError::form("actor_token is missing")),
    }
}

fn kind(parameter: &str, urn: &str) -> Result<TokenType, OAuthError> {
    TokenType::parse(urn)
        .ok_or_else(|| OAuthError::form(format!("{parameter} is not one that is known here")))
}

const TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SUBJECT: [(&str, &str); 3] = [
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token", "e30.e30.e30"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
    ];

    fn form(more: &[(&str, &str)]) -> Form {
        let pairs = SUBJECT.iter().chain(more);
        Form::of(pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()).unwrap()
    }

    fn refused(more: &[(&str, &str)]) -> Code {
        Exchange::read(&form(more)).unwrap_err().denial.code
    }

    #[test]
    fn what_is_left_out_has_one_meaning() {
        let form = form(&[("scope", "")]);
        let exchange = Exchange::read(&form).unwrap();
        assert_eq!(
            (exchange.requested, exchange.actor, exchange.scope),
            (TokenType::AccessToken, None, None)
        );
    }

    #[test]
    fn every_type_reads_back_what_it_writes() {
        for kind in TokenType::ALL {
            assert_eq!(TokenType::parse(&kind.to_string()), Some(kind));
        }
        assert_eq!(TokenType::parse("urn:ietf:params:oauth:token-type:refresh_token"), None);
    }

    #[test]
    fn rejects_an_actor_token_without_its_type_and_the_other_way_round() {
        let jwt = "urn:ietf:params:oauth:token-type:jwt";
        assert_eq!(refused(&[("actor_token", "x.y.z")]), Code::ExchangeMalformed);
        assert_eq!(refused(&[("actor_token_type", jwt)]), Code::ExchangeMalformed);
        let access = "urn:ietf:params:oauth:token-type:access_token";
        assert_eq!(refused(&[("actor_token", "x"), ("actor_token_type", access)]), Code::ExchangeMalformed);
        let both = form(&[("actor_token", "x.y.z"), ("actor_token_type", jwt)]);
        assert!(Exchange::read(&both).unwrap().actor.is_some());
    }

    #[test]
    fn rejects_types_that_are_unknown_or_never_issued() {
        for unknown in ["urn:ietf:params:oauth:token-type:refresh_token", "jwt", "urn:x"] {
            assert_eq!(refused(&[("requested_token_type", unknown)]), Code::ExchangeMalformed, "{unknown}");
        }
        let stated = "urn:ietf:params:oauth:token-type:unsigned_json";
        assert_eq!(refused(&[("requested_token_type", stated)]), Code::ExchangeMalformed);
    }

    #[test]
    fn rejects_a_scope_that_is_no_list_of_words() {
        for wrong in ["a  b", " a", "a\"b", "ä", &"w ".repeat(40)] {
            assert_eq!(refused(&[("scope", wrong)]), Code::ExchangeMalformed, "{wrong}");
        }
    }

    #[test]
    fn rejects_another_grant_and_a_missing_or_doubled_parameter() {
        let read = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let form = Form::of(pairs).map_err(|error| error.denial.code)?;
            Exchange::read(&form).map(|_| ()).map_err(|error| error.denial.code)
        };
        assert_eq!(read(&[("grant_type", "password")]), Err(Code::GrantUnsupported));
        assert_eq!(read(&[]), Err(Code::ExchangeMalformed));
        assert_eq!(read(&SUBJECT[..2]), Err(Code::ExchangeMalformed));
        assert_eq!(read(&[SUBJECT[0], SUBJECT[0]]), Err(Code::ExchangeMalformed));
        assert_eq!(read(&[SUBJECT[0], SUBJECT[2]]), Err(Code::ExchangeMalformed));
    }
}
