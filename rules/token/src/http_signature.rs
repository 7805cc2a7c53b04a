//! HTTP message signatures between workloads (draft-ietf-wimse-http-signature-07, a profile of RFC 9421):
//! possession of the key in a WIT, proven over method, target, tokens and body, for requests and for responses.
//!
//! Of RFC 9421 only what the profile needs is here: the signature base of a closed list of components. What a
//! signature covers is exactly what the profile asks for; a component or parameter that is not understood is
//! refused, because whoever signed it meant something by it.

mod base;
mod fields;

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_identity::{Binding, Bound, SpiffeId, UnixTime, Verified};
use countersign_keys::{KeyPair, SignError, constant_time_eq, sha256};
use http::HeaderMap;

use crate::{
    jws::printable,
    times::{self, TimeError},
    wit::{PROOF_ID_BYTES_MAX, ProofFacts, ProvenWorkload, Subject, Unproven},
};
use base::Message;
use fields::{Parameters, Received};

/// A request to be signed, or that came. What it covers must stand in `headers` already, `Content-Digest` too. They hold
/// tokens, and so it cannot be printed.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The method, in upper case.
    pub method: &'a str,
    /// Path and query in origin form, exactly as on the wire.
    pub target: &'a str,
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// Its body, empty if there is none.
    pub body: &'a [u8],
}

/// The head of a request whose body is judged later.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// The method, in upper case.
    pub method: &'a str,
    /// Path and query in origin form, exactly as on the wire.
    pub target: &'a str,
    /// Its header fields.
    pub headers: &'a HeaderMap,
}

/// A response to be signed, or that came.
#[derive(Clone, Copy)]
pub struct Response<'a> {
    /// The status code.
    pub status: u16,
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// Its body, empty if there is none.
    pub body: &'a [u8],
}

/// What a response says of the request that it answers.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// The method of the request.
    pub method: &'a str,
    /// Its path and query.
    pub target: &'a str,
    /// The nonce that it was signed with.
    pub nonce: &'a str,
}

/// When and how often a signature counts.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// Random, of 96 bits or more, and never used twice.
    pub nonce: &'a str,
    /// When it is made.
    pub created: UnixTime,
    /// When it expires.
    pub expires: UnixTime,
}

/// What a signature adds to a message: the values of two header fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureFields {
    /// Value of `Signature-Input`.
    pub signature_input: String,
    /// Value of `Signature`.
    pub signature: String,
}

/// A request whose signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRequest<S = SpiffeId> {
    /// Who signed it. The id of the proof is the nonce, which a signed response has to repeat.
    pub workload: Verified<ProvenWorkload<S>>,
    /// The caller takes no response that is not signed.
    pub sign_response: bool,
}

/// Signs a request with the workload's `key`. `audience` is the target URI without query and fragment.
pub fn sign_request(
    key: &KeyPair,
    request: &Request<'_>,
    audience: &str,
    sign_response: bool,
    stamp: &Stamp<'_>,
) -> Result<SignatureFields, SignatureError> {
    let parameters =
        Parameters { audience: Some(audience), sign_response, request_nonce: None, stamp: *stamp };
    sign(key, &Message::Request(request), request.body, &parameters)
}

/// Signs a response with the callee's own `key`; its WIT stands in the header fields of the response.
pub fn sign_response(
    key: &KeyPair,
    response: &Response<'_>,
    answered: &Answered<'_>,
    stamp: &Stamp<'_>,
) -> Result<SignatureFields, SignatureError> {
    let parameters = Parameters {
        audience: None,
        sign_response: false,
        request_nonce: Some(answered.nonce),
        stamp: *stamp,
    };
    sign(key, &Message::Response(response, answered), response.body, &parameters)
}

/// Verifies the signature of a request with the key of the WIT that came with it.
///
/// The replay cache is the caller's: [`ProvenWorkload::proof_id`], the nonce, counts once.
pub fn verify_request<S: Subject>(
    request: &Request<'_>,
    audience: &str,
    wit: &Unproven<S>,
    now: UnixTime,
) -> Result<SignedRequest<S>, SignatureError> {
    let (signed, digest) = verify_head(request, audience, wit, now)?;
    judge_body(digest, request.body)?;
    Ok(signed)
}

/// Verifies as [`verify_request`] does, before the body is there: gives the SHA-256 that it must have, which of no body is
/// that of no bytes. Until that was compared nothing is proven.
pub fn verify_request_head<S: Subject>(
    head: &Head<'_>,
    audience: &str,
    wit: &Unproven<S>,
    now: UnixTime,
) -> Result<(SignedRequest<S>, [u8; 32]), SignatureError> {
    let Head { method, target, headers } = *head;
    let request = Request { method, target, headers, body: &[] };
    let (signed, digest) = verify_head(&request, audience, wit, now)?;
    let digest = match digest {
        // No digest has another length, and so no body will fit.
        Some(digest) => digest.try_into().map_err(|_| SignatureError::WrongDigest)?,
        None => sha256(&[]),
    };
    Ok((signed, digest))
}

