//! Who acted for a user, as a nested `act` claim (RFC 8693 section 4.1): the newest outermost.

use countersign_identity::SpiffeId;
use serde_json::{Value, json};

use crate::claims::{ClaimError, Claims, optional};

/// `actors`, first one first, as an `act` claim; `None` if nobody acted.
pub(crate) fn to_claim(actors: &[SpiffeId]) -> Option<Value> {
    actors.iter().fold(None, |inner, actor| {
        Some(match inner {
            None => json!({ "sub": actor.as_str() }),
            Some(inner) => json!({ "sub": actor.as_str(), "act": inner }),
        })
    })
}

/// The actors of an `act` claim, first one first. Nobody acted where there is no claim.
pub(crate) fn read(claims: &Claims) -> Result<Vec<SpiffeId>, ClaimError> {
    let mut actors = Vec::new();
    let mut next = optional(claims.object("act"))?;
    while let Some(act) = next {
        let actor = act.string("sub")?.parse();
        actors.push(actor.map_err(|_| ClaimError::WrongType { name: "act", want: "SPIFFE IDs of actors" })?);
        next = optional(act.object("act"))?;
    }
    if actors.len() > ACTORS_MAX {
        return Err(ClaimError::TooMany { name: "act", values: actors.len() });
    }
    actors.reverse();
    Ok(actors)
}

/// Who alone may act with a token (RFC 8693 section 4.4); `None` where it does not say. What cannot be read permits
/// nobody.
pub(crate) fn may_act(claims: &Claims<'_>) -> Result<Option<SpiffeId>, ClaimError> {
    let Some(claim) = optional(claims.object("may_act"))? else { return Ok(None) };
    let actor = claim.string("sub")?.parse();
    let wrong = ClaimError::WrongType { name: "may_act", want: "an object whose sub is a SPIFFE ID" };
    actor.map(Some).map_err(|_| wrong)
}

/// The longest chain of actors.
pub const ACTORS_MAX: usize = 6;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ids(names: &[&str]) -> Vec<SpiffeId> {
        names.iter().map(|name| format!("spiffe://td/svc/{name}").parse().unwrap()).collect()
    }

    fn parse(act: &Value) -> Result<Vec<SpiffeId>, ClaimError> {
        read(&Claims::parse(json!({ "act": act }).to_string().as_bytes()).unwrap())
    }

    #[test]
    fn the_newest_actor_is_outermost_and_reads_back_last() {
        let chain = ids(&["edge", "ads", "media"]);
        let act = to_claim(&chain).unwrap();
        assert_eq!(act["sub"], "spiffe://td/svc/media");
        assert_eq!(act["act"]["act"]["sub"], "spiffe://td/svc/edge");
        assert_eq!(parse(&act), Ok(chain));
        assert_eq!(to_claim(&[]), None);
        assert_eq!(read(&Claims::parse(b"{}").unwrap()), Ok(Vec::new()));
    }

    #[test]
    fn the_longest_chain_is_read_and_one_actor_more_is_not() {
        let longest = ids(&["a"; ACTORS_MAX]);
        assert_eq!(parse(&to_claim(&longest).unwrap()), Ok(longest.clone()));
        let values = ACTORS_MAX + 1;
        let longer = to_claim(&[longest, ids(&["b"])].concat()).unwrap();
        assert_eq!(parse(&longer), Err(ClaimError::TooMany { name: "act", values }));
    }

    #[test]
    fn rejects_a_may_act_that_names_nobody_and_takes_none_for_no_limit() {
        let read = |claims: Value| may_act(&Claims::parse(claims.to_string().as_bytes()).unwrap());
        assert_eq!(read(json!({})), Ok(None));
        let edge = ids(&["edge"]).remove(0);
        assert_eq!(read(json!({ "may_act": { "sub": edge.as_str(), "iss": "i" } })), Ok(Some(edge)));
        for wrong in
            [json!(null), json!("spiffe://td/svc/a"), json!({}), json!({ "sub": 7 }), json!({ "sub": "u_1" })]
        {
            assert!(read(json!({ "may_act": wrong })).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rejects_an_actor_that_is_nobody_or_no_workload() {
        for act in [json!({}), json!({ "sub": "u_1" }), json!({ "sub": 1 }), json!("spiffe://td/svc/a")] {
            assert!(parse(&act).is_err(), "{act}");
        }
        assert!(parse(&json!({ "sub": "spiffe://td/svc/a", "act": null })).is_err());
    }
}
