//! Our profile: who a macaroon speaks for, how it is written into a request, and how a callee judges it.
//!
//! ```text
//! Authorization: Macaroon <v2 binary in base64url>[,<discharge>…]
//!
//! identifier   1 <key id> <SPIFFE ID of the owner> <22 characters of base64url: 128 random bits>
//! location     SPIFFE ID of the callee
//! ```
//!
//! The root key is the callee's own: what a callee could forge with it is good at that callee alone.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{Binding, Bound, IdError, SpiffeId, UnixTime, Verified};

use super::{
    AttenuateError, ChainError, DISCHARGES_MAX, MACAROON_BYTES_MAX, Macaroon, MacaroonFormatError, Predicate,
    PredicateError, RequestFacts, RootKey, binary, caveat::query_digest, format::encode_base64,
    secretbox::NONCE_BYTES, ticket::Ticket, verify_chain,
};
use crate::{jws::printable, revoked::TokenFacts};

/// A macaroon by which `name.owner` may call `callee` until `expires`, as wide as any will ever be.
///
/// # Errors
/// The parts are too long for a macaroon.
pub fn mint(
    root: &RootKey,
    name: &MacaroonName,
    callee: &SpiffeId,
    expires: UnixTime,
) -> Result<Macaroon<'static>, AttenuateError> {
    Macaroon::mint(callee.as_str(), name.to_string().as_bytes(), root)?
        .attenuate(Predicate::Audience(callee.as_str()).to_string())?
        .attenuate(Predicate::Before(expires).to_string())
}

/// Judges what followed the word `Macaroon` in the request that `facts` are about.
///
/// `key_of` finds a root key of this callee by its id. Whether the macaroon's id was revoked is for whoever holds the
/// snapshot to ask.
///
/// # Errors
/// See [`MacaroonError`].
pub fn verify<'k>(
    credential: &str,
    facts: &RequestFacts<'_>,
    key_of: impl FnOnce(&str) -> Option<&'k RootKey>,
) -> Result<Verified<MacaroonHolder>, MacaroonError> {
    let mut narrowed = Narrowed::default();
    let name = judge(credential, facts.callee, key_of, |caveat| {
        let predicate = Predicate::parse(caveat)?;
        predicate.judge(facts)?;
        narrowed.note(&predicate);
        Ok(())
    })?;
    Ok(Verified::vouch(narrowed.holder(name)))
}

/// Judges the MACs alone, for whoever examines a macaroon without the request that it is to be good for. `caveat` gets
/// each first-party caveat, known here or not, and what it means is for whoever asks to say; so this is no evidence, and
/// what it gives is not [`Verified`]. Discharges may be bound to the macaroon already, or lie beside it as in a file.
///
/// # Errors
/// See [`MacaroonError`].
pub fn examine<'k>(
    credential: &str,
    callee: &SpiffeId,
    key_of: impl Fn(&str) -> Option<&'k RootKey>,
    mut caveat: impl FnMut(&[u8]),
) -> Result<MacaroonHolder, MacaroonError> {
    let mut narrowed = Narrowed::default();
    let mut note = |text: &[u8]| {
        caveat(text);
        if let Ok(predicate) = Predicate::parse(text) {
            narrowed.note(&predicate);
        }
        Ok(())
    };
    let name = match judge(credential, callee, &key_of, &mut note) {
        Err(MacaroonError::Chain(ChainError::BadDischarge { .. })) => {
            judge(&HeldMacaroon::parse(credential)?.bound(), callee, &key_of, &mut note)
        }
        judged => judged,
    }?;
    Ok(narrowed.holder(name))
}

/// Every MAC under the root key of `callee`, then the caveats.
fn judge<'k>(
    credential: &str,
    callee: &SpiffeId,
    key_of: impl FnOnce(&str) -> Option<&'k RootKey>,
    satisfied: impl FnMut(&[u8]) -> Result<(), PredicateError>,
) -> Result<MacaroonName, MacaroonError> {
    let bytes = decode(credential)?;
    let (root, discharges) = bytes.split_first().ok_or(MacaroonError::NotBase64Url)?;
    let root = binary::read(root)?;
    let discharges: Vec<_> = discharges.iter().map(|bytes| binary::read(bytes)).collect::<Result<_, _>>()?;
    let name = MacaroonName::parse(root.identifier())?;
    let key =
        key_of(&name.key_id).ok_or_else(|| MacaroonError::UnknownKey { key_id: name.key_id.clone() })?;
    if root.location() != callee.as_str() {
        return Err(MacaroonError::WrongLocation { got: printable(root.location()) });
    }
    verify_chain(&root, &discharges, key, satisfied)?;
    Ok(name)
}

