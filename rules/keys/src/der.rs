//! Just enough DER (X.690) to read a public key and write an ECDSA signature. Certificates are read elsewhere.

/// The three parts of a `SubjectPublicKeyInfo` that matter here.
pub(crate) struct Spki<'a> {
    /// Content octets of the algorithm's object identifier.
    pub(crate) algorithm: &'a [u8],
    /// Content octets of the parameters, if they are an object identifier (a named curve).
    pub(crate) curve: Option<&'a [u8]>,
    /// The key itself, without the count of unused bits.
    pub(crate) key: &'a [u8],
}

impl<'a> Spki<'a> {
    pub(crate) fn parse(der: &'a [u8]) -> Option<Self> {
        let (body, rest) = read(SEQUENCE, der)?;
        let (identifier, after) = read(SEQUENCE, body)?;
        let (bits, end) = read(BIT_STRING, after)?;
        let (algorithm, parameters) = read(OBJECT_IDENTIFIER, identifier)?;
        let curve =
            read(OBJECT_IDENTIFIER, parameters).filter(|(_, rest)| rest.is_empty()).map(|(oid, _)| oid);
        let (unused, key) = bits.split_first()?;
        (rest.is_empty() && end.is_empty() && *unused == 0).then_some(Self { algorithm, curve, key })
    }
}

/// How many bits the modulus of an `RSAPublicKey` (RFC 8017 appendix A.1.1) has.
pub(crate) fn rsa_modulus_bits(key: &[u8]) -> Option<usize> {
    let (body, _) = read(SEQUENCE, key)?;
    let (modulus, _) = read(INTEGER, body)?;
    let first = modulus.iter().position(|byte| *byte != 0)?;
    let magnitude = modulus.get(first..)?;
    let leading = magnitude.first()?.leading_zeros() as usize;
    Some(magnitude.len() * 8 - leading)
}

/// Modulus and exponent of an `RSAPublicKey`, without leading zeros. Only the one DER encoding of two positive
/// numbers is read.
pub(crate) fn rsa_numbers(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let (body, end) = read(SEQUENCE, key)?;
    let (modulus, rest) = read(INTEGER, body)?;
    let (exponent, rest) = read(INTEGER, rest)?;
    let numbers = positive(modulus).zip(positive(exponent));
    numbers.filter(|_| rest.is_empty() && end.is_empty())
}

fn positive(integer: &[u8]) -> Option<&[u8]> {
    match integer {
        [0, rest @ ..] => rest.first().is_some_and(|byte| byte & 0x80 != 0).then_some(rest),
        [first, ..] => (first & 0x80 == 0).then_some(integer),
        [] => None,
    }
}

/// An `RSAPublicKey` (RFC 8017 appendix A.1.1) of these numbers, which have no leading zeros.
pub(crate) fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let number = |magnitude: &[u8]| {
        let sign = magnitude.first().is_some_and(|byte| byte & 0x80 != 0).then_some(0);
        element(INTEGER, &sign.into_iter().chain(magnitude.iter().copied()).collect::<Vec<u8>>())
    };
    element(SEQUENCE, &[number(modulus), number(exponent)].concat())
}

/// The `SubjectPublicKeyInfo` of an RSA key (RFC 3279 section 2.3.1).
pub(crate) fn rsa_spki(rsa_public_key: &[u8]) -> Vec<u8> {
    let identifier = element(SEQUENCE, &[&element(OBJECT_IDENTIFIER, OID_RSA), &NULL[..]].concat());
    let bits = element(BIT_STRING, &[&[0], rsa_public_key].concat());
    element(SEQUENCE, &[identifier, bits].concat())
}

/// One element; its content is shorter than 64 KiB.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = (content.len() as u16).to_be_bytes();
    let header = match content.len() {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&header, content].concat()
}

/// An object identifier's content octets as dotted decimals.
pub(crate) fn dotted(oid: &[u8]) -> String {
    let mut arcs: Vec<u64> = Vec::new();
    let mut value: u64 = 0;
    for byte in oid.iter().take(OID_BYTES_MAX) {
        value = value.saturating_mul(128).saturating_add(u64::from(byte & 0x7f));
        if byte & 0x80 == 0 {
            if arcs.is_empty() {
                let top = (value / 40).min(2);
                arcs.extend([top, value - top * 40]);
            } else {
                arcs.push(value);
            }
            value = 0;
        }
    }
    arcs.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// `Ecdsa-Sig-Value` (RFC 3279 section 2.2.3) from the fixed form r‖s.
pub(crate) fn ecdsa_signature(r: &[u8], s: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(72);
    for number in [r, s] {
        let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
        let magnitude = number.get(first..).unwrap_or_default();
        let padded = magnitude.first().is_none_or(|byte| byte & 0x80 != 0);
        body.push(INTEGER);
        // At most 33 octets each: the short form of the length always fits.
        body.push((magnitude.len() + usize::from(padded)) as u8);
        if padded {
            body.push(0);
        }
        body.extend_from_slice(magnitude);
    }
    let mut der = vec![SEQUENCE, body.len() as u8];
    der.append(&mut body);
    der
}

/// Reads one element with this tag: its content and what follows it. Definite, minimal lengths only.
fn read(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match *length {
        short @ 0..=0x7f => (usize::from(short), rest),
        0x81 => {
            let (byte, rest) = rest.split_first()?;
            (usize::from(*byte), rest)
        }
        0x82 => {
            let (bytes, rest) = rest.split_at_checked(2)?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let minimal = match der.get(1)? {
        0x81 => length >= 0x80,
        0x82 => length >= 0x100,
        _ => true,
    };
    (*first == tag && minimal).then(|| rest.split_at_checked(length)).flatten()
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const NULL: [u8; 2] = [0x05, 0];
const OID_BYTES_MAX: usize = 64;

pub(crate) const OID_EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
pub(crate) const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
pub(crate) const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
pub(crate) const OID_P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
pub(crate) const OID_SECP256K1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x0a];
pub(crate) const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
pub(crate) const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// Everything of a P-256 `SubjectPublicKeyInfo` before the point (RFC 5480 section 2).
pub(crate) const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Everything of an Ed25519 `SubjectPublicKeyInfo` before the key (RFC 8410 section 4).
pub(crate) const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
