//! Domain separation: what a signature, a MAC or a derived key is *for* is part of what it covers.

/// The bytes that are really signed or MACed: `countersign/v1/<purpose>` 0x00 `message`.
///
/// Used by everything of ours that is not a standard format. `purpose` is a constant in the caller's
/// source (such as `"ledger-head"`) and never holds a NUL byte, so two purposes can never meet.
pub fn domain(purpose: &str, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREFIX.len() + purpose.len() + 1 + message.len());
    bytes.extend_from_slice(PREFIX.as_bytes());
    // A NUL inside the purpose would let it swallow the separator.
    bytes.extend(purpose.bytes().filter(|byte| *byte != 0));
    bytes.push(0);
    bytes.extend_from_slice(message);
    bytes
}

/// Every purpose starts with this name and version.
pub const PREFIX: &str = "countersign/v1/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_purpose_and_the_message_cannot_be_shifted_into_each_other() {
        assert_eq!(domain("a", b"bc"), b"countersign/v1/a\0bc");
        assert_ne!(domain("a", b"bc"), domain("ab", b"c"));
        assert_ne!(domain("a\0b", b"c"), domain("a", b"b\0c"));
    }
}
