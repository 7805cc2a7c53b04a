//! Macaroons: a token that whoever holds it can narrow, without asking anybody, before passing it on.
//!
//! A macaroon is an identifier, a list of caveats, and one MAC chained over them: each caveat is hashed under the MAC so far, so
//! anybody can append one and nobody can take one away. Two layers, and a wall between them:
//!
//! - **The format** (this file, [`chain`], [`packets`], [`binary`], [`json`], [`secretbox`], [`verify`]): macaroons as
//!   libmacaroons, pymacaroons and others have them, byte for byte, in all three serialisations. It knows nothing of services.
//! - **Our profile** ([`service`], [`caveat`], [`ticket`]): what an identifier says, the eight caveats that exist and that every
//!   other one denies, one root key per callee, and [`HeldMacaroon::present`], which narrows to one request before a token
//!   leaves its holder.
//!
//! ```
//! use countersign_identity::{SpiffeId, UnixTime};
//! use countersign_token::macaroon::{HeldMacaroon, MacaroonName, Narrowing, RequestFacts, RootKey, service};
//!
//! let (ads, users): (SpiffeId, SpiffeId) = ("spiffe://td/svc/ads".parse()?, "spiffe://td/svc/users".parse()?);
//! let (root, now) = (RootKey::derive(b"32 random bytes that users holds"), UnixTime::from_secs(1_800_000_000));
//! let name = MacaroonName::new("k1", ads.clone(), [7; 16])?;
//! let minted = service::mint(&root, &name, &users, UnixTime::from_secs(1_800_003_600))?;
//!
//! // ads, before every call, with nobody's help
//! let held = HeldMacaroon::new(minted);
//! let before = UnixTime::from_secs(1_800_000_030);
//! let narrowing = Narrowing { callee: &users, method: "GET", path: "/users/7", query: None, body: None, before };
//! let credential = held.present(&narrowing)?;
//!
//! // users
//! let facts = RequestFacts {
//!     callee: &users, method: "GET", path: "/users/7", query: None, body: None, caller: None, user: None, now,
//! };
//! let holder = service::verify(&credential, &facts, |key_id| (key_id == "k1").then_some(&root))?;
//! assert_eq!(holder.owner, ads);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod binary;
pub mod caveat;
pub mod chain;
pub mod format;
pub mod json;
pub mod packets;
pub mod secretbox;
pub mod service;
pub mod ticket;
pub mod verify;

use std::borrow::Cow;

pub use caveat::{Predicate, PredicateError, RequestFacts};
pub use chain::{RootKey, Tag};
pub use format::MacaroonFormatError;
pub use service::{HeldMacaroon, MacaroonError, MacaroonHolder, MacaroonName, Narrowing};
pub use ticket::{Ticket, TicketError, TicketKey};
pub use verify::{ChainError, verify_chain};

use secretbox::NONCE_BYTES;

/// A macaroon of any service, as it was read or built. Says nothing about whether it is genuine: [`verify_chain`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Macaroon<'a> {
    location: Cow<'a, str>,
    identifier: Cow<'a, [u8]>,
    caveats: Vec<Caveat<'a>>,
    tag: Tag,
}

/// One caveat: a predicate that the verifier judges, or one that somebody else has to discharge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caveat<'a> {
    id: Cow<'a, [u8]>,
    third_party: Option<ThirdParty<'a>>,
}

/// Who discharges a caveat, and the key for it, sealed under the MAC of the chain so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThirdParty<'a> {
    location: Cow<'a, str>,
    verification_id: Cow<'a, [u8]>,
}

impl Macaroon<'static> {
    /// A new macaroon without caveats. The location is a hint that no MAC covers.
    ///
    /// # Errors
    /// The identifier is empty, or it or the location is too long.
    pub fn mint(location: &str, identifier: &[u8], key: &RootKey) -> Result<Self, AttenuateError> {
        Ok(Self {
            location: Cow::Owned(fitting("location", location.len()).map(|()| location.to_owned())?),
            identifier: Cow::Owned(filled("identifier", identifier)?.to_vec()),
            caveats: Vec::new(),
            tag: chain::start(key, identifier),
        })
    }
}

impl<'a> Macaroon<'a> {
    /// Appends a first-party caveat: from here on the macaroon is good for less.
    ///
    /// # Errors
    /// The predicate is empty or too long, or there are [`CAVEATS_MAX`] already.
    pub fn attenuate(mut self, predicate: impl AsRef<[u8]>) -> Result<Self, AttenuateError> {
        let id = filled("caveat", predicate.as_ref())?;
        self.has_room()?;
        self.tag = chain::first_party(&self.tag, id);
        self.caveats.push(Caveat { id: Cow::Owned(id.to_vec()), third_party: None });
        Ok(self)
    }

