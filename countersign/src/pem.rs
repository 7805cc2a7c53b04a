//! PEM (RFC 7468) around DER: writing it, and taking one object out of a file that is either.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One PEM block, lines of 64 characters.
pub fn encode(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

/// The DER of the first block with one of `labels`; bytes without such a block are taken to be DER already.
pub fn one(bytes: &[u8], labels: &[&str]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    for label in labels {
        let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
        let inner =
            text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(inner, _)| inner);
        let Some(inner) = inner else { continue };
        let packed: String = inner.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        if let Ok(der) = STANDARD.decode(packed) {
            return der;
        }
    }
    bytes.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(der in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(one(encode("X", &der).as_bytes(), &["X"]), der);
        }

        #[test]
        fn never_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = one(&bytes, &["CERTIFICATE REQUEST"]);
        }
    }

    #[test]
    fn der_passes_as_it_is() {
        assert_eq!(one(&[0x30, 0x03, 2, 1, 5], &["X"]), vec![0x30, 0x03, 2, 1, 5]);
    }
}
