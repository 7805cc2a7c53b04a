//! The path of a request.

use std::borrow::Cow;

use thiserror::Error;

use crate::bytes::SEGMENT;

/// Longest path, in bytes, as it was sent.
pub const PATH_BYTES_MAX: usize = 2048;
/// Most segments of a path.
pub const PATH_SEGMENTS_MAX: usize = 64;

/// Why a path cannot be read in exactly one way.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// Over [`PATH_BYTES_MAX`].
    #[error("path has {bytes} bytes: at most {PATH_BYTES_MAX} are allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Over [`PATH_SEGMENTS_MAX`].
    #[error("path has {segments} segments: at most {PATH_SEGMENTS_MAX} are allowed")]
    TooManySegments {
        /// How many there are.
        segments: usize,
    },
    /// Begins with anything but `/`.
    #[error("path does not begin with '/'")]
    NoLeadingSlash,
    /// A segment is `.` or `..`.
    #[error("path has a dot segment: send the path that you mean")]
    DotSegment,
    /// Two slashes in a row.
    #[error("path has an empty segment: write each slash once")]
    EmptySegment,
    /// Outside what RFC 3986 allows in a segment; also `;`, whose parameters some readers drop.
    #[error("path holds {0:?}, which readers understand differently: leave it out or encode it")]
    BadCharacter(char),
    /// A `%` without two hexadecimal digits.
    #[error("path has a '%' without two hexadecimal digits")]
    BadEncoding,
    /// An encoded byte that changes its meaning once decoded: slash, backslash, dot, percent,
    /// semicolon, question mark, hash, or a control byte.
    #[error("path encodes {0:?}, which some readers decode and others do not")]
    EncodedDelimiter(char),
    /// An encoded letter, digit, `-`, `_` or `~`: a second spelling of the same path.
    #[error("path encodes {0:?} without need: write the character itself")]
    NeedlessEncoding(char),
    /// The encoded bytes are not UTF-8.
    #[error("path encodes bytes that are not UTF-8")]
    NotText,
}

/// The one spelling of `raw`: hexadecimal digits in upper case, delimiters that may stand for
/// themselves in a segment decoded.
pub(crate) fn canonical(raw: &str) -> Result<Cow<'_, str>, PathError> {
    if is_canonical(raw.as_bytes()) {
        return Ok(Cow::Borrowed(raw));
    }
    if raw.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong { bytes: raw.len() });
    }
    if !raw.starts_with('/') {
        return Err(PathError::NoLeadingSlash);
    }
    let segments = segments(raw).count();
    if segments > PATH_SEGMENTS_MAX {
        return Err(PathError::TooManySegments { segments });
    }
    let mut path = String::with_capacity(raw.len());
    for (position, segment) in self::segments(raw).enumerate() {
        let is_last = position.saturating_add(1) == segments;
        check_segment(segment, is_last)?;
        path.push('/');
        write_segment(segment, &mut path)?;
    }
    Ok(Cow::Owned(path))
}

/// Is it the one spelling already, and a short one? Nearly every path is, and takes this way through; what is left is
/// judged by the rules below, which say the same of these.
fn is_canonical(raw: &[u8]) -> bool {
    if raw.len() > PATH_BYTES_MAX || raw.first() != Some(&b'/') {
        return false;
    }
    let mut segments = 0;
    // Dots since the slash before, if there was nothing else; something else counts as many.
    let mut dots = OTHER;
    for (at, byte) in raw.iter().enumerate() {
        match *byte {
            b'/' if at > 0 && dots <= 2 => return false,
            b'/' => (segments, dots) = (segments + 1, 0),
            b'.' => dots += 1,
            byte if SEGMENT.has(byte) => dots = OTHER,
            _ => return false,
        }
    }
    segments <= PATH_SEGMENTS_MAX && !matches!(dots, 1 | 2)
}

/// More dots than a path can have.
const OTHER: usize = PATH_BYTES_MAX * 2;

/// The segments of a path that begins with `/`.
pub(crate) fn segments(path: &str) -> impl Iterator<Item = &str> + Clone {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

fn check_segment(segment: &str, is_last: bool) -> Result<(), PathError> {
    match segment {
        "" if !is_last => Err(PathError::EmptySegment),
        "." | ".." => Err(PathError::DotSegment),
        _ => Ok(()),
    }
}

fn write_segment(segment: &str, path: &mut String) -> Result<(), PathError> {
    let mut rest = segment;
    while let Some(c) = rest.chars().next() {
        if c == '%' {
            rest = write_encoded_run(rest, path)?;
            continue;
        }
        if !stands_for_itself(c) {
            return Err(PathError::BadCharacter(c));
        }
        path.push(c);
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    Ok(())
}

/// Writes the run of encoded bytes that `text` begins with, and returns what follows. The run is
/// decoded as a whole because a character may take several bytes.
fn write_encoded_run<'a>(text: &'a str, path: &mut String) -> Result<&'a str, PathError> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(after) = rest.strip_prefix('%') {
        let (digits, after) = after.split_at_checked(2).ok_or(PathError::BadEncoding)?;
        bytes.push(decode_hex(digits).ok_or(PathError::BadEncoding)?);
        rest = after;
    }
    let decoded = std::str::from_utf8(&bytes).map_err(|_| PathError::NotText)?;
    for c in decoded.chars() {
        write_encoded_char(c, path)?;
    }
    Ok(rest)
}

