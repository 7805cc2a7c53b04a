//! Macaroons: the format as others write it, its judgement, and our profile on top.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod chain;
mod formats;
mod predicates;
mod pymacaroons;
mod service;
mod tickets;
mod vectors;

use countersign_token::macaroon::{Macaroon, PredicateError, RootKey};

const LOCATION: &str = "http://example.org/";

fn key() -> RootKey {
    RootKey::derive(b"this is the key")
}

fn plain() -> Macaroon<'static> {
    Macaroon::mint(LOCATION, b"keyid", &key()).unwrap()
}

/// A verifier that knows exactly these predicates.
fn exactly(known: &[&str]) -> impl Fn(&[u8]) -> Result<(), PredicateError> {
    let known: Vec<Vec<u8>> = known.iter().map(|text| text.as_bytes().to_vec()).collect();
    move |caveat| match known.iter().any(|one| one == caveat) {
        true => Ok(()),
        false => Err(PredicateError::Unknown { caveat: String::from_utf8_lossy(caveat).into_owned() }),
    }
}