/// Whom a macaroon speaks for, and what this copy of it was good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MacaroonHolder {
    /// The workload it was issued to.
    pub owner: SpiffeId,
    /// Its random id, shared by every copy however narrowed: for revocation and the ledger.
    pub id: String,
    /// The root key that signed it.
    pub key_id: String,
    /// The earliest `before`; `None` only when whoever minted it set none.
    pub expires: Option<UnixTime>,
    /// What the caveats tie this copy to: the target by `aud` and `path`, method and query by `method` and `query-sha256`, the
    /// body by `body-sha256`. Whoever holds a wider copy could have tied it otherwise.
    pub binding: Binding,
}

impl MacaroonHolder {
    /// By what it can be taken back. It does not say when it was issued, and `now` is as late as that can be.
    #[must_use]
    pub fn facts(&self, now: UnixTime) -> TokenFacts {
        TokenFacts {
            ids: vec![self.id.clone()],
            subject: self.owner.to_string(),
            kid: self.key_id.clone(),
            issued_at: now,
            expires: self.expires.unwrap_or(now),
        }
    }
}

/// What the caveats seen so far leave.
#[derive(Default)]
struct Narrowed {
    expires: Option<UnixTime>,
    audience: bool,
    path: bool,
    method: bool,
    query: bool,
    body: bool,
}

impl Narrowed {
    fn note(&mut self, predicate: &Predicate<'_>) {
        match predicate {
            Predicate::Audience(_) => self.audience = true,
            Predicate::Path(_) => self.path = true,
            Predicate::Method(_) => self.method = true,
            Predicate::Query(_) => self.query = true,
            Predicate::Body(_) => self.body = true,
            Predicate::Before(end) => {
                self.expires = Some(self.expires.map_or(*end, |earliest| earliest.min(*end)));
            }
            Predicate::PathUnder(_) | Predicate::Caller(_) | Predicate::User(_) => {}
        }
    }

    fn holder(&self, name: MacaroonName) -> MacaroonHolder {
        let MacaroonName { key_id, owner, id } = name;
        MacaroonHolder { owner, id, key_id, expires: self.expires, binding: self.binding() }
    }

    fn binding(&self) -> Binding {
        let bounds = [
            (self.audience && self.path, Bound::Target),
            (self.method && self.query, Bound::MethodAndQuery),
            (self.body, Bound::Body),
        ];
        let held = bounds.into_iter().filter(|(held, _)| *held);
        held.fold(Binding::NONE, |binding, (_, bound)| binding.and(bound))
    }
}

/// What the identifier says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MacaroonName {
    /// The root key of the callee under which it was minted.
    pub key_id: String,
    /// The workload it speaks for.
    pub owner: SpiffeId,
    /// Its random id: 22 characters of base64url.
    pub id: String,
}

impl MacaroonName {
    /// The name of a new macaroon; `random` is 128 random bits.
    ///
    /// # Errors
    /// The id of the key is not 1 to 64 letters, digits, `_` and `-`.
    pub fn new(key_id: &str, owner: SpiffeId, random: [u8; 16]) -> Result<Self, MacaroonError> {
        let id = URL_SAFE_NO_PAD.encode(random);
        Ok(Self { key_id: checked_key_id(key_id)?.to_owned(), owner, id })
    }

    /// Reads an identifier.
    ///
    /// # Errors
    /// It is not one of ours.
    pub fn parse(identifier: &[u8]) -> Result<Self, MacaroonError> {
        let text = std::str::from_utf8(identifier).map_err(|_| MacaroonError::NotAName)?;
        let mut parts = text.split(' ');
        let (Some(VERSION), Some(key_id), Some(owner), Some(id), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(MacaroonError::NotAName);
        };
        // The decoder asks for room for three bytes out of every four characters begun.
        let mut random = [0; ID_BYTES + 2];
        if URL_SAFE_NO_PAD.decode_slice(id, &mut random) != Ok(ID_BYTES) {
            return Err(MacaroonError::NotAName);
        }
        let (key_id, owner) = (checked_key_id(key_id)?, SpiffeId::parse(owner)?);
        Ok(Self { key_id: key_id.to_owned(), owner, id: id.to_owned() })
    }
}

