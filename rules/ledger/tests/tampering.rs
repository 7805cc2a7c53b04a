//! SF-1: whoever changes the story is caught, and the first bad entry is named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use countersign_identity::{DecisionId, SpiffeId, TrustDomain, UnixTime, Verified};
use countersign_keys::{KeyPair, SystemRandom};
use countersign_ledger::{
    chain::{BootId, Record, RecordError, Writer, WriterVerifier},
    digest::Digest,
    event::{Event, Verdict},
    head::{self, Continuity, Head, HeadMismatch, SignedHead},
    log::{Assurance, LogError, LogState, LogVerifier, Report},
};
use proptest::prelude::*;

/// A log as it lies in a database: index, record and log hash.
#[derive(Clone)]
struct Log(Vec<(u64, Record, Digest)>);

impl Log {
    /// Of two services and the authority, `rounds` records each, taken in turn.
    fn of(rounds: u64) -> Self {
        let mut writers = [writer(ADS, 1), writer(USERS, 2), writer(AUTHORITY, 3)];
        let records = (0..rounds).flat_map(|round| {
            let records: Vec<Record> = writers.iter_mut().map(|writer| append(writer, round)).collect();
            records
        });
        Self::chained(records.collect())
    }

    fn chained(records: Vec<Record>) -> Self {
        let mut log = LogState::empty(&td());
        let rows = records.into_iter().map(|record| {
            log.append(&record);
            (log.size(), record, log.hash())
        });
        Self(rows.collect())
    }

    fn records(&self) -> Vec<Record> {
        self.0.iter().map(|(_, record, _)| record.clone()).collect()
    }

    fn head(&self) -> Verified<Head> {
        let (size, _, hash) = self.0.last().unwrap();
        let head = Head::of(&LogState::at(*size, *hash), td(), "e1".into(), at(99));
        let key = KeyPair::generate(&SystemRandom::new()).unwrap();
        SignedHead::sign(&head, &key).unwrap().verify(|_| Some(key.public_key().clone())).unwrap()
    }

    fn verify(&self) -> Result<Report, LogError> {
        self.verify_by(LogVerifier::new(&td()))
    }

    fn verify_by(&self, mut verifier: LogVerifier) -> Result<Report, LogError> {
        for (index, record, hash) in &self.0 {
            verifier.accept(*index, record, *hash)?;
        }
        verifier.finish()
    }
}

#[test]
fn accepts_an_untouched_log_and_says_that_this_alone_proves_little() {
    let report = Log::of(4).verify().unwrap();
    assert_eq!((report.log.size(), report.chains, report.gaps), (12, 3, 0));
    assert_eq!(report.assurance, Assurance::InternallyConsistentOnly);
    assert!(report.assurance.to_string().starts_with("internally consistent only"));
}

#[test]
fn accepts_a_log_that_grew_since_its_head_was_saved_elsewhere() {
    let head = Log::of(2).head();
    let verifier = LogVerifier::new(&td()).expecting_outside(&head);
    let report = Log::of(5).verify_by(verifier).unwrap();
    assert_eq!(report.assurance, Assurance::MatchesOutsideHead { size: 6 });
    assert!(report.assurance.to_string().contains("6 entries"));
}

#[test]
fn a_head_that_lies_beside_the_log_gives_no_outside_assurance() {
    let log = Log::of(3);
    let report = log.verify_by(LogVerifier::new(&td()).expecting_own(&log.head())).unwrap();
    assert_eq!(report.assurance, Assurance::InternallyConsistentOnly);
}

#[test]
fn names_the_entry_in_which_one_byte_was_flipped() {
    let mut log = Log::of(4);
    let byte = log.0[4].1.bytes.iter().position(|b| *b == b'7').unwrap();
    log.0[4].1.bytes[byte] ^= 1;
    let Err(LogError::BadEntry { index: 5, sequence: 2, problem, writer, .. }) = log.verify() else {
        panic!("a flipped byte went unnoticed")
    };
    assert_eq!(writer.as_str(), USERS);
    assert!(matches!(problem, RecordError::BrokenChain), "{problem:?}");
}

