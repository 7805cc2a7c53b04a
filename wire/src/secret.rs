//! Secret text inside a body.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A password or a token inside a JSON body: written out only as JSON, never by `Debug`, wiped when dropped.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "String", into = "String")]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: String) -> SecretText {
        SecretText(Zeroizing::new(text))
    }

    /// The text itself: whoever calls this must not log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> SecretText {
        SecretText::new(text)
    }
}

impl From<SecretText> for String {
    fn from(secret: SecretText) -> String {
        secret.0.as_str().to_owned()
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SecretText(..)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn debug_never_prints_the_text() {
        let secret: SecretText = serde_json::from_str("\"correct horse\"").unwrap();
        assert_eq!(format!("{secret:?}"), "SecretText(..)");
        assert_eq!(secret.expose(), "correct horse");
    }
}
