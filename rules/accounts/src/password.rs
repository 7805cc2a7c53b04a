//! What a good password is (SP 800-63B-4 section 3.1.1), and how it is kept: Argon2id (RFC 9106) with a salt
//! of its own, and a pepper that lies in no database, as a self-describing PHC string.

use argon2::password_hash::phc::PasswordHash;
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use countersign_keys::{Secret, constant_time_eq};
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use crate::{
    argon::{HASH_BYTES, argon2id},
    blocklist::{self, BlockReason},
};

/// A password as it is hashed: NFKC, of bounded length, wiped when dropped, never printed.
#[derive(Clone, Debug)]
pub struct Password(Secret<String>);

impl Password {
    /// Reads what somebody typed to log in. Says nothing about whether it is a good one.
    pub fn read(typed: &str) -> Result<Self, PasswordError> {
        if typed.len() > PASSWORD_BYTES_MAX {
            return Err(PasswordError::TooLong);
        }
        // One allocation, wiped at the end: a string that grows leaves copies behind.
        let mut normal = Zeroizing::new(String::with_capacity(PASSWORD_BYTES_MAX));
        for (count, c) in typed.nfkc().enumerate() {
            if count >= PASSWORD_CHARS_MAX || normal.len() + c.len_utf8() > PASSWORD_BYTES_MAX {
                return Err(PasswordError::TooLong);
            }
            normal.push(c);
        }
        Ok(Self(Secret::new(std::mem::take(&mut *normal))))
    }

    /// Reads what somebody wants as their password: at least 15 characters, as it is the only factor, no
    /// rules on which characters, and not one that attackers try first. `context` are words that they would
    /// try for this account: its name, the trust domain.
    pub fn choose(typed: &str, context: &[&str]) -> Result<Self, PasswordError> {
        let password = Self::read(typed)?;
        let text = password.0.expose();
        if text.chars().any(char::is_control) {
            return Err(PasswordError::ControlCharacter);
        }
        let chars = text.chars().count();
        if chars < PASSWORD_CHARS_MIN {
            return Err(PasswordError::TooShort { chars });
        }
        blocklist::judge(text, context).map_err(PasswordError::Guessable)?;
        Ok(password)
    }

    fn text(&self) -> &str {
        self.0.expose()
    }

    /// Stands for a password that is too long to be anybody's.
    pub(crate) fn blank() -> Self {
        Self(Secret::new(String::new()))
    }
}

/// A key that goes into every hash and lies in no database: whoever steals the table cannot even try.
#[derive(Clone, Debug)]
pub struct Pepper {
    version: u32,
    key: Secret<[u8; PEPPER_BYTES]>,
}

impl Pepper {
    /// Version `version` of the pepper; the number is written into each hash, the key is not.
    pub fn new(version: u32, key: [u8; PEPPER_BYTES]) -> Self {
        Self { version, key: Secret::new(key) }
    }
}

/// The pepper that hashes now, and older ones that still verify.
#[derive(Clone, Debug)]
pub struct Peppers {
    current: Pepper,
    older: Vec<Pepper>,
}

impl Peppers {
    /// Only the current one.
    pub fn new(current: Pepper) -> Self {
        Self { current, older: Vec::new() }
    }

    /// `current` takes over; hashes under the others are replaced at their owners' next login.
    #[must_use]
    pub fn rotate(mut self, current: Pepper) -> Self {
        self.older.push(std::mem::replace(&mut self.current, current));
        self
    }

    /// The one that hashes now.
    pub fn current(&self) -> &Pepper {
        &self.current
    }

    fn find(&self, version: u32) -> Option<&Pepper> {
        std::iter::once(&self.current).chain(&self.older).find(|pepper| pepper.version == version)
    }
}

/// How costly a guess is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// What new hashes cost: 19 MiB, two passes, one lane.
pub const PARAMS: Params = Params { memory_kib: 19_456, passes: 2, lanes: 1 };

