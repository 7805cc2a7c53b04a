//! The worked examples of the WIMSE drafts, read from their texts, in the generic profile. They are of the past,
//! and time is an argument. (Signed messages: `src/http_signature/tests.rs`.)
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use common::{part, payload};
use countersign_identity::{Binding, Bound, SpiffeId, TrustDomain, UnixTime};
use countersign_keys::PublicKey;
use countersign_token::{
    JwsError, ProofTarget, TimeError, Unproven, Wit, WitError, WitIssuer, WorkloadUri, WptError,
    http_signature::HTTP_SIGNATURE_DRAFT,
    wit::{Subject, WIT_DRAFT},
    wpt::{self, WPT_DRAFT},
};
use serde_json::Value;

#[test]
fn verifies_the_wit_of_the_draft() {
    let Some(examples) = Examples::read() else { return };
    let unproven = examples.wit().unwrap();
    assert_eq!(unproven.claimed_subject().as_str(), "wimse://example.com/specific-workload");
    assert_eq!(unproven.token_id(), Some("x-_1CTL2cca3CSE4cwb_l"));
    assert_eq!(unproven.expires(), UnixTime::from_secs(1_745_512_510));
    assert_eq!(part(&examples.wit, 0), examples.creds_blocks("json")[0], "the header that the text shows");
    assert_eq!(payload(&examples.wit), examples.creds_blocks("json")[1], "the claims that the text shows");
    let header = file("wit-header.txt").unwrap();
    assert_eq!(header.trim(), format!("Workload-Identity-Token: {}", examples.wit));
}

#[test]
fn refuses_every_change_of_the_wit_of_the_draft() {
    let Some(examples) = Examples::read() else { return };
    for at in 0..examples.wit.len() {
        let wit = changed(&examples.wit, at);
        let verified = Wit::<WorkloadUri>::verify(&wit, MADE, |_| Some(examples.issuer()));
        assert!(verified.is_err(), "changed at {at}: {wit}");
    }
}

#[test]
fn refuses_the_wit_of_the_draft_when_it_has_expired_and_for_another_trust_domain() {
    let Some(examples) = Examples::read() else { return };
    let verify = |now, trust_domain: &str| {
        let trust_domain = TrustDomain::parse(trust_domain).unwrap();
        let issuer = WitIssuer { trust_domain, ..examples.issuer() };
        Wit::<WorkloadUri>::verify(&examples.wit, now, |_| Some(issuer)).map(|_| ())
    };
    assert_eq!(verify(UnixTime::from_secs(1_745_512_509), "example.com"), Ok(()));
    let expired = verify(UnixTime::from_secs(1_745_512_510), "example.com");
    assert_eq!(expired, Err(WitError::Times(TimeError::Expired { by_seconds: 0 })));
    assert!(matches!(verify(MADE, "example.org"), Err(WitError::WrongTrustDomain { .. })));
}

#[test]
fn the_profile_of_spiffe_takes_no_wit_of_the_drafts() {
    let Some(examples) = Examples::read() else { return };
    let found = Wit::<SpiffeId>::verify(&examples.wit, MADE, |_| Some(examples.issuer()));
    assert_eq!(found, Err(WitError::NotAWorkload { sub: "wimse://example.com/specific-workload".into() }));
}

#[test]
fn verifies_the_wpt_of_the_draft_in_its_request() {
    let Some(examples) = Examples::read() else { return };
    assert_eq!(examples.wpt, examples.request_header("Workload-Proof-Token"));
    assert_eq!(examples.wit, examples.request_header("Workload-Identity-Token"));
    assert_eq!(part(&examples.wpt, 0), examples.wpt_blocks("json")[0], "the header that the text shows");
    assert_eq!(payload(&examples.wpt), examples.wpt_blocks("json")[1], "the claims that the text shows");
    let access_token = examples.access_token();
    let proven = examples.verify(&examples.wpt, &examples.target(&access_token), MADE).unwrap();
    assert_eq!(proven.subject.as_str(), "wimse://example.com/specific-workload");
    assert_eq!(proven.proof_id, "__bwc4ESC3acc2LTC1-_x");
    assert_eq!(proven.proof_expires, UnixTime::from_secs(1_745_510_016));
    assert_eq!(proven.binding, Binding::of(&[Bound::Target]));
    assert_eq!(proven.covers, ["authorization"]);
}

#[test]
fn refuses_every_change_of_the_wpt_of_the_draft() {
    let Some(examples) = Examples::read() else { return };
    let access_token = examples.access_token();
    for at in 0..examples.wpt.len() {
        let wpt = changed(&examples.wpt, at);
        let verified = examples.verify(&wpt, &examples.target(&access_token), MADE);
        assert!(verified.is_err(), "changed at {at}: {wpt}");
    }
}

#[test]
fn refuses_the_wpt_of_the_draft_with_other_tokens_for_another_target_or_at_another_time() {
    let Some(examples) = Examples::read() else { return };
    let access_token = examples.access_token();
    let target = examples.target(&access_token);
    let refused = |target: ProofTarget<'_>| examples.verify(&examples.wpt, &target, MADE).unwrap_err();
    assert_eq!(
        refused(ProofTarget { access_token: Some("16_mAd0GiwaZokU26_0902101"), ..target }),
        WptError::WrongHash { claim: "ath" }
    );
    assert_eq!(refused(ProofTarget { access_token: None, ..target }), WptError::TokenGone { claim: "ath" });
    assert_eq!(
        refused(ProofTarget { txn_token: Some("a.b.c"), ..target }),
        WptError::Uncovered { claim: "tth" }
    );
    assert_eq!(
        refused(ProofTarget { audience: "https://workload.example.com/other", ..target }),
        WptError::WrongAudience { got: "https://workload.example.com/path".into() }
    );
    let late = examples.verify(&examples.wpt, &target, UnixTime::from_secs(1_745_510_016));
    assert_eq!(late, Err(WptError::Times(TimeError::Expired { by_seconds: 0 })));
    let early = examples.verify(&examples.wpt, &target, UnixTime::from_secs(1_745_509_000));
    assert!(matches!(early, Err(WptError::Times(TimeError::Lifetime { .. }))), "{early:?}");
}

