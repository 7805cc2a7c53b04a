//! Somebody else's public keys (RFC 7517 section 5), under the names that they give them.
//!
//! An issuer that knows nothing of us publishes keys for other purposes, of other kinds, with members of its own: such
//! a key is left out, never half understood. What must not happen at all (a private key in public, two keys of one
//! name) refuses the whole set.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::{JwkError, PublicKey};

/// Keys for verifying signatures, found by `kid`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwkSet {
    keys: HashMap<String, PublicKey>,
    left_out: usize,
}

/// Why a set of keys is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwkSetError {
    /// Longer than [`JWK_SET_BYTES_MAX`].
    #[error("the key set has {bytes} bytes, more than {JWK_SET_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not `{"keys": [{…}, …]}`, or a member stands there twice.
    #[error("the key set is no JSON object with an array of keys, each member once")]
    Malformed,
    /// More than [`JWK_SET_KEYS_MAX`].
    #[error("the key set has {count} keys, more than {JWK_SET_KEYS_MAX}")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// A private key in public: whatever it signs, everybody could have signed.
    #[error("the key set holds private key material; its owner has to replace that key")]
    Private,
    /// Two keys have the same name, so a token would choose between them.
    #[error("the key set has two keys of the name {kid:?}")]
    SameName {
        /// Their name, as far as it is fit for a log.
        kid: String,
    },
    /// None is fit for verifying signatures.
    #[error(
        "none of the {left_out} keys of the set is a named key for signatures of EC P-256, Ed25519 or RSA from 2048 bits"
    )]
    NoneOfUse {
        /// How many there are.
        left_out: usize,
    },
}

impl JwkSet {
    /// Reads a set and keeps the keys that can verify signatures here.
    pub fn read(json: &[u8]) -> Result<Self, JwkSetError> {
        if json.len() > JWK_SET_BYTES_MAX {
            return Err(JwkSetError::TooLong { bytes: json.len() });
        }
        let Wire { keys: entries } = serde_json::from_slice(json).map_err(|_| JwkSetError::Malformed)?;
        if entries.len() > JWK_SET_KEYS_MAX {
            return Err(JwkSetError::TooMany { count: entries.len() });
        }
        let mut set = Self::default();
        for entry in entries {
            match entry.named_key()? {
                Some((kid, _)) if set.keys.contains_key(&kid) => {
                    return Err(JwkSetError::SameName { kid: crate::jwk::short(Some(&kid)) });
                }
                Some((kid, key)) => drop(set.keys.insert(kid, key)),
                None => set.left_out += 1,
            }
        }
        match set.keys.is_empty() {
            true => Err(JwkSetError::NoneOfUse { left_out: set.left_out }),
            false => Ok(set),
        }
    }

    /// The key of this name.
    #[must_use]
    pub fn key(&self, kid: &str) -> Option<&PublicKey> {
        self.keys.get(kid)
    }

    /// How many keys can be used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key can be used: true of [`JwkSet::default`] alone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys of the set are not for us.
    #[must_use]
    pub const fn left_out(&self) -> usize {
        self.left_out
    }
}

#[derive(Deserialize)]
struct Wire {
    keys: Vec<Entry>,
}

/// The members of one key, each once.
struct Entry(serde_json::Map<String, Value>);

impl Entry {
    /// Nothing, if the key is not one that can verify signatures here.
    fn named_key(self) -> Result<Option<(String, PublicKey)>, JwkSetError> {
        let Self(mut members) = self;
        let verifies = match members.get("key_ops") {
            None => true,
            Some(Value::Array(operations)) => operations.iter().any(|operation| operation == "verify"),
            Some(_) => false,
        };
        let name = members.remove("kid");
        members.retain(|name, _| UNDERSTOOD.contains(&name.as_str()));
        // Read before anything is left out: a secret is one, whatever its key is for.
        let key = match PublicKey::from_jwk(&Value::Object(members).to_string()) {
            Ok(key) => key,
            Err(JwkError::Private) => return Err(JwkSetError::Private),
            Err(_) => return Ok(None),
        };
        Ok(match name {
            Some(Value::String(kid)) if verifies && (1..=KID_BYTES_MAX).contains(&kid.len()) => {
                Some((kid, key))
            }
            _ => None,
        })
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON Web Key")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let mut members = serde_json::Map::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member occurs twice"));
            }
        }
        Ok(Entry(members))
    }
}