fn write_encoded_char(c: char, path: &mut String) -> Result<(), PathError> {
    if c.is_control() || matches!(c, '/' | '\\' | '.' | '%' | ';' | '?' | '#') {
        return Err(PathError::EncodedDelimiter(c));
    }
    if is_plain(c) {
        return Err(PathError::NeedlessEncoding(c));
    }
    if stands_for_itself(c) {
        path.push(c);
        return Ok(());
    }
    let mut buffer = [0; 4];
    for byte in c.encode_utf8(&mut buffer).bytes() {
        path.push_str(&format!("%{byte:02X}"));
    }
    Ok(())
}

/// Two hexadecimal digits as a byte. Stricter than `from_str_radix`, which takes a sign.
pub(crate) fn decode_hex(digits: &str) -> Option<u8> {
    let is_hex = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Unreserved characters (RFC 3986 section 2.3).
pub(crate) fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~')
}

fn stands_for_itself(c: char) -> bool {
    u8::try_from(c).is_ok_and(|byte| SEGMENT.has(byte))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn accepts_ordinary_paths_as_they_are() {
        for path in ["/", "/ads", "/ads/", "/ads/7/buy", "/a.b/..c/d..", "/@me,1:2(3)*", "/%C3%A9"] {
            assert_eq!(canonical(path).unwrap(), path);
        }
    }

    #[test]
    fn two_spellings_of_one_path_become_one() {
        assert_eq!(canonical("/caf%c3%a9").unwrap(), "/caf%C3%A9");
        assert_eq!(canonical("/users/a%40b").unwrap(), "/users/a@b");
        assert_eq!(canonical("/a%20b").unwrap(), "/a%20b");
    }

    #[test]
    fn dot_segments_are_refused_and_never_resolved() {
        for path in ["/info/../private", "/..", "/.", "/a/./b", "/a/.."] {
            assert_eq!(canonical(path), Err(PathError::DotSegment), "{path}");
        }
    }

    #[test]
    fn double_slashes_cannot_pass_a_rule_on_admin() {
        for path in ["//admin", "/a//admin", "//", "/a//"] {
            assert_eq!(canonical(path), Err(PathError::EmptySegment), "{path}");
        }
    }

    #[test]
    fn encoded_slashes_backslashes_dots_and_nul_are_refused() {
        for (path, c) in [
            ("/a%2Fadmin", '/'),
            ("/a%2fadmin", '/'),
            ("/a%5Cadmin", '\\'),
            ("/%2e%2e/admin", '.'),
            ("/.%2E/admin", '.'),
            ("/a%252Fadmin", '%'),
            ("/a%00.png", '\0'),
            ("/a%0D%0Ab", '\r'),
            ("/a%7F", '\u{7f}'),
            ("/a%C2%85", '\u{85}'),
            ("/a%3Bb", ';'),
            ("/a%3Fb", '?'),
            ("/a%23b", '#'),
        ] {
            assert_eq!(canonical(path), Err(PathError::EncodedDelimiter(c)), "{path}");
        }
    }

    #[test]
    fn path_parameters_cannot_change_the_decided_path() {
        for path in ["/admin;x=1", "/..;/admin", "/a/;/b"] {
            assert_eq!(canonical(path), Err(PathError::BadCharacter(';')), "{path}");
        }
    }

    #[test]
    fn raw_backslash_hash_nul_control_bytes_and_non_ascii_are_refused() {
        for c in ['\\', '#', '?', '\0', '\n', ' ', '"', '<', '{', '|', '^', '`', 'é', '\u{7f}'] {
            let path = format!("/a{c}b");
            assert_eq!(canonical(&path), Err(PathError::BadCharacter(c)), "{path:?}");
        }
    }

    #[test]
    fn a_second_spelling_of_a_letter_is_refused() {
        assert_eq!(canonical("/%61dmin"), Err(PathError::NeedlessEncoding('a')));
        assert_eq!(canonical("/%7Eme"), Err(PathError::NeedlessEncoding('~')));
    }

    #[test]
    fn broken_encodings_are_refused() {
        for path in ["/%", "/%4", "/%zz", "/%+1", "/% 1", "/%é"] {
            assert_eq!(canonical(path), Err(PathError::BadEncoding), "{path}");
        }
        for path in ["/%FF", "/%C3", "/%C0%AF", "/%ED%A0%80"] {
            assert_eq!(canonical(path), Err(PathError::NotText), "{path}");
        }
    }

    #[test]
    fn a_path_must_begin_with_a_slash() {
        for path in ["", "*", "ads", "%2Fads"] {
            assert_eq!(canonical(path), Err(PathError::NoLeadingSlash), "{path}");
        }
    }

    #[test]
    fn accepts_limits_and_rejects_one_past_them() {
        let longest = format!("/{}", "a".repeat(PATH_BYTES_MAX - 1));
        assert!(canonical(&longest).is_ok());
        assert_eq!(canonical(&format!("{longest}a")), Err(PathError::TooLong { bytes: 2049 }));
        assert!(canonical(&"/a".repeat(PATH_SEGMENTS_MAX)).is_ok());
        let too_many = "/a".repeat(PATH_SEGMENTS_MAX + 1);
        assert_eq!(canonical(&too_many), Err(PathError::TooManySegments { segments: 65 }));
    }
}