/// Hashes a chosen password: `$argon2id$v=19$m=19456,t=2,p=1,keyid=AAAAAQ$salt$hash`. `salt` must be random.
/// Blocking, some 20 ms and 19 MiB.
pub fn hash(password: &Password, pepper: &Pepper, salt: [u8; SALT_BYTES]) -> Result<String, HashError> {
    let hash = argon2id(password.text(), &pepper.key, PARAMS, &salt)?;
    Ok(Stored { params: PARAMS, pepper: pepper.version, salt: salt.to_vec(), hash }.to_phc())
}

/// Compares a password with a stored hash, in constant time. Blocking, one Argon2id computation; none when
/// it returns an error.
pub fn verify(password: &Password, stored: &str, peppers: &Peppers) -> Result<Verification, StoredHashError> {
    let stored = Stored::parse(stored)?;
    let pepper =
        peppers.find(stored.pepper).ok_or(StoredHashError::UnknownPepper { version: stored.pepper })?;
    let hash = argon2id(password.text(), &pepper.key, stored.params, &stored.salt)
        .map_err(|_| StoredHashError::Malformed)?;
    if !constant_time_eq(&hash, &stored.hash) {
        return Ok(Verification::NoMatch);
    }
    let outdated = stored.params != PARAMS || stored.pepper != peppers.current.version;
    Ok(Verification::Match { outdated })
}

/// The work of [`verify`] for an account that does not exist: it takes as long, and never matches.
pub fn verify_nobody(password: &Password, peppers: &Peppers) {
    let hash = argon2id(password.text(), &peppers.current.key, PARAMS, &[0; SALT_BYTES]);
    std::hint::black_box(hash.is_ok_and(|hash| constant_time_eq(&hash, &[0; HASH_BYTES])));
}

/// A hash in the database, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Stored {
    params: Params,
    pepper: u32,
    salt: Vec<u8>,
    hash: [u8; HASH_BYTES],
}

impl Stored {
    fn to_phc(&self) -> String {
        let Params { memory_kib, passes, lanes } = self.params;
        format!(
            "$argon2id$v=19$m={memory_kib},t={passes},p={lanes},keyid={}${}${}",
            STANDARD_NO_PAD.encode(self.pepper.to_be_bytes()),
            STANDARD_NO_PAD.encode(&self.salt),
            STANDARD_NO_PAD.encode(self.hash),
        )
    }

    fn parse(text: &str) -> Result<Self, StoredHashError> {
        if text.len() > STORED_BYTES_MAX {
            return Err(StoredHashError::Malformed);
        }
        if !text.starts_with("$argon2id$") {
            return Err(foreign(text));
        }
        let stored = Self::read(text).ok_or(StoredHashError::Malformed)?;
        // Written in our own way or not at all: nothing in it was ignored.
        if stored.to_phc() != text {
            return Err(StoredHashError::Malformed);
        }
        let Params { memory_kib, passes, lanes } = stored.params;
        if memory_kib < PARAMS.memory_kib || passes < PARAMS.passes || stored.salt.len() < SALT_BYTES {
            return Err(StoredHashError::TooWeak);
        }
        if memory_kib > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
            return Err(StoredHashError::TooCostly);
        }
        Ok(stored)
    }

    fn read(text: &str) -> Option<Self> {
        let phc = PasswordHash::new(text).ok()?;
        let mut pepper = [0; 4];
        let keyid = phc.params.get_str("keyid")?;
        if STANDARD_NO_PAD.decode_slice(keyid, &mut pepper).ok()? != pepper.len() {
            return None;
        }
        Some(Self {
            params: Params {
                memory_kib: phc.params.get_decimal("m")?,
                passes: phc.params.get_decimal("t")?,
                lanes: phc.params.get_decimal("p")?,
            },
            pepper: u32::from_be_bytes(pepper),
            salt: phc.salt?.to_vec(),
            hash: phc.hash?.as_bytes().try_into().ok()?,
        })
    }
}

