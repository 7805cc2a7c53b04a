//! Our profile: one accepting test, then one for each reason to refuse.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{Binding, Bound, IdError, SpiffeId, UnixTime};
use countersign_keys::sha256;
use countersign_token::macaroon::service::CREDENTIAL_BYTES_MAX;
use countersign_token::macaroon::{
    ChainError, DISCHARGES_MAX, HeldMacaroon, Macaroon, MacaroonError, MacaroonFormatError, MacaroonHolder,
    MacaroonName, Narrowing, Predicate, PredicateError, RequestFacts, RootKey, Ticket, TicketKey, binary,
    service,
};
use proptest::prelude::*;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const IN_30_S: UnixTime = UnixTime::from_secs(1_800_000_030);
const TOMORROW: UnixTime = UnixTime::from_secs(1_800_086_400);

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://td/svc/{name}")).unwrap()
}

fn name() -> MacaroonName {
    MacaroonName::new("k1", id("ads"), [7; 16]).unwrap()
}

fn root() -> RootKey {
    RootKey::derive(b"32 random bytes that users holds")
}

/// A macaroon of ads for users.
fn minted() -> Macaroon<'static> {
    service::mint(&root(), &name(), &id("users"), TOMORROW).unwrap()
}

fn text(macaroon: &Macaroon<'_>) -> String {
    URL_SAFE_NO_PAD.encode(binary::write(macaroon))
}

fn narrowing(callee: &SpiffeId) -> Narrowing<'_> {
    Narrowing { callee, method: "GET", path: "/users/7", query: Some("full=1"), body: None, before: IN_30_S }
}

fn facts(callee: &SpiffeId) -> RequestFacts<'_> {
    RequestFacts {
        callee,
        method: "GET",
        path: "/users/7",
        query: Some("full=1"),
        body: Some(sha256(b"")),
        caller: None,
        user: None,
        now: NOW,
    }
}

fn verify(credential: &str, facts: &RequestFacts<'_>) -> Result<MacaroonHolder, MacaroonError> {
    let root = root();
    service::verify(credential, facts, |key_id| (key_id == "k1").then_some(&root))
        .map(|holder| holder.into_inner())
}

fn refused(predicate: PredicateError) -> Result<MacaroonHolder, MacaroonError> {
    Err(MacaroonError::Chain(ChainError::Predicate(predicate)))
}

fn unmet(name: &'static str, want: &str) -> Result<MacaroonHolder, MacaroonError> {
    refused(PredicateError::Unmet { name, want: want.into() })
}

#[test]
fn whoever_examines_a_macaroon_sees_each_caveat_of_it_and_of_its_discharges_bound_or_not() {
    let (users, root) = (id("users"), root());
    let examine = |credential: &str, callee: &SpiffeId| {
        let mut seen = Vec::new();
        let key_of = |key_id: &str| (key_id == "k1").then_some(&root);
        let holder = service::examine(credential, callee, key_of, |caveat| {
            seen.push(String::from_utf8_lossy(caveat).into_owned());
        });
        holder.map(|holder| (holder, seen))
    };
    let ticket = Ticket::seal(&TicketKey::derive(b"shared"), [3; 32], "user = u_1", [4; 24]).unwrap();
    let held = HeldMacaroon::new(minted().attenuate("colour = red").unwrap());
    let held = held.demanding(&ticket, "spiffe://td/svc/asks", [5; 24]).unwrap();
    let undischarged = examine(&held.to_text(), &users).unwrap_err();
    assert!(matches!(undischarged, MacaroonError::Chain(ChainError::NoDischarge { .. })));
    let discharge = ticket.discharge("x").unwrap().attenuate("method = PUT").unwrap();
    let held = held.with(discharge);
    for credential in [held.to_text(), held.present(&narrowing(&users)).unwrap()] {
        let (holder, seen) = examine(&credential, &users).unwrap();
        assert_eq!((&holder.owner, &holder.id), (&id("ads"), &name().id));
        assert!(["colour = red", "method = PUT"].iter().all(|caveat| seen.contains(&(*caveat).to_owned())));
        assert_eq!(holder.facts(NOW).ids, [name().id]);
    }
    let elsewhere = examine(&held.to_text(), &id("media")).unwrap_err();
    assert_eq!(elsewhere, MacaroonError::WrongLocation { got: users.to_string() });
    let stolen = ticket.discharge("x").unwrap().bound_to(&minted());
    let stolen = format!("{},{}", text(held.root()), text(&stolen));
    let refused = examine(&stolen, &users).unwrap_err();
    assert!(matches!(refused, MacaroonError::Chain(ChainError::BadDischarge { .. })));
    let forged = service::mint(&RootKey::derive(b"another"), &name(), &users, TOMORROW).unwrap();
    assert_eq!(examine(&text(&forged), &users), Err(MacaroonError::Chain(ChainError::BadSignature)));
}

