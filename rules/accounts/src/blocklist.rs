//! Passwords that attackers try first, as whole passwords (SP 800-63B-4 section 3.1.1.2): common ones, the
//! same one twice, one with digits around it, keyboard walks, and words that belong to the account.

use std::{collections::HashSet, sync::LazyLock};

/// Judges a whole password; `context` are the account's own words. A passphrase of several words passes.
pub(crate) fn judge(password: &str, context: &[&str]) -> Result<(), BlockReason> {
    let lower = password.to_lowercase();
    if is_repetition(&lower) {
        return Err(BlockReason::Repetition);
    }
    if is_walk(&lower) {
        return Err(BlockReason::Walk);
    }
    let context: Vec<String> = context.iter().flat_map(|word| context_words(word)).collect();
    for core in cores(&lower) {
        if is_made_of(&core, |word| context.iter().any(|own| own == word)) {
            return Err(BlockReason::Context);
        }
        if is_made_of(&core, |word| COMMON.contains(word) || context.iter().any(|own| own == word)) {
            return Err(BlockReason::Common);
        }
    }
    Ok(())
}

/// What remains of a password when the decoration around it is taken away: once as typed, and once for each
/// usual reading of digits as letters. Many digits that follow no pattern are no decoration.
fn cores(lower: &str) -> Vec<String> {
    let word = lower.trim_matches(|c: char| !c.is_alphabetic());
    let decoration: String = lower.split(word).collect();
    if decoration.chars().count() > DECORATION_CHARS_MAX
        && !is_walk(&decoration)
        && !is_repetition(&decoration)
    {
        return Vec::new();
    }
    let read = |one: Option<char>, c: char| match (one, c) {
        (None, c) => c,
        (_, '0') => 'o',
        (Some(one), '1' | '!' | '|') => one,
        (_, '3') => 'e',
        (_, '4' | '@') => 'a',
        (_, '5' | '$') => 's',
        (_, '7') => 't',
        (_, c) => c,
    };
    let readings = [None, Some('i'), Some('l')];
    // The first letter may itself be written as a digit: also read without taking anything away.
    let texts = readings.iter().flat_map(|one| [(one, word), (one, lower)]);
    texts
        .map(|(one, text)| text.chars().map(|c| read(*one, c)).filter(|c| c.is_alphanumeric()).collect())
        .collect()
}

/// Is it one known word, two of them, or the same one again and again?
fn is_made_of(core: &str, known: impl Fn(&str) -> bool) -> bool {
    if known(core) {
        return true;
    }
    core.char_indices().skip(1).any(|(at, _)| {
        let (first, rest) = core.split_at(at);
        known(first) && (known(rest) || is_prefix_of_cycle(rest, first))
    })
}

fn is_prefix_of_cycle(text: &str, unit: &str) -> bool {
    text.chars().zip(unit.chars().cycle()).all(|(c, expected)| c == expected)
}

/// A short piece again and again: `abcabcabcabcabc`, `aaaaaaaaaaaaaaa`.
fn is_repetition(text: &str) -> bool {
    let chars: Vec<char> = text.chars().collect();
    (1..=UNIT_CHARS_MAX.min(chars.len() / 2))
        .any(|unit| chars.iter().zip(chars.iter().skip(unit)).all(|(a, b)| a == b))
}

/// A walk along the alphabet, the digits or a keyboard, forwards or backwards, in at most three runs.
fn is_walk(text: &str) -> bool {
    let chars: Vec<char> = text.chars().collect();
    let breaks = chars.iter().zip(chars.iter().skip(1)).filter(|(a, b)| !are_neighbours(**a, **b)).count();
    breaks < WALKS_MAX
}

fn are_neighbours(a: char, b: char) -> bool {
    a == b
        || ROWS.iter().any(|row| {
            row.chars().zip(row.chars().skip(1)).any(|(x, y)| (a, b) == (x, y) || (a, b) == (y, x))
        })
}

/// `fleamarket.test` is tried as a whole, without its dot, and by its parts.
fn context_words(word: &str) -> Vec<String> {
    let lower = word.to_lowercase();
    let plain = |text: &str| -> String { text.chars().filter(|c| c.is_alphanumeric()).collect() };
    let parts = lower.split(|c: char| !c.is_alphanumeric()).map(plain);
    std::iter::once(plain(&lower))
        .chain(parts)
        .filter(|part| part.chars().count() >= CONTEXT_CHARS_MIN)
        .collect()
}

