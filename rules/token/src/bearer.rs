//! Opaque bearer tokens: the simple way to prove who calls, made safe to hand out.
//!
//! ```text
//! csb_ + 16 characters of id + 32 characters of secret + 7 characters of checksum
//! ```
//!
//! in the lower-case alphabet of Crockford's base 32. The **id** is public: ledger, listings and revocation name it. The
//! **secret** has 160 random bits, and nobody keeps it: the authority and the callees in its scope hold only
//! [`BearerKey::hash`] of the whole token. The **checksum** lets a scanner of repositories and logs tell a real token from
//! something that looks like one, without asking anybody: see [`SCANNER_PATTERN`].
//!
//! Two tokens of one owner may live side by side, which is how they are rotated. Revocation removes the entry, or names the
//! id in the snapshot.

use std::fmt;

use countersign_identity::{SpiffeId, UnixTime, Verified};
use countersign_keys::{MacKey, RandomError, Secret, SecureRandom, constant_time_eq, random_bytes};

use crate::revoked::TokenFacts;

/// A whole token. Whoever holds it speaks for its owner, so it is wiped when dropped and never printed.
#[derive(Clone, Debug)]
pub struct BearerToken {
    id: BearerId,
    text: Secret<String>,
}

impl BearerToken {
    /// A new token of 80 random bits of id and 160 of secret.
    ///
    /// # Errors
    /// The generator failed.
    pub fn mint(rng: &dyn SecureRandom) -> Result<Self, RandomError> {
        let (id, secret) = (random_bytes::<ID_BYTES>(rng)?, Secret::new(random_bytes::<SECRET_BYTES>(rng)?));
        let mut text = String::with_capacity(BEARER_BYTES);
        text.push_str(BEARER_PREFIX);
        write_crockford(&id, &mut text);
        write_crockford(secret.expose(), &mut text);
        let sum = checksum(text.as_bytes().get(BEARER_PREFIX.len()..).unwrap_or_default());
        write_crockford(&sum.to_be_bytes(), &mut text);
        let id = Shape::of(&text).map(|shape| shape.id).unwrap_or(BearerId([b'0'; ID_CHARS]));
        Ok(Self { id, text: Secret::new(text) })
    }

    /// Reads a token as it was minted; nothing is trimmed, and case counts.
    ///
    /// # Errors
    /// No token of this kind, or one that lost or changed a character.
    pub fn parse(text: &str) -> Result<Self, BearerError> {
        let shape = Shape::of(text).ok_or(BearerError::NotBearer)?;
        if !shape.is_whole() {
            return Err(BearerError::Checksum);
        }
        Ok(Self { id: shape.id, text: Secret::new(text.to_owned()) })
    }

    /// Its public part.
    #[must_use]
    pub const fn id(&self) -> BearerId {
        self.id
    }

    /// The whole token, for the one header or file that it is meant for.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.text.expose()
    }
}

/// Whose token it is: looks it up by its id, then compares the keyed hash in constant time. An id that nobody knows costs
/// the same time as a wrong secret.
///
/// `entry_of` knows the tokens whose scope names this callee, and no others.
///
/// # Errors
/// See [`BearerError`]; the caller of the service learns no more than that it was refused.
pub fn verify(
    text: &str,
    key: &BearerKey,
    now: UnixTime,
    entry_of: impl FnOnce(BearerId) -> Option<BearerEntry>,
) -> Result<Verified<BearerHolder>, BearerError> {
    let id = Shape::claimed_id(text).ok_or(BearerError::NotBearer)?;
    let (entry, hash) = (entry_of(id), key.hash_text(text));
    // Alphabet and checksum are looked at for those alone who are refused anyway: a hash that fits covers both.
    let why = |error| match Shape::of(text) {
        None => BearerError::NotBearer,
        Some(shape) if !shape.is_whole() => BearerError::Checksum,
        Some(_) => error,
    };
    let known = entry.as_ref().map_or(BearerHash([0; HASH_BYTES]), |entry| entry.hash);
    let fits = known == hash;
    let entry = entry.ok_or_else(|| why(BearerError::Unknown { id }))?;
    if !fits {
        return Err(why(BearerError::WrongSecret { id }));
    }
    if now >= entry.expires {
        return Err(BearerError::Expired { id, by_seconds: now.since(entry.expires).as_secs() });
    }
    Ok(Verified::vouch(BearerHolder { owner: entry.owner, id, expires: entry.expires }))
}

/// Whether a credential claims to be of this kind, so that what follows is final.
#[must_use]
pub fn claims_to_be(text: &str) -> bool {
    text.starts_with(BEARER_PREFIX)
}

/// Whom a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BearerHolder {
    /// The workload.
    pub owner: SpiffeId,
    /// Public part of the token, for revocation and the ledger.
    pub id: BearerId,
    /// When it stops to count.
    pub expires: UnixTime,
}

impl BearerHolder {
    /// By what it can be taken back. It does not say when it was issued, and `now` is as late as that can be.
    #[must_use]
    pub fn facts(&self, now: UnixTime) -> TokenFacts {
        TokenFacts {
            ids: vec![self.id.to_string()],
            subject: self.owner.to_string(),
            kid: String::new(),
            issued_at: now,
            expires: self.expires,
        }
    }
}

/// What is kept of a token: enough to recognise it, too little to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BearerEntry {
    /// The workload that it speaks for.
    pub owner: SpiffeId,
    /// [`BearerKey::hash`] of the whole token.
    pub hash: BearerHash,
    /// When it stops to count.
    pub expires: UnixTime,
}