    /// Appends a third-party caveat: from here on a discharge is needed, minted under `key` with `id` as its identifier.
    /// How whoever is at `location` learns `key` from `id` is a matter between the two: [`ticket`] is our way.
    ///
    /// `nonce` is random, and never used twice.
    ///
    /// # Errors
    /// A part is empty or too long, or there are [`CAVEATS_MAX`] already.
    pub fn attenuate_third_party(
        mut self,
        location: &str,
        key: &RootKey,
        id: &[u8],
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Self, AttenuateError> {
        fitting("location", location.len())?;
        let id = filled("caveat", id)?;
        self.has_room()?;
        let sealed = secretbox::seal(self.tag.bytes(), nonce, key.derived());
        let verification_id = sealed.ok_or(AttenuateError::NotSealed)?;
        self.tag = chain::third_party(&self.tag, &verification_id, id);
        self.caveats.push(Caveat {
            id: Cow::Owned(id.to_vec()),
            third_party: Some(ThirdParty {
                location: Cow::Owned(location.to_owned()),
                verification_id: Cow::Owned(verification_id),
            }),
        });
        Ok(self)
    }

    /// This discharge, fit to be sent beside `root` and with no other macaroon. Attenuate `root` first: what is appended
    /// later loosens the bond.
    #[must_use]
    pub fn bound_to(mut self, root: &Macaroon<'_>) -> Self {
        self.tag = chain::bind(&root.tag, &self.tag);
        self
    }

    /// Where it is to be shown. No MAC covers it.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.location
    }

    /// What it is: for its issuer to understand.
    #[must_use]
    pub fn identifier(&self) -> &[u8] {
        &self.identifier
    }

    /// In the order in which they were appended.
    #[must_use]
    pub fn caveats(&self) -> &[Caveat<'a>] {
        &self.caveats
    }

    /// The same, owing nothing to the text that it was read from.
    #[must_use]
    pub fn into_owned(self) -> Macaroon<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let bytes = |bytes: Cow<'_, [u8]>| Cow::Owned(bytes.into_owned());
        let caveats = self.caveats.into_iter().map(|caveat| Caveat {
            id: bytes(caveat.id),
            third_party: caveat.third_party.map(|third| ThirdParty {
                location: owned(third.location),
                verification_id: bytes(third.verification_id),
            }),
        });
        Macaroon {
            location: owned(self.location),
            identifier: bytes(self.identifier),
            caveats: caveats.collect(),
            tag: self.tag,
        }
    }

    fn has_room(&self) -> Result<(), AttenuateError> {
        if self.caveats.len() < CAVEATS_MAX { Ok(()) } else { Err(AttenuateError::TooManyCaveats) }
    }
}

impl Caveat<'_> {
    /// The predicate, or for a third party what it recognises the caveat by.
    #[must_use]
    pub fn id(&self) -> &[u8] {
        &self.id
    }

    fn is_predicate(&self, text: &str) -> bool {
        self.third_party.is_none() && *self.id == *text.as_bytes()
    }

    /// Who discharges it; `None` for a caveat that the verifier itself judges.
    #[must_use]
    pub fn discharger(&self) -> Option<&str> {
        self.third_party.as_ref().map(|third| &*third.location)
    }
}

fn filled<'b>(field: &'static str, bytes: &'b [u8]) -> Result<&'b [u8], AttenuateError> {
    if bytes.is_empty() {
        return Err(AttenuateError::Empty { field });
    }
    fitting(field, bytes.len()).map(|()| bytes)
}

fn fitting(field: &'static str, bytes: usize) -> Result<(), AttenuateError> {
    if bytes > FIELD_BYTES_MAX { Err(AttenuateError::TooLong { field, bytes }) } else { Ok(()) }
}

/// Why a macaroon was not made, or not narrowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttenuateError {
    /// Nothing in it.
    #[error("the macaroon's {field} must not be empty")]
    Empty {
        /// Which part.
        field: &'static str,
    },
    /// Over [`FIELD_BYTES_MAX`].
    #[error("the macaroon's {field} has {bytes} bytes, at most {FIELD_BYTES_MAX} are allowed")]
    TooLong {
        /// Which part.
        field: &'static str,
        /// How long it is.
        bytes: usize,
    },
    /// It has [`CAVEATS_MAX`] already.
    #[error("the macaroon has {CAVEATS_MAX} caveats, which is the most; ask its issuer for a fresh one")]
    TooManyCaveats,
    /// The crypto library gave no reason.
    #[error("the key of the third-party caveat could not be sealed")]
    NotSealed,
}

/// Longest macaroon, in bytes of any of its serialisations.
pub const MACAROON_BYTES_MAX: usize = 8 * 1024;
/// Longest location, identifier, caveat and verification id.
pub const FIELD_BYTES_MAX: usize = 4096;
/// Most caveats of one macaroon.
pub const CAVEATS_MAX: usize = 32;
/// Most discharges beside one macaroon.
pub const DISCHARGES_MAX: usize = 8;
