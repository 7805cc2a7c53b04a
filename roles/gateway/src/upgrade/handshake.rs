//! The handshake of a WebSocket (RFC 6455 section 4), as far as whoever passes it on has to understand it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

/// Does a request want to leave HTTP, for whatever it be?
pub(crate) fn asks_to_leave(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
}

/// Is it the handshake of a WebSocket, complete and without a body (section 4.2.1)?
pub(crate) fn is_handshake(method: &Method, version: Version, headers: &HeaderMap) -> bool {
    let has_body = headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    let key = only(headers, &SEC_WEBSOCKET_KEY).and_then(|key| STANDARD.decode(key).ok());
    *method == Method::GET
        && version == Version::HTTP_11
        && !has_body
        && names_websocket(headers)
        && only(headers, &SEC_WEBSOCKET_VERSION) == Some(b"13")
        && key.is_some_and(|key| key.len() == KEY_BYTES)
}

/// Does a 101 lead where the handshake wanted to go (section 4.1)? Whether the key was understood is for the client.
pub(crate) fn accepts(headers: &HeaderMap) -> bool {
    names_websocket(headers) && only(headers, &SEC_WEBSOCKET_ACCEPT).is_some()
}

/// Asks the next hop for what was asked of us. What the client said about its own hop was removed before.
pub(crate) fn dress_request(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
}

/// The same on the way back.
pub(crate) fn dress_answer(headers: &mut HeaderMap) {
    dress_request(headers);
}

fn names_websocket(headers: &HeaderMap) -> bool {
    let listed =
        headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    listed.map(<[u8]>::trim_ascii).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
        && only(headers, &UPGRADE).is_some_and(|protocol| protocol.eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
}

fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.as_bytes())
}

/// As `Upgrade` names it.
pub(crate) const WEBSOCKET: &str = "websocket";
/// Before base64.
const KEY_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn handshake() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (CONNECTION, "keep-alive, Upgrade"),
            (UPGRADE, "WebSocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn accepts_the_handshake_of_the_rfc_and_nothing_that_differs() {
        let asks = |headers: &HeaderMap| is_handshake(&Method::GET, Version::HTTP_11, headers);
        assert!(asks(&handshake()));
        assert!(!is_handshake(&Method::POST, Version::HTTP_11, &handshake()));
        assert!(!is_handshake(&Method::GET, Version::HTTP_10, &handshake()));
        assert!(!is_handshake(&Method::GET, Version::HTTP_2, &handshake()));
        for (name, value) in [
            (CONNECTION, "keep-alive"),
            (UPGRADE, "h2c"),
            (UPGRADE, "websocket, h2c"),
            (SEC_WEBSOCKET_VERSION, "12"),
            (SEC_WEBSOCKET_KEY, "c2hvcnQ="),
            (SEC_WEBSOCKET_KEY, "no base64"),
            (CONTENT_LENGTH, "5"),
            (TRANSFER_ENCODING, "chunked"),
        ] {
            let mut headers = handshake();
            headers.insert(name.clone(), HeaderValue::from_static(value));
            assert!(!asks(&headers), "{name}: {value}");
        }
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_KEY] {
            let (mut without, mut twice) = (handshake(), handshake());
            let value = without.remove(&name).unwrap();
            assert!(!asks(&without), "without {name}");
            twice.append(name.clone(), value);
            assert!(name == CONNECTION || !asks(&twice), "{name} twice");
        }
    }

    #[test]
    fn an_answer_that_leads_elsewhere_is_none() {
        let mut answer = HeaderMap::new();
        dress_answer(&mut answer);
        assert!(!accepts(&answer), "nothing shows that the handshake was read");
        answer.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(accepts(&answer));
        answer.insert(UPGRADE, HeaderValue::from_static("h2c"));
        assert!(!accepts(&answer));
    }
}
