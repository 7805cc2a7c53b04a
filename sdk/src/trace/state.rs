//! `tracestate` (W3C Trace Context section 3.3): what vendors of tracing say to each other, handed on as it came.

use http::HeaderName;

/// The header that belongs to a `traceparent`.
pub static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Is it a list that may be handed on: at most [`MEMBERS_MAX`] members with keys of their own, in at most
/// [`STATE_BYTES_MAX`] bytes, counted over all lines as if they were one?
pub(super) fn is_well_formed<'a>(lines: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut keys: [&[u8]; MEMBERS_MAX] = [&[]; MEMBERS_MAX];
    let (mut bytes, mut count) = (0, 0);
    for line in lines {
        bytes += line.len() + usize::from(bytes > 0);
        if bytes > STATE_BYTES_MAX {
            return false;
        }
        let members = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        for member in members.filter(|member| !member.is_empty()) {
            let Some(key) = key(member).filter(|key| !keys.iter().take(count).any(|known| known == key))
            else {
                return false;
            };
            let Some(place) = keys.get_mut(count) else { return false };
            *place = key;
            count += 1;
        }
    }
    count > 0
}

/// The key of a member, if both key and value are such.
fn key(member: &[u8]) -> Option<&[u8]> {
    let equals = member.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (member.get(..equals)?, member.get(equals + 1..)?);
    let named = match key.iter().position(|byte| *byte == b'@') {
        None => is_name(key, KEY_BYTES_MAX) && key.first()?.is_ascii_lowercase(),
        Some(at) => {
            let (tenant, system) = (key.get(..at)?, key.get(at + 1..)?);
            is_name(tenant, TENANT_BYTES_MAX)
                && is_name(system, SYSTEM_BYTES_MAX)
                && system.first()?.is_ascii_lowercase()
        }
    };
    let printable = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    let valued = !value.is_empty() && value.len() <= VALUE_BYTES_MAX && value.iter().all(printable);
    (named && valued).then_some(key)
}

fn is_name(text: &[u8], bytes_max: usize) -> bool {
    let inner = |byte: &u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/')
    };
    let begins = text.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    begins && text.len() <= bytes_max && text.iter().all(inner)
}

const STATE_BYTES_MAX: usize = 512;
const MEMBERS_MAX: usize = 32;
const KEY_BYTES_MAX: usize = 256;
const TENANT_BYTES_MAX: usize = 241;
const SYSTEM_BYTES_MAX: usize = 14;
const VALUE_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn well_formed(lines: &[&str]) -> bool {
        is_well_formed(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn accepts_what_the_recommendation_shows() {
        for good in
            ["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "a=1 , b=2,,", "fw529a3039@dt=FfAr 1", "1t@s*/-_=!~"]
        {
            assert!(well_formed(&[good]), "{good}");
        }
        assert!(well_formed(&["a=1", "b=2,c=3"]));
    }

    #[test]
    fn rejects_what_is_no_list_of_members_with_keys_of_their_own() {
        for bad in [
            "",
            "a",
            "=1",
            "a=",
            "A=1",
            "1=1",
            "a=1=2",
            "a=1,a=2",
            "a@=1",
            "@s=1",
            "a@1=1",
            "a@b@c=1",
            "a=\t1\u{7f}",
        ] {
            assert!(!well_formed(&[bad]), "{bad}");
        }
        assert!(!well_formed(&["a=1", "a=2"]));
        assert!(!well_formed(&[]));
    }

    #[test]
    fn holds_each_limit_and_not_one_more() {
        let members = |count: usize| (0..count).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join(",");
        assert!(well_formed(&[&members(MEMBERS_MAX)]));
        assert!(!well_formed(&[&members(MEMBERS_MAX + 1)]));
        let long = |bytes: usize| format!("a={},b={}", "x".repeat(256), "x".repeat(bytes - 2 - 256 - 3));
        assert!(well_formed(&[&long(STATE_BYTES_MAX)]));
        assert!(!well_formed(&[&long(STATE_BYTES_MAX + 1)]));
        let [key, value] = [256, 257].map(|bytes| "k".repeat(bytes));
        assert!(well_formed(&[&format!("{key}=1")]) && !well_formed(&[&format!("{value}=1")]));
        assert!(well_formed(&[&format!("a={key}")]) && !well_formed(&[&format!("a={value}")]));
        let system = |bytes: usize| format!("t@{}=1", "s".repeat(bytes));
        assert!(well_formed(&[&system(14)]) && !well_formed(&[&system(15)]));
    }
}
