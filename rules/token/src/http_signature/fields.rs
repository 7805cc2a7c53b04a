//! The three structured fields (RFC 9651) of a signed message: `Signature-Input`, `Signature`, `Content-Digest`.
//!
//! A field counts only in its one canonical spelling. Among other things this refuses a member or parameter that
//! occurs twice, of which RFC 9651 would silently take the last.

use std::borrow::Cow;

use countersign_identity::UnixTime;
use http::HeaderMap;
use sfv::{
    BareItem, DictSerializer, Dictionary, InnerList, Integer, Item, KeyRef, ListEntry, ListSerializer,
    Parser, StringRef, key_ref,
};

use super::{
    CONTENT_DIGEST, FIELD_BYTES_MAX, SIGNATURE, SIGNATURE_INPUT, SignatureError, SignatureFields, Stamp, TAG,
    base::{Component, field_value},
};
use crate::jws::printable;

/// The metadata of a signature that we make.
pub(super) struct Parameters<'a> {
    pub(super) stamp: Stamp<'a>,
    pub(super) audience: Option<&'a str>,
    pub(super) sign_response: bool,
    pub(super) request_nonce: Option<&'a str>,
}

/// A signature that came, read and not verified.
pub(super) struct Received {
    /// The covered components and the parameters, exactly as they were spelled.
    pub(super) input: String,
    pub(super) signature: Vec<u8>,
    list: InnerList,
}

/// Reads the one signature of a message: the one labelled `wimse`, or the only one.
pub(super) fn read(headers: &HeaderMap) -> Result<Received, SignatureError> {
    let input_field = field(headers, SIGNATURE_INPUT)?;
    let mut inputs = dictionary(&input_field, SIGNATURE_INPUT)?;
    let mut signatures = dictionary(&field(headers, SIGNATURE)?, SIGNATURE)?;
    let only = inputs.keys().next().filter(|_| inputs.len() == 1).map(|label| label.as_str().to_owned());
    let label = only.as_deref().unwrap_or(LABEL);
    let (Some(list @ ListEntry::InnerList(_)), Some(ListEntry::Item(signature))) =
        (inputs.swap_remove(label), signatures.swap_remove(label))
    else {
        return Err(SignatureError::NoSignature);
    };
    let BareItem::ByteSequence(signature) = signature.bare_item else {
        return Err(SignatureError::Malformed { name: SIGNATURE });
    };
    let input = match input_field.split_once('=') {
        // The field is canonical, and so what stands behind its one label is spelled as it must be.
        Some((_, input)) if only.is_some() => input.to_owned(),
        _ => spelled(&list),
    };
    let ListEntry::InnerList(list) = list else { return Err(SignatureError::NoSignature) };
    Ok(Received { input, signature, list })
}

impl Received {
    /// A parameter that is a string.
    pub(super) fn text(&self, name: &'static str) -> Result<&str, SignatureError> {
        let text = self.parameter(name)?.as_string().map(StringRef::as_str);
        text.ok_or(SignatureError::WrongParameter { name })
    }

    /// A parameter that is a time in whole seconds.
    pub(super) fn time(&self, name: &'static str) -> Result<UnixTime, SignatureError> {
        let seconds = self.parameter(name)?.as_integer().map(i64::from).filter(|seconds| *seconds >= 0);
        seconds.map(UnixTime::from_secs).ok_or(SignatureError::WrongParameter { name })
    }

    /// A parameter that is there and true, or false.
    pub(super) fn flag(&self, name: &'static str) -> Result<bool, SignatureError> {
        match self.list.params.get(name) {
            Some(value) => value.as_boolean().ok_or(SignatureError::WrongParameter { name }),
            None => Ok(false),
        }
    }

    /// Refuses parameters that are not among these, `keyid` and `alg` first of all.
    pub(super) fn only(&self, allowed: &[&str]) -> Result<(), SignatureError> {
        match self.list.params.keys().find(|name| !allowed.contains(&name.as_str())) {
            Some(name) => Err(SignatureError::ForbiddenParameter { name: printable(name.as_str()) }),
            None => Ok(()),
        }
    }

    /// The components in the order in which they were signed, which must be exactly the `expected` ones.
    pub(super) fn components(&self, expected: &[Component]) -> Result<Vec<Component>, SignatureError> {
        let mut covered = Vec::with_capacity(expected.len());
        for item in &self.list.items {
            let name = item.bare_item.as_string().map_or("", StringRef::as_str);
            let of_request = item.params.get("req").and_then(BareItem::as_boolean);
            let known = expected.iter().find(|component| {
                component.name == name
                    && component.of_request == (of_request == Some(true))
                    && item.params.len() == usize::from(component.of_request)
            });
            match known {
                Some(component) if !covered.contains(component) => covered.push(*component),
                _ => return Err(SignatureError::UnknownComponent { name: printable(name) }),
            }
        }
        match expected.iter().find(|component| !covered.contains(component)) {
            Some(component) => Err(SignatureError::Uncovered { name: component.name }),
            None => Ok(covered),
        }
    }

