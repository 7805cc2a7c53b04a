//! For whom a token is asked: exactly one recipient, and the name under which `sts.cedar` speaks of it.

use countersign_identity::{IdKind, SpiffeId};
use countersign_sdk::live::Live;
use countersign_wire::codes::Code;

use super::{Form, OAuthError};

/// The recipient of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Who it is.
    pub(crate) id: SpiffeId,
    /// What `sts.cedar` calls it: the short name of a service of ours, `TRUST-DOMAIN/PATH` of a token service.
    pub(crate) label: String,
}

impl Target {
    /// The one recipient that `audience` and `resource` name: by short name or SPIFFE ID. RFC 8693 section 2.1 allows
    /// several; a token for several recipients is one that each of them could use at the others, so we give none.
    pub(crate) fn named(form: &Form, live: &Live) -> Result<Self, OAuthError> {
        let mut names = form.all("audience").chain(form.all("resource"));
        let Some(first) = names.next() else {
            return Err(unknown("neither audience nor resource names a recipient"));
        };
        let target = Self::find(first, live)?;
        for other in names {
            if Self::find(other, live)?.id != target.id {
                return Err(unknown("one token is asked for several recipients"));
            }
        }
        Ok(target)
    }

    /// Services of our own, and the token services of trust domains that we federate with: to whom those pass a user
    /// on, they alone decide.
    fn find(name: &str, live: &Live) -> Result<Self, OAuthError> {
        let nobody = || unknown("no service and no federated token service is called so");
        if !name.contains("://") {
            return service(name, live).ok_or_else(nobody);
        }
        let id: SpiffeId = name.parse().map_err(|_| unknown("the recipient is no SPIFFE ID"))?;
        let home = &live.tokens().trust_domain;
        if id.trust_domain() != home {
            let federated = live.tokens().authorities.contains_key(id.trust_domain());
            let is_token_service = id.kind() == IdKind::Authority && federated;
            let label = format!("{}{}", id.trust_domain(), id.path());
            return if is_token_service { Ok(Self { id, label }) } else { Err(nobody()) };
        }
        let short = id.short_name(home).and_then(|name| service(name.as_str(), live));
        let by_id = || {
            let entry = live.snapshot().services.iter().find(|entry| entry.spiffe_id == id)?;
            service(entry.name.as_str(), live)
        };
        short.filter(|target| target.id == id).or_else(by_id).ok_or_else(nobody)
    }
}

/// A service that can be called: a gateway is an identity and no callee.
fn service(name: &str, live: &Live) -> Option<Target> {
    let entry = live.service(name).filter(|entry| !entry.address.is_empty())?;
    Some(Target { id: entry.spiffe_id.clone(), label: entry.name.to_string() })
}

fn unknown(reason: &str) -> OAuthError {
    OAuthError::new(Code::TargetUnknown, reason)
}
