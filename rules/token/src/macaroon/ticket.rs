//! How a discharger learns what it is asked: the identifier of a third-party caveat is a ticket that only it can open.
//!
//! A ticket is `version ‖ secretbox(key of the caveat ‖ condition)` in base64url, under a key that the discharger shares with
//! whoever appends the caveat. The discharger opens it, decides by its own lights whether the condition holds, and mints the
//! discharge under the key it found. It keeps nothing.

use countersign_keys::{Secret, domain, hmac_sha256};

use super::{
    AttenuateError, FIELD_BYTES_MAX, Macaroon, RootKey,
    format::{decode_base64, encode_base64},
    secretbox::{self, NONCE_BYTES},
};

/// What a discharger and those who send people to it have in common.
#[derive(Clone, Debug)]
pub struct TicketKey(Secret<[u8; 32]>);

impl TicketKey {
    /// From a shared secret of any length.
    #[must_use]
    pub fn derive(secret: &[u8]) -> Self {
        Self(Secret::new(hmac_sha256(secret, &domain("macaroon-ticket", b""))))
    }
}

/// An opened ticket: whoever holds it can discharge the caveat.
#[derive(Clone, Debug)]
pub struct Ticket {
    text: String,
    caveat_key: Secret<[u8; 32]>,
    condition: String,
}

impl Ticket {
    /// A ticket for a new caveat that holds when `condition` does. `caveat_key` and `nonce` are random, and never used twice.
    ///
    /// # Errors
    /// The condition is too long for a caveat.
    pub fn seal(
        key: &TicketKey,
        caveat_key: [u8; 32],
        condition: &str,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Self, TicketError> {
        if condition.len() > CONDITION_BYTES_MAX {
            return Err(TicketError::ConditionTooLong { bytes: condition.len() });
        }
        let plain = Secret::new([caveat_key.as_slice(), condition.as_bytes()].concat());
        let sealed =
            secretbox::seal(key.0.expose(), nonce, plain.expose()).ok_or(TicketError::DoesNotOpen)?;
        let text = encode_base64(&[&[VERSION], sealed.as_slice()].concat());
        Ok(Self { text, caveat_key: Secret::new(caveat_key), condition: condition.to_owned() })
    }

    /// Opens the identifier of a caveat that names us.
    ///
    /// # Errors
    /// It was not sealed under this key.
    pub fn open(key: &TicketKey, caveat_id: &[u8]) -> Result<Self, TicketError> {
        let text = std::str::from_utf8(caveat_id).map_err(|_| TicketError::NotATicket)?;
        let bytes = decode_base64(caveat_id).ok_or(TicketError::NotATicket)?;
        let [VERSION, sealed @ ..] = bytes.as_slice() else { return Err(TicketError::NotATicket) };
        let plain = secretbox::open(key.0.expose(), sealed).ok_or(TicketError::DoesNotOpen)?;
        let (caveat_key, condition) = plain.expose().split_first_chunk().ok_or(TicketError::NotATicket)?;
        let condition = std::str::from_utf8(condition).map_err(|_| TicketError::NotATicket)?;
        Ok(Self {
            text: text.to_owned(),
            caveat_key: Secret::new(*caveat_key),
            condition: condition.to_owned(),
        })
    }

    /// What has to hold, in the discharger's own words.
    #[must_use]
    pub fn condition(&self) -> &str {
        &self.condition
    }

    /// Appends the caveat to `macaroon`: from here on it needs a discharge from `discharger`.
    ///
    /// # Errors
    /// See [`AttenuateError`].
    pub fn demand<'a>(
        &self,
        macaroon: Macaroon<'a>,
        discharger: &str,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Macaroon<'a>, AttenuateError> {
        let key = RootKey::derive(self.caveat_key.expose());
        macaroon.attenuate_third_party(discharger, &key, self.text.as_bytes(), nonce)
    }

    /// The discharge, which the discharger may narrow (`before = …`) before it hands it out. Its holder
    /// [binds](Macaroon::bound_to) it to each request.
    ///
    /// # Errors
    /// See [`AttenuateError`].
    pub fn discharge(&self, discharger: &str) -> Result<Macaroon<'static>, AttenuateError> {
        Macaroon::mint(discharger, self.text.as_bytes(), &RootKey::derive(self.caveat_key.expose()))
    }
}

/// Why a ticket was not made, or does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Over [`CONDITION_BYTES_MAX`].
    #[error("the condition has {bytes} bytes, at most {CONDITION_BYTES_MAX} are allowed")]
    ConditionTooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Not made by [`Ticket::seal`].
    #[error("the caveat's identifier is no ticket of ours; discharge it with the key that its author names")]
    NotATicket,
    /// Sealed for another discharger, or damaged.
    #[error("the ticket does not open with this key; it is for another discharger, or damaged")]
    DoesNotOpen,
}

/// Longest condition: sealed and encoded it still fits into a caveat.
pub const CONDITION_BYTES_MAX: usize = 1024;
const VERSION: u8 = 1;
const _: () = assert!((CONDITION_BYTES_MAX + 128) * 4 / 3 < FIELD_BYTES_MAX);