/// As the identifier is written.
impl std::fmt::Display for MacaroonName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{VERSION} {} {} {}", self.key_id, self.owner, self.id)
    }
}

/// A macaroon at its owner, with the discharges that it needs, and before it is narrowed to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldMacaroon {
    root: Macaroon<'static>,
    discharges: Vec<Macaroon<'static>>,
}

/// The one request that a copy is to be good for.
#[derive(Clone, Copy, Debug)]
pub struct Narrowing<'a> {
    /// The callee.
    pub callee: &'a SpiffeId,
    /// The method.
    pub method: &'a str,
    /// The canonical path.
    pub path: &'a str,
    /// The canonical query without its `?`. It is always tied, an absent one too.
    pub query: Option<&'a str>,
    /// SHA-256 of the body, if it is to be tied.
    pub body: Option<[u8; 32]>,
    /// When the copy ends: seconds away.
    pub before: UnixTime,
}

impl HeldMacaroon {
    /// One that needs no discharge, or not yet.
    #[must_use]
    pub const fn new(root: Macaroon<'static>) -> Self {
        Self { root, discharges: Vec::new() }
    }

    /// Reads what a file holds: a macaroon and any unbound discharges, as they stand in a header.
    ///
    /// # Errors
    /// It is not in that form.
    pub fn parse(text: &str) -> Result<Self, MacaroonError> {
        let read = |bytes: &Vec<u8>| binary::read(bytes).map(Macaroon::into_owned);
        let mut all = decode(text)?.iter().map(read).collect::<Result<Vec<_>, _>>()?.into_iter();
        let root = all.next().ok_or(MacaroonError::NotBase64Url)?;
        Ok(Self { root, discharges: all.collect() })
    }

    /// The same with a discharge, unbound as its discharger gave it.
    #[must_use]
    pub fn with(mut self, discharge: Macaroon<'static>) -> Self {
        self.discharges.push(discharge);
        self
    }

    /// The macaroon itself, without its discharges.
    #[must_use]
    pub const fn root(&self) -> &Macaroon<'static> {
        &self.root
    }

    /// Who still has to discharge what: location and identifier of each caveat that has no discharge here.
    pub fn undischarged(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let all = std::iter::once(&self.root).chain(&self.discharges);
        all.flat_map(Macaroon::caveats).filter_map(|caveat| {
            let here = self.discharges.iter().any(|discharge| discharge.identifier() == caveat.id());
            caveat.discharger().filter(|_| !here).map(|location| (location, caveat.id()))
        })
    }

    /// As a file holds it: wide, so never to be sent.
    #[must_use]
    pub fn to_text(&self) -> String {
        encode(&self.root, &self.discharges)
    }

    /// As a credential that is not narrowed: each discharge bound to the macaroon as it stands.
    fn bound(&self) -> String {
        let discharges = self.discharges.iter().map(|discharge| discharge.clone().bound_to(&self.root));
        encode(&self.root, &discharges.collect::<Vec<_>>())
    }

    /// The same with one more caveat, for whoever is to get less than its holder has.
    ///
    /// # Errors
    /// See [`AttenuateError`].
    pub fn narrowed(mut self, predicate: &Predicate<'_>) -> Result<Self, AttenuateError> {
        self.root = self.root.attenuate(predicate.to_string())?;
        Ok(self)
    }

    /// The same with a caveat that `discharger` has to discharge: see [`Self::undischarged`]. `nonce` is random, and never used
    /// twice.
    ///
    /// # Errors
    /// See [`AttenuateError`].
    pub fn demanding(
        mut self,
        ticket: &Ticket,
        discharger: &str,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Self, AttenuateError> {
        self.root = ticket.demand(self.root, discharger, nonce)?;
        Ok(self)
    }

    /// What follows the word `Macaroon` in one request: a copy that is good for this request alone and only for seconds, its
    /// discharges bound to it.
    ///
    /// # Errors
    /// See [`AttenuateError`].
    pub fn present(&self, to: &Narrowing<'_>) -> Result<String, AttenuateError> {
        let mut copy = self.root.clone();
        let predicates = [
            Some(Predicate::Audience(to.callee.as_str())),
            Some(Predicate::Method(to.method)),
            Some(Predicate::Path(to.path)),
            Some(Predicate::Query(query_digest(to.query))),
            Some(Predicate::Before(to.before)),
            to.body.map(Predicate::Body),
        ];
        for predicate in predicates.into_iter().flatten() {
            let predicate = predicate.to_string();
            // Said twice it would cost a MAC more and mean the same: ours name their audience from the start.
            if !copy.caveats().iter().any(|caveat| caveat.is_predicate(&predicate)) {
                copy = copy.attenuate(predicate)?;
            }
        }
        let bound: Vec<_> =
            self.discharges.iter().map(|discharge| discharge.clone().bound_to(&copy)).collect();
        Ok(encode(&copy, &bound))
    }
}

