//! Bearer tokens: one accepting test, then one for each reason to refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::io::Write;
use std::process::{Command, Stdio};

use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::SystemRandom;
use countersign_token::bearer::{self, BEARER_BYTES, BEARER_PREFIX, SCANNER_PATTERN};
use countersign_token::{BearerEntry, BearerError, BearerHolder, BearerId, BearerKey, BearerToken};
use proptest::prelude::*;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const LATER: UnixTime = UnixTime::from_secs(1_800_086_400);
const ALPHABET: &[u8] = b"0123456789abcdefghjkmnpqrstvwxyz";

#[test]
fn accepts_a_token_whose_hash_is_known() {
    let (token, key) = (mint(), key());
    let holder = bearer::verify(token.expose(), &key, NOW, known(&token, &key)).unwrap();
    assert_eq!(*holder.get(), BearerHolder { owner: ads(), id: token.id(), expires: LATER });
}

#[test]
fn accepts_the_old_and_the_new_token_while_they_are_rotated() {
    let (old, new, key) = (mint(), mint(), key());
    let both = |id: BearerId| if id == old.id() { known(&old, &key)(id) } else { known(&new, &key)(id) };
    assert!(bearer::verify(old.expose(), &key, NOW, both).is_ok());
    assert!(bearer::verify(new.expose(), &key, NOW, both).is_ok());
}

#[test]
fn a_token_has_240_random_bits_and_reads_back() {
    let (one, two) = (mint(), mint());
    assert_ne!(one.expose()[4..20], two.expose()[4..20]);
    assert_ne!(one.expose()[20..52], two.expose()[20..52]);
    let read = BearerToken::parse(one.expose()).unwrap();
    assert_eq!((read.expose(), read.id()), (one.expose(), one.id()));
    assert_eq!(one.expose()[4..20], one.id().to_string());
    assert_eq!(BearerId::parse(&one.id().to_string()).unwrap(), one.id());
}

#[test]
fn rejects_a_text_that_is_no_token() {
    let token = mint();
    let good = token.expose();
    let upper = good.to_uppercase();
    let texts = ["", "csb_", &good[1..], &good[..58], &format!("{good}0"), &upper, &format!(" {good}")];
    for text in texts {
        assert_eq!(BearerToken::parse(text).unwrap_err(), BearerError::NotBearer, "{}", text.len());
        assert_eq!(bearer::verify(text, &key(), NOW, |_| None).unwrap_err(), BearerError::NotBearer);
    }
    // i, l, o and u are letters that people take for others.
    for letter in ["i", "l", "o", "u", "-", "é"] {
        let text = format!("{}{letter}{}", &good[..10], &good[10 + letter.len()..]);
        assert_eq!(BearerToken::parse(&text).unwrap_err(), BearerError::NotBearer);
    }
}

#[test]
fn rejects_a_token_with_any_character_changed_or_two_swapped_by_its_checksum() {
    let (token, key) = (mint(), key());
    let good = token.expose();
    for place in BEARER_PREFIX.len()..good.len() {
        let mut changed = good.as_bytes().to_vec();
        let digit = ALPHABET.iter().position(|c| *c == changed[place]).unwrap();
        changed[place] = ALPHABET[(digit + 1) % 32];
        assert_refused_by_checksum(&changed, &key);
    }
    for place in BEARER_PREFIX.len() + 1..good.len() {
        let mut swapped = good.as_bytes().to_vec();
        swapped.swap(place - 1, place);
        if swapped != good.as_bytes() {
            assert_refused_by_checksum(&swapped, &key);
        }
    }
}

fn assert_refused_by_checksum(text: &[u8], key: &BearerKey) {
    let text = std::str::from_utf8(text).unwrap();
    assert_eq!(BearerToken::parse(text).unwrap_err(), BearerError::Checksum);
    assert_eq!(bearer::verify(text, key, NOW, |_| None).unwrap_err(), BearerError::Checksum);
}

#[test]
fn rejects_a_token_that_is_not_known_at_this_callee() {
    let token = mint();
    let refused = bearer::verify(token.expose(), &key(), NOW, |_| None);
    assert_eq!(refused.unwrap_err(), BearerError::Unknown { id: token.id() });
}

#[test]
fn rejects_the_id_of_one_token_with_the_secret_of_another() {
    let (token, other, key) = (mint(), mint(), key());
    let mixed = with_checksum(&format!("{}{}", &token.expose()[..20], &other.expose()[20..52]));
    let refused = bearer::verify(&mixed, &key, NOW, known(&token, &key));
    assert_eq!(refused.unwrap_err(), BearerError::WrongSecret { id: token.id() });
}

