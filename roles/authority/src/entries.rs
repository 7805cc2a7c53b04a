//! Registration entries: those of the configuration file, and changing one.

use std::sync::Arc;

use countersign_identity::{IdKind, Mode, SpiffeId};
use countersign_keys::{SystemRandom, hash::hex, random_bytes};
use countersign_ledger::Event;
use countersign_sdk::clock;
use countersign_store::{
    StoreError,
    services::{Modes, NewService, Service},
};

use crate::{AuthorityError, ServiceEntry, journal::Change, modes, state::Authority};

/// Brings the database to what the file says. Entries that the API made are kept.
pub(crate) async fn apply(
    authority: &Arc<Authority>,
    entries: &[ServiceEntry],
) -> Result<(), AuthorityError> {
    for entry in entries {
        let wanted = entry_of_file(authority, entry)?;
        let stored = authority.db.service(wanted.name.as_str()).await?;
        if stored.is_some_and(|stored| same(&stored, &wanted)) {
            continue;
        }
        let name = wanted.name.clone();
        register(authority, wanted, "configuration").await.map_err(|error| match error {
            StoreError::Conflict { .. } => AuthorityError::Setting {
                name: "service.spiffe_id",
                why: format!(
                    "the identity of {name} cannot change, or belongs to another entry; use another name"
                ),
            },
            other => other.into(),
        })?;
    }
    Ok(())
}

/// Stores an entry with its event; agents hear of it at once.
pub(crate) async fn register(
    authority: &Arc<Authority>,
    entry: NewService,
    registered_by: &str,
) -> Result<Service, StoreError> {
    let event = Event::ServiceRegistered {
        name: entry.name.to_string(),
        spiffe_id: entry.spiffe_id.clone(),
        registered_by: registered_by.to_owned(),
    };
    let stored = authority
        .journal
        .with(vec![event], |db, records| async move {
            db.register_service(&entry, &records, clock::now()).await.map(Change::Recorded)
        })
        .await?;
    authority.entries.send_modify(|generation| *generation = generation.wrapping_add(1));
    Ok(stored)
}

/// An immutable, opaque id.
pub(crate) fn new_id() -> Result<String, StoreError> {
    let bytes = random_bytes::<16>(&SystemRandom::new());
    let bytes =
        bytes.map_err(|_| StoreError::Unstorable { what: "an id", why: "the random generator failed" })?;
    Ok(format!("s_{}", hex(&bytes)))
}

/// May this agent hold the identity of this entry?
pub(crate) fn may_hold(entry: &Service, agent: &SpiffeId) -> bool {
    entry.nodes.contains(agent)
}

fn entry_of_file(authority: &Authority, entry: &ServiceEntry) -> Result<NewService, AuthorityError> {
    let setting = |name: &'static str, why: String| AuthorityError::Setting { name, why };
    let home = &authority.trust_domain;
    let own = SpiffeId::service(home, entry.name.as_str())
        .map_err(|error| setting("service.name", error.to_string()))?;
    let spiffe_id = entry.spiffe_id.clone().unwrap_or(own);
    let grantable = matches!(spiffe_id.kind(), IdKind::Service(_) | IdKind::Gateway(_));
    if !grantable || spiffe_id.trust_domain() != home {
        let why = format!("{spiffe_id} is not a service or gateway of {home}; only those can be registered");
        return Err(setting("service.spiffe_id", why));
    }
    let mode =
        |text: &String| Mode::parse(text).map_err(|error| setting("service.accepts", error.to_string()));
    let agent = |name: &String| {
        SpiffeId::agent(home, name).map_err(|error| setting("service.nodes", error.to_string()))
    };
    let wanted = NewService {
        id: new_id()?,
        name: entry.name.clone(),
        spiffe_id,
        address: entry.address.map(|address| address.to_string()).unwrap_or_default(),
        accepts: entry.accepts.iter().map(mode).collect::<Result<_, _>>()?,
        sends: mode(&entry.sends)?,
        user_context: entry.user_context,
        wimse: entry.wimse,
        launch_by: entry.launch_by.clone(),
        nodes: entry.nodes.iter().map(agent).collect::<Result<_, _>>()?,
    };
    let (accepts, sends) = (wanted.accepts.clone(), wanted.sends);
    let modes = Modes { accepts, sends, user_context: wanted.user_context, wimse: wanted.wimse };
    modes::check(authority, &modes).map_err(|why| setting("service.accepts", why))?;
    Ok(wanted)
}

/// Modes are left out: an entry begins with those of the file, and lives with those that it was given since.
fn same(stored: &Service, wanted: &NewService) -> bool {
    stored.spiffe_id == wanted.spiffe_id
        && stored.address == wanted.address
        && stored.launch_by == wanted.launch_by
        && stored.nodes == wanted.nodes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::serve::testing;

    #[tokio::test]
    async fn rejects_modes_in_the_file_that_the_api_would_refuse() {
        let (_dir, authority) = testing::authority().await;
        for (modes, said) in [
            (r#"accepts = ["none"]"#, "authority.strict"),
            (r#"sends = "none""#, "authority.strict"),
            ("accepts = []", "name at least one"),
            (r#"user_context = "nested""#, "send jwt or mtls+jwt"),
        ] {
            let entry = toml::from_str(&format!("name = \"open\"\naddress = \"127.0.0.1:7999\"\n{modes}"));
            match apply(&authority, &[entry.unwrap()]).await {
                Err(AuthorityError::Setting { name: "service.accepts", why }) => {
                    assert!(why.contains(said), "{modes}: {why}");
                }
                other => panic!("{modes}: {other:?}"),
            }
            assert_eq!(authority.db.service("open").await.unwrap(), None);
        }
    }
}