    fn parameter(&self, name: &'static str) -> Result<&BareItem, SignatureError> {
        self.list.params.get(name).ok_or(SignatureError::MissingParameter { name })
    }
}

/// Components and parameters as they stand in `Signature-Input` and at the end of the signature base.
pub(super) fn input(components: &[Component], parameters: &Parameters<'_>) -> Result<String, SignatureError> {
    let mut list = InnerList::default();
    for component in components {
        let mut item = Item::new(text(component.name, component.name)?);
        if component.of_request {
            item.params.insert(REQ.to_owned(), true.into());
        }
        list.items.push(item);
    }
    let Parameters { stamp, audience, sign_response, request_nonce } = parameters;
    list.params.insert(key_ref("created").to_owned(), seconds("created", stamp.created)?);
    list.params.insert(key_ref("expires").to_owned(), seconds("expires", stamp.expires)?);
    list.params.insert(key_ref("nonce").to_owned(), text("nonce", stamp.nonce)?);
    list.params.insert(key_ref("tag").to_owned(), text("tag", TAG)?);
    if let Some(audience) = audience {
        list.params.insert(key_ref("wimse-aud").to_owned(), text("wimse-aud", audience)?);
    }
    if *sign_response {
        list.params.insert(key_ref("wimse-sign-response").to_owned(), true.into());
    }
    if let Some(nonce) = request_nonce {
        list.params.insert(key_ref("wimse-req-nonce").to_owned(), text("wimse-req-nonce", nonce)?);
    }
    Ok(spelled(&ListEntry::InnerList(list)))
}

/// The values of the two fields.
pub(super) fn write(input: &str, signature: &[u8]) -> SignatureFields {
    let signature = spelled(&ListEntry::Item(Item::new(signature)));
    SignatureFields { signature_input: format!("{LABEL}={input}"), signature: format!("{LABEL}={signature}") }
}

/// The SHA-256 in `Content-Digest` (RFC 9530 section 2), if the field is there. Other hashes beside it are left
/// alone, as the RFC allows; instead of it they are not enough.
pub(super) fn digest(headers: &HeaderMap) -> Result<Option<Vec<u8>>, SignatureError> {
    if !headers.contains_key(CONTENT_DIGEST) {
        return Ok(None);
    }
    match dictionary(&field(headers, CONTENT_DIGEST)?, CONTENT_DIGEST)?.swap_remove("sha-256") {
        Some(ListEntry::Item(Item { bare_item: BareItem::ByteSequence(digest), .. })) => Ok(Some(digest)),
        _ => Err(SignatureError::Malformed { name: CONTENT_DIGEST }),
    }
}

fn field<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Cow<'a, str>, SignatureError> {
    if !headers.contains_key(name) {
        return Err(SignatureError::NoSignature);
    }
    let value = field_value(headers, name)?;
    match value.len() {
        0..=FIELD_BYTES_MAX => Ok(value),
        bytes => Err(SignatureError::TooLong { name, bytes }),
    }
}

fn dictionary(value: &str, name: &'static str) -> Result<Dictionary, SignatureError> {
    let dictionary: Dictionary =
        Parser::new(value).parse().map_err(|_| SignatureError::Malformed { name })?;
    let mut canonical = DictSerializer::new();
    canonical.members(&dictionary);
    match canonical.finish() {
        Some(canonical) if canonical == value => Ok(dictionary),
        _ => Err(SignatureError::Malformed { name }),
    }
}

/// As a member of a structured field is spelled.
fn spelled(entry: &ListEntry) -> String {
    let mut list = ListSerializer::new();
    list.members([entry]);
    list.finish().unwrap_or_default()
}

fn text(name: &'static str, value: &str) -> Result<BareItem, SignatureError> {
    let text = StringRef::from_str(value).map_err(|_| SignatureError::WrongParameter { name })?;
    Ok(text.into())
}

fn seconds(name: &'static str, time: UnixTime) -> Result<BareItem, SignatureError> {
    let seconds = Integer::try_from(time.secs()).map_err(|_| SignatureError::WrongParameter { name })?;
    Ok(seconds.into())
}

/// Our label; the draft asks for it where there are several signatures.
const LABEL: &str = "wimse";
const REQ: &KeyRef = key_ref("req");