/// Names what somebody tried to import. Nothing of it is ever verified.
fn foreign(text: &str) -> StoredHashError {
    let is_hex = text.len() >= 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.split('$').nth(1) {
        Some("2a" | "2b" | "2x" | "2y") => match bcrypt_cost(text) {
            Some(cost) => StoredHashError::Bcrypt { cost },
            None => StoredHashError::Malformed,
        },
        Some("1" | "apr1" | "5" | "6" | "sha1") => StoredHashError::Crypt,
        Some("argon2i" | "argon2d" | "scrypt" | "7" | "y" | "pbkdf2-sha256" | "pbkdf2-sha512" | "pbkdf2") => {
            StoredHashError::OtherFunction
        }
        _ if is_hex && FAST_HASH_HEX_DIGITS.contains(&text.len()) => StoredHashError::FastHash,
        _ => StoredHashError::Plain,
    }
}

/// `$2a$12$` and 22 characters of salt, 31 of hash.
fn bcrypt_cost(text: &str) -> Option<u8> {
    let mut fields = text.splitn(4, '$').skip(2);
    let (cost, rest) = (fields.next()?, fields.next()?);
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'/';
    let fits = cost.len() == 2 && rest.len() == 53 && rest.bytes().all(alphabet);
    cost.parse().ok().filter(|cost| fits && (4..=31).contains(cost))
}

/// How a comparison ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// It is the password.
    Match {
        /// Hash it again: parameters or pepper have changed since.
        outdated: bool,
    },
    /// It is not.
    NoMatch,
}

/// Why a password cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too short for an only factor.
    #[error(
        "the password has {chars} characters, it needs {PASSWORD_CHARS_MIN}; a few words with spaces will do"
    )]
    TooShort {
        /// Code points after NFKC.
        chars: usize,
    },
    /// Longer than anything that is hashed; nothing is ever cut off.
    #[error("the password is longer than {PASSWORD_CHARS_MAX} characters")]
    TooLong,
    /// Cannot be typed everywhere.
    #[error("the password contains a control character")]
    ControlCharacter,
    /// Attackers try it first.
    #[error("the password is easy to guess: {0}")]
    Guessable(#[source] BlockReason),
}

/// Hashing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Most likely there is no memory.
    #[error("the password could not be hashed, is there memory?")]
    Failed,
}

/// Why a stored hash is never verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredHashError {
    /// Not a PHC string as this release writes it.
    #[error("the stored hash is malformed")]
    Malformed,
    /// bcrypt describes itself, but cuts passwords at 72 bytes and has no pepper.
    #[error("bcrypt hashes (here with cost {cost}) are not supported, set a new password")]
    Bcrypt {
        /// log2 of its rounds.
        cost: u8,
    },
    /// md5crypt, sha256crypt, sha512crypt and the like.
    #[error("crypt(3) hashes are not supported, set a new password")]
    Crypt,
    /// Another slow function.
    #[error("only Argon2id hashes are supported, set a new password")]
    OtherFunction,
    /// MD5, SHA-1, SHA-2 in hex: billions of guesses a second.
    #[error("a fast hash such as MD5 or SHA-256 never protects a password, set a new one")]
    FastHash,
    /// A plain or a reversibly encrypted password.
    #[error("this is not a password hash; plain and encrypted passwords are never imported")]
    Plain,
    /// Argon2id, but cheaper than today's parameters.
    #[error("the stored hash is cheaper to guess than allowed, set a new password")]
    TooWeak,
    /// Argon2id, but so costly that verifying it would be an attack.
    #[error("the stored hash demands more memory or time than allowed")]
    TooCostly,
    /// Made with a pepper that is not at hand.
    #[error(
        "the stored hash needs version {version} of the pepper, which is not there; restore the key or set a new password"
    )]
    UnknownPepper {
        /// Its version.
        version: u32,
    },
}