#[test]
fn accepts_a_macaroon_that_its_owner_narrowed_to_this_request() {
    let users = id("users");
    let credential = HeldMacaroon::new(minted()).present(&narrowing(&users)).unwrap();
    let holder = verify(&credential, &facts(&users)).unwrap();
    let expected = MacaroonHolder {
        owner: id("ads"),
        id: name().id,
        key_id: "k1".into(),
        expires: Some(IN_30_S),
        binding: Binding::of(&[Bound::Target, Bound::MethodAndQuery]),
    };
    assert_eq!(holder, expected);
}

#[test]
fn accepts_the_wide_macaroon_itself_and_tells_that_it_is_bound_to_nothing() {
    let users = id("users");
    let holder = verify(&text(&minted()), &facts(&users)).unwrap();
    assert_eq!((holder.expires, holder.binding), (Some(TOMORROW), Binding::NONE));
}

#[test]
fn a_captured_copy_is_good_for_its_own_request_and_no_other() {
    let (users, chat) = (id("users"), id("chat"));
    let body = Some(sha256(b"7"));
    let narrow = Narrowing { body, ..narrowing(&users) };
    let credential = HeldMacaroon::new(minted()).present(&narrow).unwrap();
    let same = RequestFacts { body, ..facts(&users) };
    let holder = verify(&credential, &same).unwrap();
    assert_eq!(holder.binding, Binding::of(&[Bound::Target, Bound::MethodAndQuery, Bound::Body]));

    let other = |facts: RequestFacts<'_>| verify(&credential, &facts);
    assert_eq!(other(RequestFacts { method: "DELETE", ..same }), unmet("method", "GET"));
    assert_eq!(other(RequestFacts { path: "/users/8", ..same }), unmet("path", "/users/7"));
    assert_eq!(other(RequestFacts { query: Some("full=0"), ..same }), refused(PredicateError::OtherQuery));
    assert_eq!(other(RequestFacts { body: Some(sha256(b"8")), ..same }), refused(PredicateError::OtherBody));
    assert_eq!(other(RequestFacts { body: None, ..same }), refused(PredicateError::BodyNotRead));
    assert_eq!(
        other(RequestFacts { now: IN_30_S, ..same }),
        refused(PredicateError::TooLate { by_seconds: 0 })
    );
    let elsewhere = MacaroonError::WrongLocation { got: users.to_string() };
    assert_eq!(other(RequestFacts { callee: &chat, ..same }), Err(elsewhere));
}

#[test]
fn a_callee_can_forge_with_its_key_only_towards_itself() {
    // users mints for chat under its own root key: chat has another one.
    let chat = id("chat");
    let forged = service::mint(&root(), &name(), &chat, TOMORROW).unwrap();
    let chats_own = RootKey::derive(b"32 random bytes that chat holds!");
    let verdict = service::verify(&text(&forged), &facts(&chat), |_| Some(&chats_own));
    assert_eq!(verdict.unwrap_err(), MacaroonError::Chain(ChainError::BadSignature));
}

#[test]
fn rejects_a_macaroon_whose_location_says_ours_and_whose_audience_says_another() {
    let users = id("users");
    let forged = Macaroon::mint(users.as_str(), name().to_string().as_bytes(), &root()).unwrap();
    let forged = forged.attenuate("aud = spiffe://td/svc/chat").unwrap();
    assert_eq!(verify(&text(&forged), &facts(&users)), unmet("aud", "spiffe://td/svc/chat"));
}

#[test]
fn rejects_a_caveat_that_is_not_in_the_language() {
    let narrow = minted().attenuate("weather = fine").unwrap();
    let unknown = PredicateError::Unknown { caveat: "weather=fine".into() };
    assert_eq!(verify(&text(&narrow), &facts(&id("users"))), refused(unknown));
}

#[test]
fn rejects_a_root_key_that_this_callee_does_not_have() {
    let stranger = MacaroonName::new("k2", id("ads"), [7; 16]).unwrap();
    let macaroon = service::mint(&root(), &stranger, &id("users"), TOMORROW).unwrap();
    let unknown = MacaroonError::UnknownKey { key_id: "k2".into() };
    assert_eq!(verify(&text(&macaroon), &facts(&id("users"))), Err(unknown));
}

#[test]
fn rejects_an_identifier_that_is_not_one_of_ours() {
    let good = name().to_string();
    assert_eq!(MacaroonName::parse(good.as_bytes()).unwrap(), name());
    let bad = [
        "keyid",
        "",
        "2 k1 spiffe://td/svc/ads AAAA",
        "1 k1 spiffe://td/svc/ads AAAA",
        &format!("{good} x"),
        &format!(" {good}"),
        &good.replace("1 k1", "1  k1"),
        &good[..good.len() - 1],
        &format!("{good}A"),
    ];
    for identifier in bad {
        assert_eq!(
            MacaroonName::parse(identifier.as_bytes()),
            Err(MacaroonError::NotAName),
            "{identifier:?}"
        );
    }
    assert_eq!(MacaroonName::parse(b"1 k1 \xff"), Err(MacaroonError::NotAName));
    let no_owner = good.replace("spiffe://td/svc/ads", "ads");
    assert_eq!(MacaroonName::parse(no_owner.as_bytes()), Err(MacaroonError::Owner(IdError::WrongScheme)));
    for key_id in ["", "k 1", "k/1", "é", &"k".repeat(65)] {
        assert_eq!(MacaroonName::new(key_id, id("ads"), [0; 16]), Err(MacaroonError::BadKeyId), "{key_id}");
    }
    assert!(MacaroonName::new(&"k".repeat(64), id("ads"), [0; 16]).is_ok());
}

