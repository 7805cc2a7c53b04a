//! The judgement of a chain with its discharges.

use countersign_token::macaroon::{
    CAVEATS_MAX, ChainError, DISCHARGES_MAX, Macaroon, PredicateError, RootKey, binary, verify_chain,
};

use super::{exactly, key, plain};

const AUTH: &str = "http://auth.example.org/";
const BANK: &str = "http://bank.example.org/";

fn judge(root: &Macaroon<'_>, discharges: &[Macaroon<'_>], known: &[&str]) -> Result<(), ChainError> {
    verify_chain(root, discharges, &key(), exactly(known))
}

fn third(name: &str) -> RootKey {
    RootKey::derive(name.as_bytes())
}

fn demanding(root: Macaroon<'static>, location: &str, id: &str) -> Macaroon<'static> {
    root.attenuate_third_party(location, &third(id), id.as_bytes(), [9; 24]).unwrap()
}

fn discharge(location: &str, id: &str) -> Macaroon<'static> {
    Macaroon::mint(location, id.as_bytes(), &third(id)).unwrap()
}

#[test]
fn accepts_a_macaroon_whose_every_caveat_holds() {
    let root = plain().attenuate("a = 1").unwrap().attenuate("b = 2").unwrap();
    assert_eq!(judge(&root, &[], &["a = 1", "b = 2"]), Ok(()));
}

#[test]
fn accepts_a_discharge_that_is_bound_and_one_that_needs_another() {
    let root = demanding(plain(), AUTH, "who");
    let nested = demanding(discharge(AUTH, "who").attenuate("a = 1").unwrap(), BANK, "paid");
    let discharges = [nested.bound_to(&root), discharge(BANK, "paid").bound_to(&root)];
    assert_eq!(judge(&root, &discharges, &["a = 1"]), Ok(()));
    let [first, second] = discharges;
    assert_eq!(judge(&root, &[second, first], &["a = 1"]), Ok(()), "order does not count");
}

#[test]
fn rejects_another_root_key() {
    let verdict = verify_chain(&plain(), &[], &RootKey::derive(b"another"), exactly(&[]));
    assert_eq!(verdict, Err(ChainError::BadSignature));
}

#[test]
fn rejects_a_chain_in_which_any_bit_was_changed() {
    let written = binary::write(&plain().attenuate("a = 1").unwrap());
    let location = 3..3 + super::LOCATION.len();
    for place in 0..written.len() {
        for bit in 0..8 {
            let mut changed = written.clone();
            changed[place] ^= 1 << bit;
            let verdict = binary::read(&changed).map(|root| judge(&root, &[], &["a = 1"]));
            let hint = location.contains(&place) && verdict == Ok(Ok(()));
            assert!(
                hint || !matches!(verdict, Ok(Ok(()))),
                "byte {place} bit {bit}: only the location is a hint"
            );
        }
    }
}

#[test]
fn rejects_a_caveat_that_was_taken_away_or_moved() {
    let (one, two) = ("a = 1", "b = 2");
    let narrow = plain().attenuate(one).unwrap().attenuate(two).unwrap();
    let written = binary::write(&narrow);
    let caveats = written.windows(2).position(|pair| pair == b"\x02\x05").unwrap();
    let caveats =
        written[caveats + 1..].windows(2).position(|pair| pair == b"\x02\x05").unwrap() + caveats + 1;
    let without_last = [&written[..caveats + 8], &written[caveats + 16..]].concat();
    let without_first = [&written[..caveats], &written[caveats + 8..]].concat();
    let swapped = [
        &written[..caveats],
        &written[caveats + 8..caveats + 16],
        &written[caveats..caveats + 8],
        &written[caveats + 16..],
    ]
    .concat();
    for changed in [without_last, without_first, swapped] {
        let root = binary::read(&changed).unwrap();
        assert_eq!(judge(&root, &[], &[one, two]), Err(ChainError::BadSignature), "{root:?}");
    }
}

#[test]
fn rejects_a_caveat_that_the_verifier_does_not_know() {
    let root = plain().attenuate("a = 1").unwrap().attenuate("b = 2").unwrap();
    let unknown = PredicateError::Unknown { caveat: "b = 2".into() };
    assert_eq!(judge(&root, &[], &["a = 1"]), Err(ChainError::Predicate(unknown)));
}

#[test]
fn judges_no_caveat_before_every_signature_fits() {
    let forged = Macaroon::mint("", b"keyid", &RootKey::derive(b"mine")).unwrap().attenuate("a = 1").unwrap();
    let verdict = verify_chain(&forged, &[], &key(), |_| panic!("an invented caveat was judged"));
    assert_eq!(verdict, Err(ChainError::BadSignature));
}

#[test]
fn judges_the_caveats_of_a_discharge_too() {
    let root = demanding(plain(), AUTH, "who");
    let narrow = discharge(AUTH, "who").attenuate("a = 1").unwrap().bound_to(&root);
    let unknown = PredicateError::Unknown { caveat: "a = 1".into() };
    assert_eq!(judge(&root, &[narrow], &[]), Err(ChainError::Predicate(unknown)));
}

#[test]
fn rejects_a_third_party_caveat_that_nobody_discharged() {
    let root = demanding(plain(), AUTH, "who");
    let nobody = ChainError::NoDischarge { location: AUTH.into() };
    assert_eq!(judge(&root, &[], &[]), Err(nobody.clone()));
    assert_eq!(judge(&root, &[discharge(BANK, "paid").bound_to(&root)], &[]), Err(nobody));
}

