//! NaCl's secretbox (XSalsa20-Poly1305): the format of macaroons asks for it, nothing else here may use it.

use countersign_keys::Secret;
use crypto_secretbox::{AeadInPlace, KeyInit, XSalsa20Poly1305};

/// `nonce ‖ tag ‖ ciphertext`; `None` when the library refuses, which it does only beyond 2^38 bytes.
pub(crate) fn seal(key: &[u8; 32], nonce: [u8; NONCE_BYTES], plain: &[u8]) -> Option<Vec<u8>> {
    let mut body = plain.to_vec();
    let cipher = XSalsa20Poly1305::new(key.into());
    let tag: [u8; TAG_BYTES] = cipher.encrypt_in_place_detached(&nonce.into(), b"", &mut body).ok()?.into();
    Some([nonce.as_slice(), &tag, &body].concat())
}

/// What [`seal`] sealed under the same key, else `None`.
pub(crate) fn open(key: &[u8; 32], sealed: &[u8]) -> Option<Secret<Vec<u8>>> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    let (tag, body) = rest.split_first_chunk::<TAG_BYTES>()?;
    let mut body = Secret::new(body.to_vec());
    let cipher = XSalsa20Poly1305::new(key.into());
    let opened = cipher.decrypt_in_place_detached(nonce.into(), b"", body.expose_mut(), tag.into());
    opened.ok().map(|()| body)
}

/// Length of a nonce: long enough to be drawn at random for ever.
pub const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let (key, nonce) = ([1; 32], [2; NONCE_BYTES]);
        let sealed = seal(&key, nonce, b"the key of a caveat").unwrap();
        assert_eq!(open(&key, &sealed).unwrap().expose(), b"the key of a caveat");
        assert!(open(&[3; 32], &sealed).is_none());
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert!(open(&key, &changed).is_none(), "byte {place}");
            assert!(open(&key, &sealed[..place]).is_none(), "{place} bytes");
        }
    }

    #[test]
    fn seals_as_nacl_does() {
        // The vector of NaCl's own tests/secretbox.c.
        let key = "1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389";
        let nonce = "69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37";
        let message = "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705";
        let boxed = "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5";
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
        };
        let nonce: [u8; NONCE_BYTES] = bytes(nonce).try_into().unwrap();
        let sealed = seal(&bytes(key).try_into().unwrap(), nonce, &bytes(message)).unwrap();
        assert_eq!(sealed[NONCE_BYTES..], bytes(boxed));
    }
}