/// Shortest password, in code points, while it is the only factor.
pub const PASSWORD_CHARS_MIN: usize = 15;
/// Longest password, in code points after NFKC.
pub const PASSWORD_CHARS_MAX: usize = 256;
/// Longest password, in bytes, before and after NFKC.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Length of a pepper: 256 bits.
pub const PEPPER_BYTES: usize = 32;
/// Length of a salt: 128 bits.
pub const SALT_BYTES: usize = 16;
const STORED_BYTES_MAX: usize = 512;
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 4;
const FAST_HASH_HEX_DIGITS: [usize; 6] = [32, 40, 56, 64, 96, 128];

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "wet stones sing at noon";

    #[test]
    fn accepts_the_right_password_and_no_other() {
        let stored = hash_of(GOOD, [1; 16]);
        assert_eq!(verify(&typed(GOOD), &stored, &peppers()), Ok(Verification::Match { outdated: false }));
        for other in ["wet stones sing at noo", "Wet stones sing at noon", "wet stones sing at noon ", ""] {
            assert_eq!(verify(&typed(other), &stored, &peppers()), Ok(Verification::NoMatch), "{other:?}");
        }
    }

    #[test]
    fn a_stored_hash_describes_itself_as_a_phc_string() {
        let stored = hash_of(GOOD, [1; 16]);
        assert!(
            stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1,keyid=AAAAAQ$AQEBAQEBAQEBAQEBAQEBAQ$"),
            "{stored}"
        );
        assert_eq!(stored.split('$').count(), 6);
    }

    #[test]
    fn two_equal_passwords_have_different_hashes() {
        assert_ne!(hash_of(GOOD, [1; 16]), hash_of(GOOD, [2; 16]));
    }

    #[test]
    fn a_stolen_table_cannot_be_verified_without_the_pepper() {
        let stored = hash_of(GOOD, [1; 16]);
        let guessed = Peppers::new(Pepper::new(1, [8; 32]));
        assert_eq!(verify(&typed(GOOD), &stored, &guessed), Ok(Verification::NoMatch));
        let other_version = Peppers::new(Pepper::new(2, [7; 32]));
        let unknown = StoredHashError::UnknownPepper { version: 1 };
        assert_eq!(verify(&typed(GOOD), &stored, &other_version), Err(unknown));
    }

    #[test]
    fn after_a_new_pepper_old_hashes_verify_and_ask_to_be_replaced() {
        let old = hash_of(GOOD, [1; 16]);
        let rotated = peppers().rotate(Pepper::new(2, [9; 32]));
        assert_eq!(verify(&typed(GOOD), &old, &rotated), Ok(Verification::Match { outdated: true }));
        let new = hash(&typed(GOOD), rotated.current(), [2; 16]).unwrap();
        assert!(new.contains("keyid=AAAAAg"));
        assert_eq!(verify(&typed(GOOD), &new, &rotated), Ok(Verification::Match { outdated: false }));
    }

    #[test]
    fn a_costlier_stored_hash_verifies_and_asks_to_be_replaced() {
        let params = Params { passes: 3, ..PARAMS };
        let (pepper, salt) = (peppers().current, [1; 16]);
        let hash = argon2id(GOOD, &pepper.key, params, &salt).unwrap();
        let stored = Stored { params, pepper: 1, salt: salt.to_vec(), hash }.to_phc();
        assert_eq!(verify(&typed(GOOD), &stored, &peppers()), Ok(Verification::Match { outdated: true }));
    }

    #[test]
    fn no_kind_of_foreign_hash_is_ever_verified_and_each_is_named() {
        let cases = [
            // The sample of the post: algorithm, cost, salt and hash in one string.
            (
                "$2a$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
                StoredHashError::Bcrypt { cost: 12 },
            ),
            (
                "$2y$10$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
                StoredHashError::Bcrypt { cost: 10 },
            ),
            ("$2a$99$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW", StoredHashError::Malformed),
            ("$2a$12$short", StoredHashError::Malformed),
            ("$1$salt$hash", StoredHashError::Crypt),
            ("$6$rounds=5000$salt$hash", StoredHashError::Crypt),
            ("$argon2i$v=19$m=19456,t=2,p=1$AQEBAQEBAQEBAQEBAQEBAQ$AAAA", StoredHashError::OtherFunction),
            (
                "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E",
                StoredHashError::OtherFunction,
            ),
            ("$pbkdf2-sha256$i=600000$c2FsdA$aGFzaA", StoredHashError::OtherFunction),
            ("5f4dcc3b5aa765d61d8327deb882cf99", StoredHashError::FastHash),
            ("5BAA61E4C9B93F3F0682250B6CF8331B7EE68FD8", StoredHashError::FastHash),
            ("5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8", StoredHashError::FastHash),
            ("password", StoredHashError::Plain),
            ("", StoredHashError::Plain),
            ("{AES}c2VjcmV0", StoredHashError::Plain),
        ];
        for (stored, expected) in cases {
            assert_eq!(verify(&typed(GOOD), stored, &peppers()), Err(expected), "{stored}");
        }
    }

    #[test]
    fn rejects_an_argon2id_hash_that_is_not_written_in_our_own_way() {
        let stored = hash_of(GOOD, [1; 16]);
        let twisted = [
            stored.replace("m=19456,t=2", "t=2,m=19456"),
            stored.replace("v=19", "v=16"),
            stored.replace("$v=19", ""),
            stored.replace("t=2", "t=02"),
            stored.replace(",keyid=AAAAAQ", ""),
            stored.replace("keyid=AAAAAQ", "keyid=AAAA"),
            stored.replace("p=1", "p=1,data=AAAA"),
            format!("{stored}$"),
            format!("{stored}="),
            stored[..stored.len() - 2].to_owned(),
            format!("$argon2id${}", "x".repeat(STORED_BYTES_MAX)),
        ];
        for stored in twisted {
            assert_eq!(
                verify(&typed(GOOD), &stored, &peppers()),
                Err(StoredHashError::Malformed),
                "{stored}"
            );
        }
    }

    #[test]
    fn rejects_an_argon2id_hash_that_is_too_cheap_or_too_costly() {
        let stored = hash_of(GOOD, [1; 16]);
        for weak in [
            stored.replace("m=19456", "m=19455"),
            stored.replace("t=2", "t=1"),
            stored.replace("AQEBAQEBAQEBAQEBAQEBAQ", "AQEBAQEBAQEBAQ"),
        ] {
            assert_eq!(verify(&typed(GOOD), &weak, &peppers()), Err(StoredHashError::TooWeak), "{weak}");
        }
        for costly in [
            stored.replace("m=19456", "m=262145"),
            stored.replace("t=2", "t=17"),
            stored.replace("p=1", "p=5"),
        ] {
            assert_eq!(
                verify(&typed(GOOD), &costly, &peppers()),
                Err(StoredHashError::TooCostly),
                "{costly}"
            );
        }
    }

    #[test]
    fn a_password_is_the_same_in_every_unicode_spelling() {
        // é as one code point and as two; ﬁ as a ligature; full-width letters.
        for (one, other) in [("caf\u{e9}", "cafe\u{301}"), ("\u{fb01}ne", "fine"), ("\u{ff41}b", "ab")] {
            let stored = hash_of(one, [1; 16]);
            assert_eq!(
                verify(&typed(other), &stored, &peppers()),
                Ok(Verification::Match { outdated: false })
            );
        }
    }

    #[test]
    fn no_character_of_a_long_password_is_ignored() {
        // bcrypt would stop at 72 bytes.
        let long = "wet stones sing ".repeat(16);
        let stored = hash_of(&long, [1; 16]);
        let other = format!("{}x", &long[..long.len() - 1]);
        assert_eq!(verify(&typed(&other), &stored, &peppers()), Ok(Verification::NoMatch));
    }

    #[test]
    fn accepts_a_password_of_15_characters_and_rejects_one_of_14() {
        assert!(Password::choose("wet stones sing", &[]).is_ok());
        let short = Password::choose("wet stone sing", &[]).unwrap_err();
        assert_eq!(short, PasswordError::TooShort { chars: 14 });
        // Code points count, not bytes.
        let short = Password::choose("naß öl früh mü", &[]).unwrap_err();
        assert_eq!(short, PasswordError::TooShort { chars: 14 });
    }

    #[test]
    fn accepts_a_password_at_the_upper_limit_and_rejects_one_character_more() {
        let longest: String = ('a'..='z').cycle().step_by(7).take(PASSWORD_CHARS_MAX).collect();
        assert!(Password::read(&longest).is_ok());
        assert_eq!(Password::read(&format!("{longest}x")).unwrap_err(), PasswordError::TooLong);
        // 256 code points of four bytes are exactly the limit in bytes.
        assert!(Password::read(&"\u{1f600}".repeat(256)).is_ok());
        assert_eq!(Password::read(&"x".repeat(PASSWORD_BYTES_MAX + 1)).unwrap_err(), PasswordError::TooLong);
        // One code point may become eighteen.
        assert_eq!(Password::read(&"\u{fdfa}".repeat(15)).unwrap_err(), PasswordError::TooLong);
    }

    #[test]
    fn any_printable_character_and_no_composition_rule() {
        let ascii: String = (' '..='~').collect();
        for password in [
            ascii.as_str(),
            "only lower case words",
            "ここに長い合言葉を書いてください",
            "    wide    open    ",
        ] {
            assert!(Password::choose(password, &[]).is_ok(), "{password}");
        }
    }

    #[test]
    fn rejects_a_password_with_a_control_character() {
        for password in ["wet stones\tsing at noon", "wet stones sing at noon\n", "wet stones\0sing at noon"]
        {
            assert_eq!(Password::choose(password, &[]).unwrap_err(), PasswordError::ControlCharacter);
        }
    }

    #[test]
    fn rejects_a_guessable_password_and_says_why() {
        let found = Password::choose("password1234567890", &[]).unwrap_err();
        assert_eq!(found, PasswordError::Guessable(BlockReason::Common));
        assert!(found.to_string().contains("commonest"), "{found}");
    }

    #[test]
    fn neither_password_nor_pepper_is_ever_printed() {
        let printed = format!("{:?} {:?}", typed(GOOD), peppers());
        assert!(!printed.contains("stones") && !printed.contains("[7, 7"), "{printed}");
    }

    #[test]
    fn errors_say_what_to_do_and_name_no_secret() {
        let errors = [
            HashError::Failed.to_string(),
            PasswordError::TooShort { chars: 3 }.to_string(),
            StoredHashError::Bcrypt { cost: 12 }.to_string(),
            StoredHashError::UnknownPepper { version: 3 }.to_string(),
        ];
        for error in errors {
            assert!(error.starts_with(char::is_lowercase) && !error.ends_with('.'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_as_a_stored_hash_is_refused_without_a_panic(text in "[$a-z0-9=,./+]{0,120}") {
            prop_assert!(Stored::parse(&text).is_err());
        }

        #[test]
        fn any_text_as_a_password_is_read_or_refused_without_a_panic(text in ".{0,600}") {
            let _ = Password::choose(&text, &["alice"]);
        }

        #[test]
        fn a_stored_hash_is_read_back_as_it_was_written(
            passes in 2_u32..=16, lanes in 1_u32..=4, pepper in any::<u32>(), salt in any::<[u8; 16]>(), hash in any::<[u8; 32]>()
        ) {
            let stored = Stored { params: Params { passes, lanes, ..PARAMS }, pepper, salt: salt.to_vec(), hash };
            prop_assert_eq!(Stored::parse(&stored.to_phc()), Ok(stored));
        }
    }

    pub(crate) fn peppers() -> Peppers {
        Peppers::new(Pepper::new(1, [7; 32]))
    }

    fn typed(text: &str) -> Password {
        Password::read(text).unwrap()
    }

    fn hash_of(text: &str, salt: [u8; 16]) -> String {
        hash(&typed(text), peppers().current(), salt).unwrap()
    }
}