#[test]
fn rejects_a_hash_that_was_made_for_another_callee() {
    let (token, ours, theirs) = (mint(), key(), BearerKey::new([8; 32]));
    assert_ne!(ours.hash(&token), theirs.hash(&token));
    let refused = bearer::verify(token.expose(), &ours, NOW, known(&token, &theirs));
    assert_eq!(refused.unwrap_err(), BearerError::WrongSecret { id: token.id() });
}

#[test]
fn rejects_a_token_from_the_moment_at_which_it_expires() {
    let (token, key) = (mint(), key());
    let just_before = UnixTime::from_millis(LATER.millis() - 1);
    assert!(bearer::verify(token.expose(), &key, just_before, known(&token, &key)).is_ok());
    let refused = bearer::verify(token.expose(), &key, LATER, known(&token, &key));
    assert_eq!(refused.unwrap_err(), BearerError::Expired { id: token.id(), by_seconds: 0 });
}

#[test]
fn rejects_an_id_that_no_token_can_have() {
    for text in ["", "0123456789abcde", "0123456789abcdefg", "0123456789abcdeu", "0123456789ABCDEF"] {
        assert_eq!(BearerId::parse(text), Err(BearerError::BadId), "{text}");
    }
}

#[test]
fn neither_a_token_nor_its_key_nor_an_error_prints_a_secret() {
    let (token, key) = (mint(), key());
    let entry = known(&token, &key)(token.id()).unwrap();
    let refused = bearer::verify(token.expose(), &key, LATER, |_| Some(entry.clone())).unwrap_err();
    let printed = format!("{token:?} {key:?} {entry:?} {refused:?} {refused}");
    assert!(printed.contains(&token.id().to_string()) && printed.contains("Secret(..)"), "{printed}");
    assert!(!printed.contains(&token.expose()[20..]), "{printed}");
    assert!(!printed.contains("7, 7, 7"), "{printed}");
}

#[test]
fn a_scanner_finds_a_token_in_a_log_and_tells_it_from_a_lookalike() {
    let token = mint();
    let log =
        format!("curl -H 'Authorization: Bearer {}' https://x\nabcsb_{}\n", token.expose(), "0".repeat(55));
    let mut grep = Command::new("grep");
    let mut grep =
        grep.args(["-oE", SCANNER_PATTERN]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    grep.stdin.take().unwrap().write_all(log.as_bytes()).unwrap();
    let found = String::from_utf8(grep.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(found.trim_end(), token.expose());
    // What SCANNER_PATTERN documents, by another implementation.
    assert_eq!(with_checksum(&token.expose()[..52]), token.expose());
    assert_eq!(BearerToken::parse(&format!("csb_{}", "0".repeat(55))).unwrap_err(), BearerError::Checksum);
    assert_eq!(BEARER_BYTES, BEARER_PREFIX.len() + 55);
}

#[test]
fn a_credential_of_another_kind_is_not_mistaken_for_one() {
    assert!(bearer::claims_to_be(mint().expose()));
    assert!(!bearer::claims_to_be("eyJhbGciOiJFUzI1NiJ9.e30.c2ln"));
}

proptest! {
    #[test]
    fn any_text_is_refused_without_a_panic(text in "(csb_)?[0-9a-z]{0,60}|\\PC{0,80}") {
        prop_assert!(BearerToken::parse(&text).is_err());
        prop_assert!(bearer::verify(&text, &key(), NOW, |_| None).is_err());
    }
}

/// CRC-32 by the book, bit by bit over polynomial 0x04C11DB7 with reflected input and output.
fn with_checksum(start: &str) -> String {
    let mut crc = u32::MAX;
    for byte in &start.as_bytes()[4..] {
        for bit in 0..8 {
            let feedback = (crc >> 31) ^ (u32::from(*byte) >> bit & 1);
            crc = (crc << 1) ^ if feedback == 1 { 0x04C1_1DB7 } else { 0 };
        }
    }
    let sum = u64::from((!crc).reverse_bits()) << 3;
    let digits =
        (0..7).rev().map(|place| char::from(ALPHABET[usize::try_from(sum >> (5 * place) & 31).unwrap()]));
    format!("{start}{}", digits.collect::<String>())
}

fn known(token: &BearerToken, key: &BearerKey) -> impl Fn(BearerId) -> Option<BearerEntry> + Copy {
    let (id, hash) = (token.id(), key.hash(token));
    move |asked| (asked == id).then(|| BearerEntry { owner: ads(), hash, expires: LATER })
}

fn mint() -> BearerToken {
    BearerToken::mint(&SystemRandom::new()).unwrap()
}

fn key() -> BearerKey {
    BearerKey::new([7; 32])
}

fn ads() -> SpiffeId {
    SpiffeId::parse("spiffe://fleamarket.test/svc/ads").unwrap()
}
