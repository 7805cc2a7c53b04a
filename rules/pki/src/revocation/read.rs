//! Reading a CRL (RFC 5280 section 5) without building it: where its parts lie, and what one entry says.

use std::cmp::Ordering;

use countersign_identity::UnixTime;

use super::{CrlError, RevocationReason};
use crate::der::{self, Reader};
use crate::x509;

/// Everything of a CRL but its entries. Pairs are where something starts and ends in the DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) number: u64,
    pub(super) this_update: UnixTime,
    pub(super) next_update: UnixTime,
    pub(super) issuer: (usize, usize),
    pub(super) key_id: (usize, usize),
    pub(super) list: (usize, usize),
}

impl Facts {
    pub(super) fn read(der: &[u8]) -> Result<Self, CrlError> {
        let mut outer = Reader::new(der);
        let mut certificate_list = Reader::new(outer.read(der::SEQUENCE).ok_or(CrlError::Malformed)?);
        let signed = certificate_list.read(der::SEQUENCE).ok_or(CrlError::Malformed)?;
        let algorithm = certificate_list.read(der::SEQUENCE).ok_or(CrlError::Malformed)?;
        certificate_list.read(der::BIT_STRING).ok_or(CrlError::Malformed)?;
        if !outer.is_empty() || !certificate_list.is_empty() {
            return Err(CrlError::Malformed);
        }
        Self::read_signed(der, signed, algorithm)
    }

    fn read_signed(der: &[u8], signed: &[u8], algorithm: &[u8]) -> Result<Self, CrlError> {
        let mut reader = Reader::new(signed);
        let version = reader.read(der::INTEGER).ok_or(CrlError::Malformed)?;
        let inner_algorithm = reader.read(der::SEQUENCE).ok_or(CrlError::Malformed)?;
        let issuer = reader.element(der::SEQUENCE).ok_or(CrlError::Malformed)?.whole;
        let this_update = reader.time().ok_or(CrlError::Malformed)?;
        let next_update = reader.time().ok_or(CrlError::Malformed)?;
        let list = reader.read(der::SEQUENCE).unwrap_or_default();
        let extensions = reader.read(der::CONTEXT_0).ok_or(CrlError::NoNumber)?;
        if version != VERSION_2 || inner_algorithm != algorithm || !reader.is_empty() {
            return Err(CrlError::Malformed);
        }
        let (number, key_id) = read_extensions(extensions)?;
        let within = |part: &[u8]| place(der, part).ok_or(CrlError::Malformed);
        Ok(Self {
            number,
            this_update,
            next_update,
            issuer: within(issuer)?,
            key_id: within(key_id)?,
            list: within(list)?,
        })
    }
}

/// The CRL number and the issuer's key identifier; anything else must not be critical.
fn read_extensions(explicit: &[u8]) -> Result<(u64, &[u8]), CrlError> {
    let (mut number, mut key_id) = (None, None);
    for extension in Extensions::of(explicit)? {
        let extension = extension?;
        let once = match extension.oid {
            x509::OID_CRL_NUMBER => number.replace(crl_number(extension.value)?).is_none(),
            x509::OID_AUTHORITY_KEY_ID => key_id.replace(authority_key_id(extension.value)?).is_none(),
            _ if extension.critical => return Err(CrlError::UnknownCriticalExtension),
            _ => true,
        };
        if !once {
            return Err(CrlError::Malformed);
        }
    }
    Ok((number.ok_or(CrlError::NoNumber)?, key_id.ok_or(CrlError::NoAuthorityKeyId)?))
}

fn crl_number(value: &[u8]) -> Result<u64, CrlError> {
    let content = Reader::new(value).read(der::INTEGER).ok_or(CrlError::Malformed)?;
    let magnitude = match content {
        [0] => &[][..],
        other => der::positive(other).ok_or(CrlError::Malformed)?,
    };
    if magnitude.len() > 8 {
        return Err(CrlError::Malformed);
    }
    Ok(magnitude.iter().fold(0, |sum, octet| sum << 8 | u64::from(*octet)))
}