#[test]
fn rejects_a_credential_in_any_but_the_one_encoding() {
    let (users, good) = (id("users"), text(&minted()));
    let padded = format!("{good}=");
    for credential in
        ["", ",", &padded, &format!(" {good}"), &format!("{good},"), &format!(",{good}"), "a+/b"]
    {
        assert_eq!(verify(credential, &facts(&users)), Err(MacaroonError::NotBase64Url), "{credential:?}");
    }
    let v1 = URL_SAFE_NO_PAD.encode(countersign_token::macaroon::packets::write(&minted()));
    let unknown = MacaroonError::Format(MacaroonFormatError::Unknown);
    assert_eq!(verify(&v1, &facts(&users)), Err(unknown), "one form on the wire");
}

#[test]
fn rejects_a_credential_that_is_too_long_or_has_too_many_discharges() {
    let users = id("users");
    let long = "A".repeat(CREDENTIAL_BYTES_MAX + 1);
    let too_large = MacaroonFormatError::TooLarge { bytes: CREDENTIAL_BYTES_MAX + 1 };
    assert_eq!(verify(&long, &facts(&users)), Err(MacaroonError::Format(too_large)));
    let many = vec![text(&minted()); DISCHARGES_MAX + 2].join(",");
    let too_many = ChainError::TooManyDischarges { discharges: DISCHARGES_MAX + 1 };
    assert_eq!(verify(&many, &facts(&users)), Err(MacaroonError::Chain(too_many)));
}

#[test]
fn an_owner_hands_on_less_than_it_has_without_asking_anybody() {
    let users = id("users");
    let less = HeldMacaroon::new(minted()).narrowed(&Predicate::PathUnder("/users/")).unwrap();
    let less = HeldMacaroon::parse(&less.to_text()).unwrap();
    assert!(verify(&less.present(&narrowing(&users)).unwrap(), &facts(&users)).is_ok());
    let elsewhere = less.present(&Narrowing { path: "/admin", ..narrowing(&users) }).unwrap();
    let asked = RequestFacts { path: "/admin", ..facts(&users) };
    assert_eq!(verify(&elsewhere, &asked), unmet("path-under", "/users/"));
}

#[test]
fn a_held_macaroon_tells_who_must_discharge_what_and_binds_it_to_each_request() {
    const IDP: &str = "spiffe://td/countersign/authority";
    let (users, shared) = (id("users"), TicketKey::derive(b"shared"));
    let ticket = Ticket::seal(&shared, [5; 32], "user = u_1", [6; 24]).unwrap();
    let held = HeldMacaroon::new(minted()).demanding(&ticket, IDP, [7; 24]).unwrap();
    let open: Vec<_> = held.undischarged().map(|(location, id)| (location.to_owned(), id.to_vec())).collect();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].0, IDP);
    let undischarged = held.present(&narrowing(&users)).unwrap();
    let nobody = MacaroonError::Chain(ChainError::NoDischarge { location: IDP.into() });
    assert_eq!(verify(&undischarged, &facts(&users)), Err(nobody));

    let held = held.with(Ticket::open(&shared, &open[0].1).unwrap().discharge(IDP).unwrap());
    assert_eq!(held.undischarged().count(), 0);
    let held = HeldMacaroon::parse(&held.to_text()).unwrap();
    let (one, two) = (narrowing(&users), Narrowing { path: "/users/8", ..narrowing(&users) });
    let (one, two) = (held.present(&one).unwrap(), held.present(&two).unwrap());
    assert!(verify(&one, &facts(&users)).is_ok());
    assert!(verify(&two, &RequestFacts { path: "/users/8", ..facts(&users) }).is_ok());
    // The discharge of one request beside the macaroon of another.
    let (root_of_one, discharge_of_two) = (one.split(',').next().unwrap(), two.split(',').nth(1).unwrap());
    let mixed = format!("{root_of_one},{discharge_of_two}");
    let loose = MacaroonError::Chain(ChainError::BadDischarge { location: IDP.into() });
    assert_eq!(verify(&mixed, &facts(&users)), Err(loose));
}

proptest! {
    #[test]
    fn any_credential_is_refused_without_a_panic(text in "[A-Za-z0-9_,-]{0,300}|\\PC{0,60}") {
        prop_assert!(verify(&text, &facts(&id("users"))).is_err());
    }
}
