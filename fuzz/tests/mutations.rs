//! Every target, on good input and on a few thousand changes of it: the same ones each time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use countersign_fuzz::TARGETS;

#[test]
fn no_changed_token_is_accepted_and_no_parser_panics() {
    std::thread::scope(|scope| {
        for target in TARGETS.iter() {
            scope.spawn(move || {
                target.seeds.iter().for_each(|seed| target.run(seed));
                let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
                for _ in 0..CHANGES {
                    let seed = &target.seeds[dice.below(target.seeds.len())];
                    let other = &target.seeds[dice.below(target.seeds.len())];
                    target.run(&dice.changed(seed, other));
                }
            });
        }
    });
}

#[test]
fn every_kind_of_token_has_a_target_and_starts_from_a_good_one() {
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    let expected = [
        "access-token",
        "txn-token",
        "exchanged-token",
        "service-token",
        "jwt-svid",
        "client-assertion",
        "dpop",
        "wit",
        "wpt",
        "http-signature",
        "jwe",
        "macaroon",
        "bearer",
        "jws",
        "macaroon-format",
        "macaroon-caveat",
        "allowed-calls",
        "http1-request",
        "http1-response",
    ];
    assert_eq!(names, expected);
    assert!(TARGETS.iter().all(|target| !target.seeds.is_empty()));
}

/// xorshift64*: the same numbers on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.roll() >> 33).unwrap() % limit.max(1)
    }

    /// One to four changes: bits flipped, bytes that parsers care about, parts cut, doubled, moved, or taken from another input.
    fn changed(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let mut data = seed.to_vec();
        for _ in 0..=self.below(4) {
            let (place, length) = (self.below(data.len() + 1), self.below(1 + data.len().min(40)));
            let end = (place + length).min(data.len());
            match self.below(7) {
                0 if place < data.len() => data[place] ^= 1 << self.below(8),
                1 if place < data.len() => data[place] = INTERESTING[self.below(INTERESTING.len())],
                2 => data.insert(place, INTERESTING[self.below(INTERESTING.len())]),
                3 => drop(data.drain(place..end)),
                4 => {
                    let part = data[place..end].to_vec();
                    let to = self.below(data.len() + 1);
                    data.splice(to..to, part);
                }
                5 => {
                    let from = self.below(other.len());
                    let part = other[from..(from + length).min(other.len())].to_vec();
                    data.splice(place..end, part);
                }
                _ => data.truncate(place),
            }
        }
        data
    }
}

const INTERESTING: &[u8] = b"\0\x01\x02\x06\x7f\x80\xff .,=\"{}[]:-_+/0129AaZz\n\\;()";
const CHANGES: usize = 4000;
