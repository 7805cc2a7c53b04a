//! PEM (RFC 7468), strictly: how certificates, requests and CRLs lie in files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One block of a PEM file.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    /// Such as `CERTIFICATE`.
    pub label: String,
    /// The DER inside.
    pub der: Vec<u8>,
}

/// Why a file is not PEM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// More than [`PEM_BYTES_MAX`].
    #[error("the PEM file has {bytes} bytes, more than {PEM_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// No `-----BEGIN`.
    #[error("the file holds no PEM block")]
    NoBlock,
    /// More than [`BLOCKS_MAX`].
    #[error("the PEM file holds more than {BLOCKS_MAX} blocks")]
    TooManyBlocks,
    /// A block does not end with its own label.
    #[error("the PEM block that begins on line {line} does not end with its own label")]
    Unclosed {
        /// Where it begins, from 1.
        line: usize,
    },
    /// What is inside is not base64.
    #[error("the PEM block that begins on line {line} holds something else than base64")]
    NotBase64 {
        /// Where it begins, from 1.
        line: usize,
    },
}

/// Reads every block of a file, in order. Text between blocks is explanation and ignored.
pub fn decode(bytes: &[u8]) -> Result<Vec<Block>, PemError> {
    if bytes.len() > PEM_BYTES_MAX {
        return Err(PemError::TooLong { bytes: bytes.len() });
    }
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines().map(str::trim_end).zip(1_usize..);
    let mut blocks = Vec::new();
    while let Some((label, begin)) = lines.find_map(|(text, at)| Some((label_of(text, BEGIN)?, at))) {
        if blocks.len() == BLOCKS_MAX {
            return Err(PemError::TooManyBlocks);
        }
        let mut body = String::new();
        loop {
            let (text, _) = lines.next().ok_or(PemError::Unclosed { line: begin })?;
            match label_of(text, END) {
                Some(end) if end == label => break,
                Some(_) => return Err(PemError::Unclosed { line: begin }),
                None if text.starts_with("-----") => return Err(PemError::Unclosed { line: begin }),
                None => body.push_str(text),
            }
        }
        let der = STANDARD.decode(body).map_err(|_| PemError::NotBase64 { line: begin })?;
        blocks.push(Block { label: label.to_owned(), der });
    }
    if blocks.is_empty() { Err(PemError::NoBlock) } else { Ok(blocks) }
}

/// Writes one block, in lines of 64 characters.
pub fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("{BEGIN}{label}{DASHES}\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(LINE_CHARS).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("{END}{label}{DASHES}\n"));
    text
}

/// Writes a chain of certificates, leaf first.
pub fn encode_certificates<'a>(chain: impl IntoIterator<Item = &'a [u8]>) -> String {
    chain.into_iter().map(|der| encode(CERTIFICATE, der)).collect()
}

/// The label of a certificate.
pub const CERTIFICATE: &str = "CERTIFICATE";
/// The label of a certificate signing request.
pub const CERTIFICATE_REQUEST: &str = "CERTIFICATE REQUEST";
/// The label of a CRL.
pub const X509_CRL: &str = "X509 CRL";
/// The label of a PKCS#8 private key.
pub const PRIVATE_KEY: &str = "PRIVATE KEY";
/// The longest file that is read: room for the longest CRL in base64.
pub const PEM_BYTES_MAX: usize = 24 * 1024 * 1024;
/// The most blocks of one file.
pub const BLOCKS_MAX: usize = 256;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
const LINE_CHARS: usize = 64;

fn label_of<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    line.strip_prefix(start)?.strip_suffix(DASHES)
}

/// A block may hold a private key: only its label and length are shown.
impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({}, {} bytes)", self.label, self.der.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_back_what_it_wrote_and_ignores_the_text_around_it() {
        let der: Vec<u8> = (0..200).collect();
        let file = format!(
            "Certificate:\r\n  Data\r\n{}tail\n{}",
            encode(CERTIFICATE, &der),
            encode(X509_CRL, b"x")
        );
        let blocks = decode(file.replace('\n', "\r\n").as_bytes()).unwrap();
        assert_eq!(blocks[0], Block { label: CERTIFICATE.into(), der });
        assert_eq!((blocks[1].label.as_str(), blocks[1].der.as_slice()), (X509_CRL, &b"x"[..]));
        assert!(file.lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn debug_of_a_block_shows_no_content() {
        let block = Block { label: PRIVATE_KEY.into(), der: vec![0xab; 4] };
        assert_eq!(format!("{block:?}"), "Block(PRIVATE KEY, 4 bytes)");
    }

    #[test]
    fn rejects_each_kind_of_bad_file_by_its_name() {
        assert_eq!(decode(b"hello"), Err(PemError::NoBlock));
        assert_eq!(
            decode(&vec![b'a'; PEM_BYTES_MAX + 1]),
            Err(PemError::TooLong { bytes: PEM_BYTES_MAX + 1 })
        );
        assert_eq!(decode(&vec![b'a'; PEM_BYTES_MAX]), Err(PemError::NoBlock));
        assert_eq!(decode(b"\n-----BEGIN X-----\nAAAA\n"), Err(PemError::Unclosed { line: 2 }));
        assert_eq!(
            decode(b"-----BEGIN X-----\nAAAA\n-----END Y-----\n"),
            Err(PemError::Unclosed { line: 1 })
        );
        let nested = b"-----BEGIN X-----\n-----BEGIN X-----\n-----END X-----\n";
        assert_eq!(decode(nested), Err(PemError::Unclosed { line: 1 }));
        assert_eq!(
            decode(b"-----BEGIN X-----\nA*AA\n-----END X-----\n"),
            Err(PemError::NotBase64 { line: 1 })
        );
        assert_eq!(decode(encode("X", b"a").repeat(BLOCKS_MAX + 1).as_bytes()), Err(PemError::TooManyBlocks));
        assert_eq!(decode(encode("X", b"a").repeat(BLOCKS_MAX).as_bytes()).unwrap().len(), BLOCKS_MAX);
    }
}