#[test]
fn names_the_entry_after_which_one_was_dropped() {
    let mut log = Log::of(4);
    log.0.remove(4);
    assert_eq!(log.verify(), Err(LogError::MissingEntry { expected: 5, got: 6 }));

    // Numbered anew, so that no index is missing: the writer's own sequence still tells.
    let records = log.records();
    let renumbered = Log::chained(records);
    let Err(LogError::BadEntry { index: 7, problem, .. }) = renumbered.verify() else { panic!() };
    assert_eq!(problem, RecordError::OutOfSequence { expected: 2, got: 3 });
}

#[test]
fn names_the_first_of_two_entries_that_were_reordered() {
    let mut log = Log::of(4);
    // Entries 5 and 8 are users' second and third record.
    let (fifth, eighth) = (log.0[4].1.clone(), log.0[7].1.clone());
    (log.0[4].1, log.0[7].1) = (eighth, fifth);
    let Err(LogError::BadEntry { index: 5, problem, .. }) = log.verify() else { panic!() };
    assert_eq!(problem, RecordError::OutOfSequence { expected: 2, got: 3 });
}

#[test]
fn names_the_entry_when_records_of_different_writers_were_reordered() {
    let mut log = Log::of(4);
    // Each writer's own chain is untouched: only the order between them changed.
    let (fourth, fifth) = (log.0[3].1.clone(), log.0[4].1.clone());
    (log.0[3].1, log.0[4].1) = (fifth, fourth);
    assert_eq!(log.verify(), Err(LogError::BrokenLog { index: 4 }));
}

#[test]
fn names_the_first_entry_when_the_files_of_two_writers_were_swapped() {
    let (mut ads, mut users) = (writer(ADS, 1), writer(USERS, 2));
    let (first, second) = (append(&mut ads, 0), append(&mut users, 0));
    let mut verifier = WriterVerifier::start(id(ADS), boot(1));
    assert_eq!(verifier.accept(&second), Err(RecordError::ForeignChain));
    // With the columns relabelled, the bytes still say whose they are.
    let relabelled = Record { writer: id(ADS), boot: boot(1), ..second };
    assert_eq!(verifier.accept(&relabelled), Err(RecordError::Mislabelled));
    // Another start of the same writer is another chain.
    let other_boot = Record { boot: boot(9), ..first.clone() };
    assert_eq!(verifier.accept(&other_boot), Err(RecordError::ForeignChain));
    // Nothing of this moved the verifier.
    verifier.accept(&first).unwrap();
}

#[test]
fn a_dropped_tail_is_seen_only_with_a_saved_head() {
    let head = Log::of(4).head();
    let mut cut = Log::of(4);
    cut.0.pop();
    assert_eq!(cut.verify().unwrap().assurance, Assurance::InternallyConsistentOnly);
    let found = cut.verify_by(LogVerifier::new(&td()).expecting_outside(&head));
    assert_eq!(found, Err(LogError::Head(HeadMismatch::RolledBack { saved: 12, current: 11 })));
}

#[test]
fn yesterdays_file_is_seen_with_todays_head() {
    let (yesterday, today) = (Log::of(2), Log::of(4));
    let found = yesterday
        .verify_by(LogVerifier::new(&td()).expecting_own(&yesterday.head()).expecting_outside(&today.head()));
    assert_eq!(found, Err(LogError::Head(HeadMismatch::RolledBack { saved: 12, current: 6 })));
}

#[test]
fn a_log_whose_hashes_were_all_recomputed_is_seen_only_with_a_saved_head() {
    let head = Log::of(4).head();
    // Someone with the whole database writes another history, in perfect order.
    let mut ads = writer(ADS, 1);
    let forged = Log::chained((0..15).map(|round| append(&mut ads, round)).collect());
    assert_eq!(forged.verify().unwrap().assurance, Assurance::InternallyConsistentOnly);
    let found = forged.verify_by(LogVerifier::new(&td()).expecting_outside(&head));
    assert_eq!(found, Err(LogError::Head(HeadMismatch::Rewritten { size: 12 })));
}

#[test]
fn a_head_of_another_deployment_says_nothing_about_this_log() {
    let other = TrustDomain::parse("other.test").unwrap();
    let head = Log::of(4).head();
    let found = LogVerifier::new(&other).expecting_outside(&head).finish();
    assert_eq!(
        found,
        Err(LogError::Head(HeadMismatch::OtherTrustDomain { saved: td(), current: other.clone() }))
    );
    assert_ne!(LogState::empty(&other), LogState::empty(&td()));
}

