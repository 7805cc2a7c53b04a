//! Does a token count (RFC 7662)? Whoever it does not concern learns that it does not, whatever it is.

use countersign_identity::{SpiffeId, UserProof};
use serde_json::{Map, Value, json};

use super::{Asked, Form, OAuthError, client, recognise::recognise};

/// All that a token says, to whom it was issued and to those whom it is for; to all others no more than that it
/// counts for nothing. An administrator may know about every token.
pub(crate) fn introspect(asked: &Asked<'_>, form: &Form) -> Result<Map<String, Value>, OAuthError> {
    let client = match asked.caller.proof().user {
        UserProof::LocalUid => None,
        _ => Some(client::authenticate(asked, form)?),
    };
    let token = form.required("token")?;
    let concerns = |client: &SpiffeId| {
        let home = &asked.live.tokens().trust_domain;
        recognise(asked, token).filter(|token| token.concerns(client, home))
    };
    let found = client.map_or_else(|| recognise(asked, token), |client| concerns(client.id()));
    let mut answer = found.map(|token| token.claims).unwrap_or_default();
    let active = !answer.is_empty();
    answer.insert("active".to_owned(), json!(active));
    Ok(answer)
}