/// Everything but the body: gives what `Content-Digest` says of it.
fn verify_head<S: Subject>(
    request: &Request<'_>,
    audience: &str,
    wit: &Unproven<S>,
    now: UnixTime,
) -> Result<(SignedRequest<S>, Option<Vec<u8>>), SignatureError> {
    let received = fields::read(request.headers)?;
    received.only(&REQUEST_PARAMETERS)?;
    let got = received.text("wimse-aud")?;
    if got != audience {
        return Err(SignatureError::WrongAudience { got: printable(got) });
    }
    let sign_response = received.flag("wimse-sign-response")?;
    let proof = verify(&Message::Request(request), &received, wit, now)?;
    let digest = fields::digest(request.headers)?;
    Ok((SignedRequest { workload: wit.proven(proof), sign_response }, digest))
}

/// Verifies the signature of a response with the key of the WIT that came with it. That its subject is the callee
/// whom one meant is for the caller to compare.
///
/// A response without signature is refused: ask only where one is required, or where there is one.
pub fn verify_response<S: Subject>(
    response: &Response<'_>,
    answered: &Answered<'_>,
    wit: &Unproven<S>,
    now: UnixTime,
) -> Result<Verified<ProvenWorkload<S>>, SignatureError> {
    let message = Message::Response(response, answered);
    let received = fields::read(response.headers)?;
    received.only(&RESPONSE_PARAMETERS)?;
    if received.text("wimse-req-nonce")? != answered.nonce {
        return Err(SignatureError::WrongRequest);
    }
    let proof = verify(&message, &received, wit, now)?;
    judge_body(fields::digest(response.headers)?, response.body)?;
    Ok(wit.proven(proof))
}

/// Is there a signature, be it good or bad?
pub fn is_signed(headers: &HeaderMap) -> bool {
    headers.contains_key(SIGNATURE_INPUT) || headers.contains_key(SIGNATURE)
}

/// The value of `Content-Digest` for a body (RFC 9530 section 2).
pub fn content_digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(sha256(body)))
}

fn sign(
    key: &KeyPair,
    message: &Message<'_>,
    body: &[u8],
    parameters: &Parameters<'_>,
) -> Result<SignatureFields, SignatureError> {
    // What we would not accept ourselves never leaves.
    let Stamp { nonce, created, expires } = parameters.stamp;
    judge_nonce(nonce)?;
    times::judge(created, expires, SIGNATURE_LIFETIME_MAX, created)?;
    judge_body(fields::digest(message.headers())?, body)?;
    write(key, message, parameters)
}

fn write(
    key: &KeyPair,
    message: &Message<'_>,
    parameters: &Parameters<'_>,
) -> Result<SignatureFields, SignatureError> {
    let components = message.components()?;
    let input = fields::input(&components, parameters)?;
    let base = base::signature_base(message, &components, &input)?;
    Ok(fields::write(&input, &key.sign_raw(base.as_bytes())?))
}

/// Everything that requests and responses have in common, except the body.
fn verify<S: Subject>(
    message: &Message<'_>,
    received: &Received,
    wit: &Unproven<S>,
    now: UnixTime,
) -> Result<ProofFacts, SignatureError> {
    let tag = received.text("tag")?;
    if tag != TAG {
        return Err(SignatureError::WrongTag { got: printable(tag) });
    }
    let (created, expires) = (received.time("created")?, received.time("expires")?);
    times::judge(created, expires, S::PROOF_LIFETIME_MAX, now)?;
    let nonce = received.text("nonce")?;
    judge_nonce(nonce)?;
    // The WIT may come from a cache, where it was in date.
    if now >= wit.expires() {
        return Err(SignatureError::WitExpired { by_seconds: now.since(wit.expires()).as_secs() });
    }
    let components = received.components(&message.components()?)?;
    if sha256(base::field_value(message.headers(), base::WIT)?.as_bytes()) != *wit.hash() {
        return Err(SignatureError::WrongWit);
    }
    let base = base::signature_base(message, &components, &received.input)?;
    let key = wit.confirmation().key();
    key.verify_raw(base.as_bytes(), &received.signature).map_err(|_| SignatureError::BadSignature)?;
    Ok(ProofFacts {
        id: nonce.to_owned(),
        issued: created,
        expires,
        binding: Binding::of(&[Bound::Target, Bound::MethodAndQuery, Bound::Body]),
        covers: message.tokens(),
    })
}

fn judge_nonce(nonce: &str) -> Result<(), SignatureError> {
    if nonce.is_empty() || nonce.len() > PROOF_ID_BYTES_MAX {
        return Err(SignatureError::Nonce { bytes: nonce.len() });
    }
    Ok(())
}

/// A body has a digest, and a digest is the body's. Where the field is there, the signature covers it.
fn judge_body(digest: Option<Vec<u8>>, body: &[u8]) -> Result<(), SignatureError> {
    match digest {
        None if body.is_empty() => Ok(()),
        None => Err(SignatureError::NoDigest),
        Some(digest) if constant_time_eq(&digest, &sha256(body)) => Ok(()),
        Some(_) => Err(SignatureError::WrongDigest),
    }
}