fn encode(root: &Macaroon<'_>, discharges: &[Macaroon<'_>]) -> String {
    let all = std::iter::once(root).chain(discharges);
    all.map(|macaroon| encode_base64(&binary::write(macaroon))).collect::<Vec<_>>().join(",")
}

/// The macaroons of a credential, the root first; in the one canonical encoding.
fn decode(credential: &str) -> Result<Vec<Vec<u8>>, MacaroonError> {
    if credential.len() > CREDENTIAL_BYTES_MAX {
        return Err(MacaroonFormatError::TooLarge { bytes: credential.len() }.into());
    }
    let mut macaroons = Vec::with_capacity(1);
    for part in credential.split(',') {
        if macaroons.len() > DISCHARGES_MAX {
            return Err(ChainError::TooManyDischarges { discharges: macaroons.len() }.into());
        }
        let bytes = URL_SAFE_NO_PAD.decode(part).ok().filter(|bytes| !bytes.is_empty());
        macaroons.push(bytes.ok_or(MacaroonError::NotBase64Url)?);
    }
    Ok(macaroons)
}

fn checked_key_id(key_id: &str) -> Result<&str, MacaroonError> {
    let plain = key_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if plain && (1..=KEY_ID_BYTES_MAX).contains(&key_id.len()) {
        Ok(key_id)
    } else {
        Err(MacaroonError::BadKeyId)
    }
}

/// Why a macaroon proves nothing here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacaroonError {
    /// The credential is not macaroons in canonical base64url between commas.
    #[error("the credential is not macaroons in base64url without padding, between commas")]
    NotBase64Url,
    /// Not a macaroon.
    #[error(transparent)]
    Format(#[from] MacaroonFormatError),
    /// The identifier is somebody else's.
    #[error("the macaroon's identifier is not one of ours; get one from this deployment's authority")]
    NotAName,
    /// The id of the root key is malformed.
    #[error("the id of a macaroon's key has 1 to {KEY_ID_BYTES_MAX} letters, digits, '_' and '-'")]
    BadKeyId,
    /// The identifier names no workload.
    #[error(transparent)]
    Owner(#[from] IdError),
    /// No root key of this callee has that id.
    #[error("no macaroon key {key_id:?} is known here; get a fresh macaroon")]
    UnknownKey {
        /// Its id.
        key_id: String,
    },
    /// For another callee.
    #[error("the macaroon is for {got:?}, not for this service")]
    WrongLocation {
        /// For whom it is.
        got: String,
    },
    /// Its MACs or its discharges do not fit, or a caveat does not hold.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl From<PredicateError> for MacaroonError {
    fn from(error: PredicateError) -> Self {
        Self::Chain(ChainError::Predicate(error))
    }
}

/// Longest credential: a macaroon and its discharges in base64url.
pub const CREDENTIAL_BYTES_MAX: usize = 2 * MACAROON_BYTES_MAX;
/// Longest id of a root key.
pub const KEY_ID_BYTES_MAX: usize = 64;
const VERSION: &str = "1";
const ID_BYTES: usize = 16;