#[test]
fn a_wit_is_no_wpt_and_a_wpt_is_no_wit() {
    let Some(examples) = Examples::read() else { return };
    let access_token = examples.access_token();
    let found = examples.verify(&examples.wit, &examples.target(&access_token), MADE).unwrap_err();
    assert_eq!(found, WptError::WrongKind { typ: "wit+jwt".into() });
    let found = Wit::<WorkloadUri>::verify(&examples.wpt, MADE, |_| Some(examples.issuer()));
    assert_eq!(found, Err(WitError::WrongKind { typ: "wpt+jwt".into() }));
}

#[test]
fn finds_the_key_of_the_issuer_by_exactly_its_kid() {
    let Some(examples) = Examples::read() else { return };
    let other = WitIssuer { kid: "june 5".into(), ..examples.issuer() };
    let found = Wit::<WorkloadUri>::verify(&examples.wit, MADE, |_| Some(other));
    assert_eq!(found, Err(WitError::Jws(JwsError::WrongKey)));
}

#[test]
fn the_drafts_that_are_followed_are_those_that_are_tested() {
    for pinned in [WIT_DRAFT, WPT_DRAFT, HTTP_SIGNATURE_DRAFT] {
        let (name, _) = pinned.rsplit_once('-').unwrap();
        let Some(text) = file(&format!("{name}.md")) else { return };
        let newest = text.lines().find_map(|line| line.strip_prefix("## draft-")).unwrap();
        assert_eq!(format!("draft-{newest}"), pinned, "a newer draft is here: read what changed");
    }
}

/// When the proof of the example was made, or nearly.
const MADE: UnixTime = UnixTime::from_secs(1_745_510_000);

struct Examples {
    wit: String,
    wpt: String,
    request: String,
    creds: String,
    wpt_draft: String,
}

impl Examples {
    fn read() -> Option<Self> {
        Some(Self {
            wit: file("wit.txt")?.trim().to_owned(),
            wpt: file("wpt.txt")?.trim().to_owned(),
            request: file("wpt-request.txt")?,
            creds: file("draft-ietf-wimse-workload-creds.md")?,
            wpt_draft: file("draft-ietf-wimse-wpt.md")?,
        })
    }

    /// The key of the example's identity server, as the text shows it.
    fn issuer(&self) -> WitIssuer {
        let mut jwk = self.creds_blocks("jwk").into_iter().find(|jwk| jwk["kid"] == "June 5").unwrap();
        jwk.as_object_mut().unwrap().remove("kid");
        WitIssuer {
            kid: "June 5".into(),
            key: PublicKey::from_jwk(&jwk.to_string()).unwrap(),
            trust_domain: TrustDomain::parse("example.com").unwrap(),
            issuer: None,
        }
    }

    fn wit(&self) -> Result<Unproven<WorkloadUri>, WitError> {
        Wit::verify(&self.wit, MADE, |kid| (kid == "June 5").then(|| self.issuer()))
    }

    fn verify(
        &self,
        wpt: &str,
        target: &ProofTarget<'_>,
        now: UnixTime,
    ) -> Result<countersign_token::ProvenWorkload<WorkloadUri>, WptError> {
        wpt::verify(wpt, &self.wit().unwrap(), target, now).map(countersign_identity::Verified::into_inner)
    }

    fn target<'a>(&self, access_token: &'a str) -> ProofTarget<'a> {
        assert!(self.request.starts_with("POST /path HTTP/1.1\nHost: workload.example.com\n"));
        ProofTarget {
            audience: "https://workload.example.com/path",
            access_token: Some(access_token),
            ..ProofTarget::default()
        }
    }

    fn access_token(&self) -> String {
        self.request_header("Authorization").strip_prefix("Bearer ").unwrap().to_owned()
    }

    fn request_header(&self, name: &str) -> String {
        let line = self.request.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap().to_owned()
    }

    fn creds_blocks(&self, kind: &str) -> Vec<Value> {
        blocks(&self.creds, kind)
    }

    fn wpt_blocks(&self, kind: &str) -> Vec<Value> {
        blocks(&self.wpt_draft, kind)
    }
}

/// The code blocks of one kind in a draft.
fn blocks(text: &str, kind: &str) -> Vec<Value> {
    let opening = format!("~~~ {kind}\n");
    let opened = text.split(&opening).skip(1);
    opened.filter_map(|rest| serde_json::from_str(rest.split("~~~").next().unwrap()).ok()).collect()
}

/// The token with one character replaced by another that may stand there.
fn changed(token: &str, at: usize) -> String {
    let with = if &token[at..=at] == "A" { "B" } else { "A" };
    format!("{}{with}{}", &token[..at], &token[at + 1..])
}

fn file(name: &str) -> Option<String> {
    countersign_testkit::vectors(&format!("wimse/{name}")).map(|path| std::fs::read_to_string(path).unwrap())
}