/// Why the signature of a message is refused, or not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No `Signature-Input` or no `Signature`, or no member of that label in one of them.
    #[error("the message has no signature labelled wimse; sign it, and put both fields into its head")]
    NoSignature,
    /// No `Workload-Identity-Token` in the message.
    #[error("the message has no workload identity token; send the one whose key signs")]
    NoWit,
    /// A field is longer than [`FIELD_BYTES_MAX`].
    #[error("{name} has {bytes} bytes, more than {FIELD_BYTES_MAX}")]
    TooLong {
        /// Which field.
        name: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A field is no structured field in its canonical spelling, or not of the right type.
    #[error("{name} is not a structured field in its canonical spelling (RFC 9651 section 4.1)")]
    Malformed {
        /// Which field.
        name: &'static str,
    },
    /// The value of a covered field is not text.
    #[error("{name} holds bytes outside of ASCII, which cannot be signed")]
    NotText {
        /// Which field.
        name: &'static str,
    },
    /// A parameter that the profile demands is absent.
    #[error("the signature has no parameter {name}")]
    MissingParameter {
        /// Its name.
        name: &'static str,
    },
    /// A parameter is of the wrong type, or cannot be written.
    #[error("the signature's parameter {name} is of the wrong type")]
    WrongParameter {
        /// Its name.
        name: &'static str,
    },
    /// A parameter that the profile forbids (`keyid`, `alg`) or does not know.
    #[error("the signature has the parameter {name:?}; the profile does not know or forbids it")]
    ForbiddenParameter {
        /// Its name.
        name: String,
    },
    /// A signature for something else.
    #[error("the signature is tagged {got:?} and not {TAG}")]
    WrongTag {
        /// Its tag.
        got: String,
    },
    /// Made for another target.
    #[error("the signature is for {got:?}; sign each request for its target URI")]
    WrongAudience {
        /// Whom it is for.
        got: String,
    },
    /// The response answers another request.
    #[error("the response is signed for another request")]
    WrongRequest,
    /// Not everything is covered that has to be.
    #[error("the signature does not cover {name}")]
    Uncovered {
        /// The component.
        name: &'static str,
    },
    /// A component is covered that the profile does not name, that is not there, or that is covered twice.
    #[error(
        "the signature covers {name:?}, which the profile does not name, or not once, or not in this way"
    )]
    UnknownComponent {
        /// The component.
        name: String,
    },
    /// The WIT in the message is not the one that was verified.
    #[error("the message carries another workload identity token than the one that was verified")]
    WrongWit,
    /// The WIT has expired since it was verified.
    #[error("the workload identity token expired {by_seconds} s ago; fetch a new one from the agent")]
    WitExpired {
        /// How long ago.
        by_seconds: u64,
    },
    /// Not now: expired, from the future, or alive for longer than the profile allows.
    #[error("the signature does not count now: {0}")]
    Times(#[from] TimeError),
    /// The nonce is empty or longer than [`PROOF_ID_BYTES_MAX`].
    #[error("the nonce has {bytes} bytes, not 1 to {PROOF_ID_BYTES_MAX}")]
    Nonce {
        /// Its length.
        bytes: usize,
    },
    /// A body without `Content-Digest`.
    #[error("the message has a body and no Content-Digest; add one with sha-256")]
    NoDigest,
    /// `Content-Digest` is not that of the body.
    #[error("Content-Digest is not the digest of the body")]
    WrongDigest,
    /// The signature does not fit.
    #[error("the signature does not fit the message and the key of its workload identity token")]
    BadSignature,
    /// Could not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// The draft that this module follows.
pub const HTTP_SIGNATURE_DRAFT: &str = "draft-ietf-wimse-http-signature-07";
/// Longest life of a signature that we make.
pub const SIGNATURE_LIFETIME_MAX: Duration = Duration::from_secs(60);
/// How long a signature lives unless somebody says otherwise.
pub const SIGNATURE_LIFETIME: Duration = Duration::from_secs(30);
/// Longest `Signature-Input`, `Signature` or `Content-Digest`, in bytes.
pub const FIELD_BYTES_MAX: usize = 2048;
/// Names the metadata of a signature.
pub const SIGNATURE_INPUT: &str = "signature-input";
/// Names the signature.
pub const SIGNATURE: &str = "signature";
/// Names the digest of the body.
pub const CONTENT_DIGEST: &str = "content-digest";
const TAG: &str = "wimse-workload-to-workload";
const REQUEST_PARAMETERS: [&str; 6] =
    ["created", "expires", "nonce", "tag", "wimse-aud", "wimse-sign-response"];
const RESPONSE_PARAMETERS: [&str; 5] = ["created", "expires", "nonce", "tag", "wimse-req-nonce"];

#[cfg(test)]
mod tests;