#[test]
fn rejects_a_discharge_that_is_unbound_or_bound_to_another_macaroon() {
    let root = demanding(plain(), AUTH, "who");
    let other = demanding(Macaroon::mint("", b"other", &key()).unwrap(), AUTH, "who");
    let bad = ChainError::BadDischarge { location: AUTH.into() };
    assert_eq!(judge(&root, &[discharge(AUTH, "who")], &[]), Err(bad.clone()));
    assert_eq!(judge(&root, &[discharge(AUTH, "who").bound_to(&other)], &[]), Err(bad.clone()));
    let narrower = root.clone().attenuate("a = 1").unwrap();
    assert_eq!(judge(&narrower, &[discharge(AUTH, "who").bound_to(&root)], &["a = 1"]), Err(bad));
}

#[test]
fn rejects_a_discharge_under_another_key() {
    let root = demanding(plain(), AUTH, "who");
    let forged = Macaroon::mint(AUTH, b"who", &third("guess")).unwrap().bound_to(&root);
    assert_eq!(judge(&root, &[forged], &[]), Err(ChainError::BadDischarge { location: AUTH.into() }));
}

#[test]
fn rejects_a_third_party_caveat_whose_key_does_not_open() {
    // A chain that its holder computed properly, over a verification id that nobody sealed.
    let written = binary::write(&plain());
    let (head, tag) = written.split_at(written.len() - 32);
    let (sealed, id) = ([5; 72], b"who");
    let hmac = |message: &[u8]| countersign_keys::hmac_sha256(tag, message);
    let end = hmac(&[hmac(&sealed), hmac(id)].concat());
    let caveat = [b"\x01\x04auth\x02\x03who\x04\x48", &sealed[..], b"\x00"].concat();
    let bytes = [&head[..head.len() - 3], &caveat, &head[head.len() - 3..], &end].concat();
    let root = binary::read(&bytes).unwrap();
    let verdict = judge(&root, &[discharge("auth", "who").bound_to(&root)], &[]);
    assert_eq!(verdict, Err(ChainError::BadDischarge { location: "auth".into() }));
}

#[test]
fn rejects_a_verification_id_that_was_sealed_for_another_place_in_the_chain() {
    // The signature fits, because its holder computed it; the key in it was sealed under an earlier tag.
    let early = demanding(plain(), AUTH, "who");
    let written = binary::write(&early);
    let sealed = written.windows(2).position(|pair| pair == b"\x04\x48").unwrap() + 2;
    let later = plain().attenuate("a = 1").unwrap();
    let mut moved = binary::write(&demanding(later, AUTH, "who"));
    let place = moved.windows(2).position(|pair| pair == b"\x04\x48").unwrap() + 2;
    moved[place..place + 72].copy_from_slice(&written[sealed..sealed + 72]);
    let moved = binary::read(&moved).unwrap();
    assert_eq!(judge(&moved, &[], &["a = 1"]), Err(ChainError::BadSignature), "nobody can move it unnoticed");
}

#[test]
fn rejects_a_discharge_that_no_caveat_needs() {
    let root = plain();
    let verdict = judge(&root, &[discharge(AUTH, "who").bound_to(&root)], &[]);
    assert_eq!(verdict, Err(ChainError::Unused { identifier: "who".into() }));
    let root = demanding(plain(), AUTH, "who");
    let twice = [discharge(AUTH, "who").bound_to(&root), discharge(AUTH, "who").bound_to(&root)];
    assert_eq!(judge(&root, &twice, &[]), Err(ChainError::Unused { identifier: "who".into() }));
}

#[test]
fn rejects_one_discharge_for_two_caveats() {
    let root = demanding(demanding(plain(), AUTH, "who"), AUTH, "who");
    let verdict = judge(&root, &[discharge(AUTH, "who").bound_to(&root)], &[]);
    assert_eq!(verdict, Err(ChainError::UsedTwice { location: AUTH.into() }));
}

#[test]
fn rejects_discharges_that_need_each_other() {
    let root = demanding(plain(), AUTH, "who");
    let itself = demanding(discharge(AUTH, "who"), AUTH, "who").bound_to(&root);
    assert_eq!(judge(&root, &[itself], &[]), Err(ChainError::Cyclic { location: AUTH.into() }));
    let one = demanding(discharge(AUTH, "who"), BANK, "paid").bound_to(&root);
    let other = demanding(discharge(BANK, "paid"), AUTH, "who").bound_to(&root);
    assert_eq!(judge(&root, &[one, other], &[]), Err(ChainError::Cyclic { location: AUTH.into() }));
}

#[test]
fn accepts_as_many_discharges_as_are_allowed_and_not_one_more() {
    const { assert!(DISCHARGES_MAX < CAVEATS_MAX) };
    let ids: Vec<String> = (0..=DISCHARGES_MAX).map(|n| format!("id {n}")).collect();
    let with = |ids: &[String]| {
        let root = ids.iter().fold(plain(), |root, id| demanding(root, AUTH, id));
        let discharges: Vec<_> = ids.iter().map(|id| discharge(AUTH, id).bound_to(&root)).collect();
        judge(&root, &discharges, &[])
    };
    assert_eq!(with(&ids[..DISCHARGES_MAX]), Ok(()));
    assert_eq!(with(&ids), Err(ChainError::TooManyDischarges { discharges: DISCHARGES_MAX + 1 }));
}

#[test]
fn neither_a_macaroon_nor_its_key_prints_what_makes_it_valid() {
    let printed = format!("{:?} {:?}", plain(), key());
    assert!(printed.contains("Tag(..)") && printed.contains("Secret(..)"), "{printed}");
}
