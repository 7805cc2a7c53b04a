//! Where a head or a trailer section ends, found once however the bytes trickle in.

use memchr::memchr;
use thiserror::Error;

/// Why bytes are no head, whatever they say.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeadBytesError {
    /// A line that ends with LF alone (RFC 9112 section 2.2 lets a reader take it; we do not).
    #[error("a line ends with a line feed alone: end it with CR LF")]
    BareLineFeed,
    /// No end within the limit.
    #[error("head has more than {limit} bytes: send fewer or shorter headers")]
    TooLong {
        /// Limit in bytes.
        limit: usize,
    },
}

/// How far a section that ends with an empty line was looked at. All positions count from its beginning.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeadEnd {
    line_start: usize,
    seen: usize,
}

impl HeadEnd {
    /// The length of the section with its empty line, once that is there; then it is ready for the next section.
    pub(crate) fn find(&mut self, buffer: &[u8], limit: usize) -> Result<Option<usize>, HeadBytesError> {
        let looked_at = buffer.get(..limit).unwrap_or(buffer);
        while let Some(offset) = looked_at.get(self.seen..).and_then(|rest| memchr(b'\n', rest)) {
            let at = self.seen.saturating_add(offset);
            let before = at.checked_sub(1).filter(|before| looked_at.get(*before) == Some(&b'\r'));
            let before = before.ok_or(HeadBytesError::BareLineFeed)?;
            self.seen = at.saturating_add(1);
            if before == self.line_start {
                let length = self.seen;
                *self = Self::default();
                return Ok(Some(length));
            }
            self.line_start = self.seen;
        }
        self.seen = looked_at.len();
        if buffer.len() >= limit { Err(HeadBytesError::TooLong { limit }) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_once_it_is_there() {
        let section = b"a\r\nb\r\n\r\nnext";
        let mut end = HeadEnd::default();
        for length in 0..8 {
            assert_eq!(end.find(&section[..length], 100), Ok(None), "{length}");
        }
        assert_eq!(end.find(section, 100), Ok(Some(8)));
        assert_eq!(end.find(b"\r\n", 100), Ok(Some(2)), "an empty section, and the search begins anew");
    }

    #[test]
    fn a_line_feed_alone_is_refused_wherever_it_stands() {
        for section in [&b"\n"[..], b"a\n", b"a\r\n\n", b"a\r\nb\n\r\n", b"\r\r\n\n"] {
            assert_eq!(
                HeadEnd::default().find(section, 100),
                Err(HeadBytesError::BareLineFeed),
                "{section:?}"
            );
        }
    }

    #[test]
    fn accepts_a_section_at_the_limit_and_rejects_one_past_it() {
        assert_eq!(HeadEnd::default().find(b"abc\r\n\r\n", 7), Ok(Some(7)));
        assert_eq!(HeadEnd::default().find(b"abcd\r\n\r\n", 7), Err(HeadBytesError::TooLong { limit: 7 }));
        assert_eq!(HeadEnd::default().find(b"abcd\r\n", 7), Ok(None));
    }
}