#[test]
fn a_gap_that_the_authority_recorded_is_reported_and_not_hidden() {
    let mut ads = writer(ADS, 1);
    let kept = append(&mut ads, 1);
    let _lost = [append(&mut ads, 2), append(&mut ads, 3)];
    let next = append(&mut ads, 4);
    let mut authority = writer(AUTHORITY, 3);
    let gap = Event::Gap { writer: id(ADS), boot: boot(1), missing_from: 2, missing_to: 3 };
    let gap = authority.append(&gap, at(5)).unwrap();

    let report = Log::chained(vec![kept.clone(), gap, next.clone()]).verify().unwrap();
    assert_eq!((report.gaps, report.missing), (1, 2));

    let undeclared = Log::chained(vec![kept, next]).verify();
    assert!(matches!(undeclared, Err(LogError::BadEntry { index: 2, .. })), "{undeclared:?}");
}

#[test]
fn a_service_cannot_declare_gaps_in_the_chain_of_another() {
    let (mut ads, mut users) = (writer(ADS, 1), writer(USERS, 2));
    let kept = append(&mut ads, 1);
    let _hidden = append(&mut ads, 2);
    let next = append(&mut ads, 3);
    let gap = Event::Gap { writer: id(ADS), boot: boot(1), missing_from: 2, missing_to: 2 };
    let gap = users.append(&gap, at(5)).unwrap();
    let found = Log::chained(vec![kept, gap, next]).verify();
    assert!(matches!(found, Err(LogError::BadEntry { index: 3, .. })), "{found:?}");
}

#[test]
fn two_heads_show_a_roll_back_and_a_fork() {
    let (short, long) = (Log::of(2).head(), Log::of(4).head());
    assert_eq!(head::compare(&short, &short), Ok(Continuity::Same));
    assert_eq!(head::compare(&short, &long), Ok(Continuity::Longer { by: 6 }));
    let rolled_back = HeadMismatch::RolledBack { saved: 12, current: 6 };
    assert_eq!(head::compare(&long, &short), Err(rolled_back));
    // A new epoch, as after a restore, does not excuse a shorter log.
    let restored = Head { epoch: "e2".into(), ..short.get().clone() };
    assert!(head::compare(&long, &restored).is_err());
    let forked = Head { hash: long.hash, ..short.get().clone() };
    assert_eq!(head::compare(&short, &forked), Err(HeadMismatch::Forked { size: 6 }));
    let foreign = Head { trust_domain: TrustDomain::parse("other.test").unwrap(), ..long.get().clone() };
    assert!(matches!(head::compare(&short, &foreign), Err(HeadMismatch::OtherTrustDomain { .. })));
}

proptest! {
    #[test]
    fn no_single_flipped_bit_of_any_record_goes_unnoticed(entry in 0_usize..12, place in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut log = Log::of(4);
        let bytes = &mut log.0[entry].1.bytes;
        let byte = place.index(bytes.len());
        bytes[byte] ^= 1 << bit;
        let found = log.verify();
        let named = matches!(found, Err(LogError::BadEntry { index, .. }) if index == entry as u64 + 1);
        prop_assert!(named, "{found:?}");
    }

    #[test]
    fn any_bytes_as_a_record_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let record = Record { writer: id(ADS), boot: boot(1), sequence: 1, bytes, chain: Digest::new([0; 32]) };
        prop_assert!(record.entry().is_err());
        prop_assert!(WriterVerifier::start(id(ADS), boot(1)).accept(&record).is_err());
    }
}

const ADS: &str = "spiffe://fleamarket.test/svc/ads";
const USERS: &str = "spiffe://fleamarket.test/svc/users";
const AUTHORITY: &str = "spiffe://fleamarket.test/countersign/authority";

fn append(writer: &mut Writer, round: u64) -> Record {
    let event = Event::AdminCall {
        route: format!("GET /api/v1/round/7/{round}"),
        actor: "uid:0".into(),
        verdict: Verdict::Allow,
        decision: DecisionId::from_random([7; 10]),
    };
    writer.append(&event, at(round)).unwrap()
}

fn writer(name: &str, start: u8) -> Writer {
    Writer::start(id(name), boot(start))
}

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(name).unwrap()
}

fn boot(start: u8) -> BootId {
    BootId::from_random([start; 16])
}

fn td() -> TrustDomain {
    TrustDomain::parse("fleamarket.test").unwrap()
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::from_secs(1_800_000_000 + i64::try_from(seconds).unwrap())
}