/// Why a password is easy to guess: shown to the person, so that the next one is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockReason {
    /// A common password, or two of them.
    #[error("it is made of the commonest passwords; use words that do not belong together")]
    Common,
    /// The account's own words.
    #[error("it is made of the account's or the deployment's own name")]
    Context,
    /// The same piece again and again.
    #[error("it repeats one short piece")]
    Repetition,
    /// Along the keyboard or the alphabet.
    #[error("it walks along the keyboard, the alphabet or the digits")]
    Walk,
}

/// Digits and decoration are not in the list: they are taken away before.
static COMMON: LazyLock<HashSet<&str>> =
    LazyLock::new(|| include_str!("blocklist.txt").split_whitespace().collect());

const ROWS: [&str; 7] = [
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890",
    "qwertyuiop[]",
    "asdfghjkl;'",
    "zxcvbnm,./",
    "qwertzuiopü+",
    "yxcvbnm,.-",
];
const UNIT_CHARS_MAX: usize = 7;
const WALKS_MAX: usize = 3;
const DECORATION_CHARS_MAX: usize = 6;
const CONTEXT_CHARS_MIN: usize = 3;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    const CONTEXT: [&str; 2] = ["alice", "fleamarket.test"];

    #[test]
    fn accepts_passphrases_and_random_texts() {
        for password in [
            "wet stones sing at noon",
            "correct horse battery staple",
            "sunshine over dusty chairs",
            "839201847362910",
            "monkey 8392 0184 7362",
            "alice likes rain on tin",
            "xK9#vQ2m!pL7zR4w",
            "qpzmwoxnei384756",
        ] {
            assert_eq!(judge(password, &CONTEXT), Ok(()), "{password}");
        }
    }

    #[test]
    fn rejects_common_passwords_twice_and_with_digits_around() {
        for password in [
            "passwordpassword",
            "PASSWORD12345678",
            "Password!Password!",
            "p4ssw0rd p4ssw0rd",
            "1234567890iloveyou",
            "iloveyouforever1",
            "administrator123",
            "sunshine-dragon-7",
            "letmeinletmeinletmein1",
            "!!changemechangeme!!",
        ] {
            assert_eq!(judge(password, &CONTEXT), Err(BlockReason::Common), "{password}");
        }
    }

    #[test]
    fn rejects_the_accounts_own_words() {
        for password in [
            "alicealicealice1",
            "fleamarket.test1",
            "FleamarketAlice1",
            "alice.fleamarket",
            "@l1ceFle4m@rket",
        ] {
            assert_eq!(judge(password, &CONTEXT), Err(BlockReason::Context), "{password}");
        }
        assert_eq!(judge("alicealicealice1", &[]), Err(BlockReason::Common), "alice is common enough");
    }

    #[test]
    fn rejects_one_short_piece_again_and_again() {
        for password in [
            "aaaaaaaaaaaaaaa",
            "abcabcabcabcabc",
            "xY7.xY7.xY7.xY7.",
            "               ",
            "\u{1f600}\u{1f600}\u{1f600}\u{1f600}\u{1f600}\u{1f600}\u{1f600}\u{1f600}\u{1f600}\u{1f600}\u{1f600}\u{1f600}\u{1f600}\u{1f600}\u{1f600}",
        ] {
            assert_eq!(judge(password, &CONTEXT), Err(BlockReason::Repetition), "{password}");
        }
    }

    #[test]
    fn rejects_walks_along_keyboard_alphabet_and_digits() {
        for password in [
            "123456789012345",
            "abcdefghijklmno",
            "qwertyuiopasdfgh",
            "zyxwvutsrqponml",
            "987654321098765",
            "qwertzuiopü+asdf",
            "1234567890qwerty",
            "qwertzqwertz1234",
        ] {
            assert_eq!(judge(password, &CONTEXT), Err(BlockReason::Walk), "{password}");
        }
    }

    #[test]
    fn the_list_is_lower_case_letters_without_doubles() {
        let words: Vec<&str> = include_str!("blocklist.txt").split_whitespace().collect();
        assert!(words.len() > 1000, "{}", words.len());
        assert!(words.is_sorted_by(|a, b| a < b));
        assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
    }
}