/// The key under which tokens are hashed for one callee: without it a stolen list of hashes cannot even be checked
/// against guesses.
#[derive(Clone, Debug)]
pub struct BearerKey(MacKey);

impl BearerKey {
    /// Takes charge of 32 random bytes.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(MacKey::new(&key))
    }

    /// HMAC-SHA-256 over `countersign/v1/bearer` 0x00 and the whole token.
    #[must_use]
    pub fn hash(&self, token: &BearerToken) -> BearerHash {
        self.hash_text(token.expose())
    }

    fn hash_text(&self, text: &str) -> BearerHash {
        BearerHash(self.0.mac_for("bearer", text.as_bytes()))
    }
}

/// Keyed hash of a whole token. Equality takes the same time wherever two differ.
#[derive(Clone, Copy, Debug)]
pub struct BearerHash(pub [u8; HASH_BYTES]);

impl PartialEq for BearerHash {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(&self.0, &other.0)
    }
}

impl Eq for BearerHash {}

/// The public part of a token: 16 characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BearerId([u8; ID_CHARS]);

impl BearerId {
    /// Reads an id as it is displayed.
    ///
    /// # Errors
    /// Not 16 characters of the alphabet.
    pub fn parse(text: &str) -> Result<Self, BearerError> {
        let id: [u8; ID_CHARS] = text.as_bytes().try_into().map_err(|_| BearerError::BadId)?;
        if id.iter().all(|c| CROCKFORD.contains(c)) { Ok(Self(id)) } else { Err(BearerError::BadId) }
    }
}

impl fmt::Display for BearerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

impl fmt::Debug for BearerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text with the right prefix, length and alphabet.
struct Shape<'a> {
    id: BearerId,
    covered: &'a [u8],
    sum: &'a [u8],
}

impl<'a> Shape<'a> {
    /// Where the id of a token of this length would be, in whatever alphabet.
    fn claimed_id(text: &str) -> Option<BearerId> {
        let body = text.strip_prefix(BEARER_PREFIX)?.as_bytes();
        let id = body.first_chunk().filter(|_| text.len() == BEARER_BYTES)?;
        Some(BearerId(*id))
    }

    fn of(text: &'a str) -> Option<Self> {
        let body = text.strip_prefix(BEARER_PREFIX)?.as_bytes();
        if body.len() != BEARER_BYTES - BEARER_PREFIX.len() || !body.iter().all(|c| CROCKFORD.contains(c)) {
            return None;
        }
        let (covered, sum) = body.split_at_checked(ID_CHARS + SECRET_CHARS)?;
        Some(Self { id: BearerId(*covered.first_chunk()?), covered, sum })
    }

    fn is_whole(&self) -> bool {
        let mut expected = String::with_capacity(SUM_CHARS);
        write_crockford(&checksum(self.covered).to_be_bytes(), &mut expected);
        expected.as_bytes() == self.sum
    }
}

/// Five bits a character, the highest first; what is missing at the end is zero.
fn write_crockford(bytes: &[u8], text: &mut String) {
    let (mut bits, mut held) = (0_u32, 0_u32);
    for byte in bytes {
        (bits, held) = ((bits << 8) | u32::from(*byte), held + 8);
        while held >= 5 {
            held -= 5;
            push_digit(bits >> held, text);
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        push_digit(bits << (5 - held), text);
    }
}

fn push_digit(bits: u32, text: &mut String) {
    let digit = usize::try_from(bits & 31).ok().and_then(|value| CROCKFORD.get(value));
    text.push(char::from(digit.copied().unwrap_or(b'0')));
}

/// CRC-32 as in IEEE 802.3 and gzip: every language has it, so every scanner can check it. It finds slips, not forgeries.
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(crc & 1)))
    })
}

/// Why a bearer token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// Prefix, length or alphabet is not that of a token.
    #[error(
        "this is no bearer token: it begins with {BEARER_PREFIX} and has {BEARER_BYTES} characters, copy it whole"
    )]
    NotBearer,
    /// A character was lost, changed or invented.
    #[error("the bearer token's checksum does not fit; copy it again from where it was issued")]
    Checksum,
    /// Not an id of a token.
    #[error("this is no id of a bearer token: it has {ID_CHARS} characters")]
    BadId,
    /// No token of this id is meant for this callee, or it was revoked.
    #[error("no bearer token {id} is known here; issue one whose scope names this service")]
    Unknown {
        /// Its public part.
        id: BearerId,
    },
    /// The id is known, the rest is not that of the token.
    #[error("the secret of bearer token {id} is wrong")]
    WrongSecret {
        /// Its public part.
        id: BearerId,
    },
    /// Too old.
    #[error("bearer token {id} expired {by_seconds} s ago; issue a new one")]
    Expired {
        /// Its public part.
        id: BearerId,
        /// How long ago.
        by_seconds: u64,
    },
}

/// How every token begins.
pub const BEARER_PREFIX: &str = "csb_";
/// Length of a token.
pub const BEARER_BYTES: usize = BEARER_PREFIX.len() + ID_CHARS + SECRET_CHARS + SUM_CHARS;
/// What scanners of repositories and logs look for. The last 7 characters are the CRC-32 of the 48 before them, big-endian,
/// in the same alphabet with three zero bits at the end: with it a scanner has no false alarm in four thousand million.
pub const SCANNER_PATTERN: &str = r"\bcsb_[0-9a-hjkmnp-tv-z]{55}\b";

const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ID_BYTES: usize = 10;
const ID_CHARS: usize = 16;
const SECRET_BYTES: usize = 20;
const SECRET_CHARS: usize = 32;
const SUM_CHARS: usize = 7;
const HASH_BYTES: usize = 32;
