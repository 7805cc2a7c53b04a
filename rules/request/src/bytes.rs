//! Sets of bytes, as tables: what a byte is, is one look.

/// A set of bytes.
pub(crate) struct Set([bool; 256]);

impl Set {
    /// These bytes.
    #[allow(
        clippy::indexing_slicing,
        reason = "evaluated by the compiler: an index out of range does not compile"
    )]
    pub(crate) const fn of(mut bytes: &[u8]) -> Self {
        let mut set = [false; 256];
        while let [byte, rest @ ..] = bytes {
            set[*byte as usize] = true;
            bytes = rest;
        }
        Self(set)
    }

    /// Is the byte one of them?
    pub(crate) fn has(&self, byte: u8) -> bool {
        self.0.get(usize::from(byte)).is_some_and(|has| *has)
    }

    /// Are all of these? Looks at every byte, because it nearly always has to.
    pub(crate) fn has_all(&self, bytes: &[u8]) -> bool {
        bytes.iter().fold(true, |all, byte| all & self.has(*byte))
    }
}

/// Is every byte one that ASCII prints, from space to `~`? Eight at a time: values of headers are the most of a head.
pub(crate) fn is_printable(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES * 0x80;
    let (words, rest) = bytes.as_chunks::<8>();
    let odd = words.iter().fold(0, |odd, word| {
        let word = u64::from_le_bytes(*word);
        let deletes = word ^ (ONES * 0x7f);
        // The high bit of a byte: it is below space; it is DEL; it is not ASCII.
        odd | (word.wrapping_sub(ONES * 0x20) & !word) | (deletes.wrapping_sub(ONES) & !deletes) | word
    });
    odd & HIGH == 0 && rest.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The text before the first such byte, and the text after it. For what is short: nothing is prepared before the search.
pub(crate) fn split_once(text: &str, at: u8) -> Option<(&str, &str)> {
    debug_assert!(at.is_ascii());
    let end = text.bytes().position(|b| b == at)?;
    let (before, after) = text.split_at_checked(end)?;
    Some((before, after.get(1..)?))
}

/// Characters of a token (RFC 9110 section 5.6.2), of which names of headers are made.
pub(crate) static TOKEN: Set =
    Set::of(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~");

/// Characters that stand for themselves in a segment of a path (RFC 3986 section 3.3), save `;`, whose parameters some
/// readers drop.
pub(crate) static SEGMENT: Set =
    Set::of(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,=:@");

/// Characters that stand for themselves in a query (RFC 3986 section 3.4), save `;`, which some readers take for `&`.
pub(crate) static QUERY: Set =
    Set::of(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,=:@/?");

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn every_byte_that_does_not_print_is_found_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            for neighbour in [b' ', b'a', b'~'] {
                for place in 0..19 {
                    let mut bytes = [neighbour; 19];
                    bytes[place] = byte;
                    assert_eq!(is_printable(&bytes), (b' '..=b'~').contains(&byte), "{byte} at {place}");
                }
            }
        }
        assert!(is_printable(b""));
    }

    #[test]
    fn a_set_has_its_bytes_and_no_others() {
        for byte in 0..=u8::MAX {
            let c = char::from(byte);
            let segment = c.is_ascii_alphanumeric() || "-._~!$&'()*+,=:@".contains(c);
            assert_eq!(SEGMENT.has(byte), segment, "{c:?}");
            assert_eq!(QUERY.has(byte), segment || "/?".contains(c), "{c:?}");
            assert_eq!(TOKEN.has(byte), http::HeaderName::from_bytes(&[byte]).is_ok(), "{c:?}");
        }
        assert!(TOKEN.has_all(b"x-token") && !TOKEN.has_all(b"x token"));
    }
}
