//! The client certificate that Envoy forwards.
//!
//! Which certificate it was is what Envoy says of its own connection (`source.certificate`, of
//! `include_peer_certificate`). The header `x-forwarded-client-cert` is only where the certificates between that one
//! and a root are looked for, whoever wrote it: no element counts for being the first, and none names anybody.

use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::question::QuestionError;

/// The chain of the client, leaf first: `leaf` as Envoy says it, then what an element of the header `xfcc` about the
/// same leaf adds.
pub(super) fn chain(leaf: &str, xfcc: Option<&[u8]>) -> Result<Vec<CertificateDer<'static>>, QuestionError> {
    let leaf = match pem(leaf)?.as_slice() {
        [leaf] => leaf.clone(),
        _ => return Err(QuestionError::Certificate { why: "not exactly one" }),
    };
    let Some(xfcc) = xfcc else { return Ok(vec![leaf]) };
    let text = std::str::from_utf8(xfcc)
        .map_err(|_| QuestionError::Certificate { why: "x-forwarded-client-cert is no text" })?;
    for element in elements(text)? {
        for (_, value) in element.iter().filter(|(key, _)| key.eq_ignore_ascii_case("chain")) {
            let chain = pem(value)?;
            if chain.first() == Some(&leaf) {
                return Ok(chain);
            }
        }
    }
    Ok(vec![leaf])
}

/// PEM within percent encoding.
fn pem(encoded: &str) -> Result<Vec<CertificateDer<'static>>, QuestionError> {
    let why = "no PEM certificate within percent encoding";
    let text: Vec<u8> = percent_decode_str(encoded).collect();
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).take(CHAIN_MAX + 1).collect();
    match certificates {
        Ok(certificates) if (1..=CHAIN_MAX).contains(&certificates.len()) => Ok(certificates),
        _ => Err(QuestionError::Certificate { why }),
    }
}

type Pairs = Vec<(String, String)>;

/// Elements apart by `,`, each of pairs `key=value` apart by `;`. A value in double quotes may hold both, and `\"`.
fn elements(text: &str) -> Result<Vec<Pairs>, QuestionError> {
    let wrong = QuestionError::Certificate { why: "x-forwarded-client-cert is malformed" };
    let mut elements: Vec<Pairs> = vec![Vec::new()];
    let mut rest = text.chars().peekable();
    loop {
        let mut key = String::new();
        loop {
            match rest.next() {
                Some('=') if !key.is_empty() => break,
                Some(char) if char.is_ascii_alphanumeric() => key.push(char),
                Some(' ') if key.is_empty() => {}
                _ => return Err(wrong),
            }
        }
        let (value, end) = if rest.next_if_eq(&'"').is_some() {
            let mut value = String::new();
            loop {
                match rest.next() {
                    Some('"') => break,
                    Some('\\') => value.push(rest.next().ok_or_else(|| wrong.clone())?),
                    Some(char) => value.push(char),
                    None => return Err(wrong),
                }
            }
            (value, rest.next())
        } else {
            let mut value = String::new();
            let end = loop {
                match rest.next() {
                    Some('"') => return Err(wrong),
                    Some(char) if char != ';' && char != ',' => value.push(char),
                    end => break end,
                }
            };
            (value, end)
        };
        if let Some(element) = elements.last_mut() {
            element.push((key, value));
        }
        match end {
            None => return Ok(elements),
            Some(';') => {}
            Some(',') if elements.len() < ELEMENTS_MAX => elements.push(Vec::new()),
            Some(_) => return Err(wrong),
        }
    }
}

const CHAIN_MAX: usize = 8;
const ELEMENTS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn quotes_keep_what_separates_elements() {
        let read = elements(r#"By=spiffe://a/b;Subject="CN=x,O=\"y\"; z";URI=, Hash=1"#).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0][1], ("Subject".to_owned(), "CN=x,O=\"y\"; z".to_owned()));
        assert_eq!(read[0][2], ("URI".to_owned(), String::new()));
        assert_eq!(read[1], [("Hash".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn rejects_what_can_be_read_in_two_ways() {
        for text in ["", "=1", "By", "By=\"x", "By=x\"y", "By=\"x\"y", "By=x;;", "By=x,", "B y=x", "By=\"x\\"]
        {
            let refused = elements(text).unwrap_err();
            assert!(matches!(refused, QuestionError::Certificate { .. }), "{text}");
        }
        let many = "By=x,".repeat(ELEMENTS_MAX) + "By=x";
        assert!(elements(&many).is_err());
    }

    #[test]
    fn a_leaf_that_is_no_certificate_is_refused() {
        let refused = chain("nonsense", None).unwrap_err();
        assert!(matches!(refused, QuestionError::Certificate { .. }));
    }
}