/// Bytes of a set: dozens of keys with their certificates fit.
pub const JWK_SET_BYTES_MAX: usize = 64 * 1024;
/// Keys of a set.
pub const JWK_SET_KEYS_MAX: usize = 64;
/// Longest name of a key.
const KID_BYTES_MAX: usize = 128;
/// What makes a key, limits it, or would be a secret. Certificates and the like beside a key prove nothing here.
const UNDERSTOOD: &[&str] =
    &["kty", "crv", "x", "y", "n", "e", "alg", "use", "d", "p", "q", "dp", "dq", "qi", "oth", "k"];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{KeyPair, SystemRandom};

    fn key() -> KeyPair {
        KeyPair::generate(&SystemRandom::new()).unwrap()
    }

    /// The key as a stranger would publish it.
    fn named(key: &KeyPair, kid: &str) -> String {
        let own = key.public_key();
        own.to_jwk().replace(&own.thumbprint(), kid)
    }

    fn read(keys: &[String]) -> Result<JwkSet, JwkSetError> {
        JwkSet::read(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes())
    }

    #[test]
    fn accepts_keys_under_the_names_that_their_owner_gives_them() {
        let (ec, ed) = (key(), KeyPair::generate_ed25519(&SystemRandom::new()).unwrap());
        let set = read(&[named(&ec, "k1"), named(&ed, "2026-01")]).unwrap();
        assert_eq!((set.len(), set.left_out(), set.is_empty()), (2, 0, false));
        assert_eq!(set.key("k1"), Some(ec.public_key()));
        assert_eq!(set.key("2026-01"), Some(ed.public_key()));
        assert_eq!(set.key(""), None);
    }

    #[test]
    fn accepts_members_of_others_and_leaves_out_keys_that_are_not_for_us() {
        let usable = named(&key(), "k1");
        let with = |member: &str| named(&key(), "other").replacen('{', &format!("{{{member},"), 1);
        let extra =
            usable.replacen('{', r#"{"x5t":"AAAA","x5c":["MIIB"],"issuer":"x","key_ops":["verify"],"#, 1);
        for other in [
            r#"{"kty":"oct-of-tomorrow"}"#.to_owned(),
            r#"{"kty":"EC","crv":"P-384","kid":"big","x":"AAAA","y":"AAAA"}"#.to_owned(),
            r#"{"kty":"RSA","kid":"short","n":"AQAB","e":"AQAB"}"#.to_owned(),
            named(&key(), "enc").replace(r#""use":"sig""#, r#""use":"enc""#),
            named(&key(), "").to_owned(),
            named(&key(), &"k".repeat(KID_BYTES_MAX + 1)),
            with(r#""key_ops":["encrypt"]"#),
            with(r#""key_ops":"verify""#),
        ] {
            let set = read(&[extra.clone(), other.clone()]).unwrap();
            assert_eq!((set.len(), set.left_out()), (1, 1), "{other}");
        }
    }

    #[test]
    fn rejects_a_set_without_a_key_of_use() {
        assert_eq!(read(&[]), Err(JwkSetError::NoneOfUse { left_out: 0 }));
        assert_eq!(read(&[r#"{"kty":"RSA"}"#.into()]), Err(JwkSetError::NoneOfUse { left_out: 1 }));
    }

    #[test]
    fn rejects_a_private_member_even_in_a_key_for_something_else() {
        let leaked = named(&key(), "enc").replace(r#""use":"sig""#, r#""use":"enc","d":"AAAA""#);
        assert_eq!(read(&[named(&key(), "k1"), leaked]), Err(JwkSetError::Private));
        let shared = r#"{"kty":"oct","kid":"h","k":"c2VjcmV0"}"#.to_owned();
        assert_eq!(read(&[named(&key(), "k1"), shared]), Err(JwkSetError::Private));
    }

    #[test]
    fn rejects_two_keys_of_one_name() {
        let refused = read(&[named(&key(), "k1"), named(&key(), "k1")]);
        assert_eq!(refused, Err(JwkSetError::SameName { kid: "k1".into() }));
    }

    #[test]
    fn rejects_what_is_no_set_and_members_that_occur_twice() {
        let doubled = named(&key(), "k1").replacen('{', r#"{"kid":"k2","#, 1);
        for bad in [
            "".to_owned(),
            "[]".into(),
            r#"{"keys":{}}"#.into(),
            r#"{"keys":[1]}"#.into(),
            r#"{"keys":[],"keys":[]}"#.into(),
            format!(r#"{{"keys":[{doubled}]}}"#),
        ] {
            assert_eq!(JwkSet::read(bad.as_bytes()), Err(JwkSetError::Malformed), "{bad}");
        }
    }

    #[test]
    fn rejects_a_set_one_past_its_limits() {
        let keys: Vec<String> = (0..=JWK_SET_KEYS_MAX).map(|n| named(&key(), &format!("k{n}"))).collect();
        assert_eq!(read(&keys), Err(JwkSetError::TooMany { count: JWK_SET_KEYS_MAX + 1 }));
        assert!(read(keys.get(1..).unwrap_or_default()).is_ok());
        let set = format!(r#"{{"keys":[{}]}}"#, named(&key(), "k1"));
        let padded = |bytes: usize| format!("{set}{}", " ".repeat(bytes - set.len()));
        assert!(JwkSet::read(padded(JWK_SET_BYTES_MAX).as_bytes()).is_ok());
        let bytes = JWK_SET_BYTES_MAX + 1;
        assert_eq!(JwkSet::read(padded(bytes).as_bytes()), Err(JwkSetError::TooLong { bytes }));
    }
}