fn authority_key_id(value: &[u8]) -> Result<&[u8], CrlError> {
    let mut body = Reader::new(Reader::new(value).read(der::SEQUENCE).ok_or(CrlError::Malformed)?);
    body.read(der::CONTEXT_0_PRIMITIVE).ok_or(CrlError::NoAuthorityKeyId)
}

struct Extension<'a> {
    oid: &'a [u8],
    critical: bool,
    value: &'a [u8],
}

/// Walks `Extensions ::= SEQUENCE OF Extension`.
struct Extensions<'a>(Reader<'a>);

impl<'a> Extensions<'a> {
    fn of(sequence: &'a [u8]) -> Result<Self, CrlError> {
        let mut reader = Reader::new(sequence);
        let body = reader.read(der::SEQUENCE).ok_or(CrlError::Malformed)?;
        if reader.is_empty() { Ok(Self(Reader::new(body))) } else { Err(CrlError::Malformed) }
    }

    fn step(&mut self) -> Option<Extension<'a>> {
        let mut body = Reader::new(self.0.read(der::SEQUENCE)?);
        let oid = body.read(der::OBJECT_IDENTIFIER)?;
        let critical = match body.read(der::BOOLEAN) {
            None => false,
            // DER leaves out a default and writes TRUE as 0xff.
            Some([0xff]) => true,
            Some(_) => return None,
        };
        let value = body.read(der::OCTET_STRING)?;
        body.is_empty().then_some(Extension { oid, critical, value })
    }
}

impl<'a> Iterator for Extensions<'a> {
    type Item = Result<Extension<'a>, CrlError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let step = self.step().ok_or(CrlError::Malformed);
        if step.is_err() {
            self.0 = Reader::new(&[]);
        }
        Some(step)
    }
}

pub(super) struct Entry<'a> {
    pub(super) serial: &'a [u8],
    pub(super) at: UnixTime,
    pub(super) reason: RevocationReason,
}

impl<'a> Entry<'a> {
    pub(super) fn read(whole: &'a [u8]) -> Result<Self, CrlError> {
        let mut body = Reader::new(Reader::new(whole).read(der::SEQUENCE).ok_or(CrlError::Malformed)?);
        let serial = body.read(der::INTEGER).ok_or(CrlError::Malformed)?;
        let at = body.time().ok_or(CrlError::Malformed)?;
        let mut reason = RevocationReason::Unspecified;
        if let Some(extensions) = body.element(der::SEQUENCE) {
            for extension in Extensions::of(extensions.whole)? {
                let extension = extension?;
                match extension.oid {
                    x509::OID_CRL_REASON => match Reader::new(extension.value).read(der::ENUMERATED) {
                        Some([code]) => reason = RevocationReason::from_code(*code),
                        _ => return Err(CrlError::Malformed),
                    },
                    _ if extension.critical => return Err(CrlError::UnknownCriticalExtension),
                    _ => {}
                }
            }
        }
        if !body.is_empty() {
            return Err(CrlError::Malformed);
        }
        Ok(Self { serial: x509::magnitude(serial), at, reason })
    }
}

pub(super) fn entry_at(der: &[u8], start: u32) -> Option<Entry<'_>> {
    let rest = der.get(usize::try_from(start).ok()?..)?;
    Entry::read(Reader::new(rest).any()?.whole).ok()
}

/// Numbers without leading zeros: the longer is the greater.
pub(super) fn compare(left: &[u8], right: &[u8]) -> Ordering {
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

/// Where `part`, a slice of `whole`, starts and ends in it.
fn place(whole: &[u8], part: &[u8]) -> Option<(usize, usize)> {
    if part.is_empty() {
        return Some((0, 0));
    }
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    (start + part.len() <= whole.len()).then_some((start, start + part.len()))
}

/// INTEGER 1.
const VERSION_2: &[u8] = &[1];
