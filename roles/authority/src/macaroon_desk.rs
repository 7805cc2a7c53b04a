//! Macaroons: minted under the root key of the one callee that will judge them, and discharged where a caveat asks
//! the authority whether something holds.

use std::{sync::Arc, time::Duration};

use countersign_identity::{Caller, SpiffeId, UnixTime, UserProof};
use countersign_keys::{RandomError, Secret, SystemRandom, domain, hmac_sha256, random_bytes};
use countersign_ledger::Event;
use countersign_sdk::clock;
use countersign_store::{StoreError, issued_tokens::IssuedToken};
use countersign_token::macaroon::{
    AttenuateError, HeldMacaroon, MacaroonError, MacaroonName, Predicate, RootKey, Ticket, TicketError,
    TicketKey, service,
};

use crate::{
    keys::Keys,
    secrets,
    state::Authority,
    token_desk::{TokenError, remember, whole_seconds},
};

/// How long a discharge counts: whoever needs one needs it now.
const DISCHARGE_LIFE: Duration = Duration::from_secs(300);

/// For whom, where, how long and how narrow.
pub(crate) struct Wanted {
    pub(crate) owner: SpiffeId,
    pub(crate) callee: SpiffeId,
    pub(crate) life: Duration,
    /// First-party caveats beyond audience and end.
    pub(crate) caveats: Vec<String>,
    /// What somebody has to show us before it is worth anything.
    pub(crate) condition: Option<Condition>,
    pub(crate) issued_by: String,
}

/// A macaroon, its id, and until when it counts.
pub(crate) struct Made {
    pub(crate) id: String,
    pub(crate) token: Secret<String>,
    pub(crate) issued_at: UnixTime,
    pub(crate) expires_at: UnixTime,
}

/// What the authority decides for others: who asks, as they prove it at its API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// `workload = SPIFFE-ID`
    Workload(SpiffeId),
    /// `user = ID`
    User(String),
}

/// Why a macaroon is not discharged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DischargeError {
    /// Not a caveat that was addressed to us.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// A condition that nobody here decides.
    #[error("the condition {condition:?} is neither `workload = SPIFFE-ID` nor `user = ID`")]
    Condition {
        /// What it says.
        condition: String,
    },
    /// Somebody else asks.
    #[error("{condition} has to be shown, and the caller did not show it")]
    NotShown {
        /// What would have to be shown.
        condition: Condition,
    },
    /// It does not fit into a macaroon.
    #[error(transparent)]
    Attenuate(#[from] AttenuateError),
    /// It is not durable, so nobody gets it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Mints and records a macaroon.
pub(crate) async fn mint(authority: &Arc<Authority>, wanted: Wanted) -> Result<Made, TokenError> {
    let issued_at = clock::now();
    let expires_at = whole_seconds(issued_at.saturating_add(wanted.life));
    let keys = authority.keys.load_full();
    let (id, token) = make(&keys, &authority.id, &wanted, expires_at)?;
    let row = IssuedToken { id: id.clone(), owner: wanted.owner, expires_at };
    let audience = vec![wanted.callee.to_string()];
    remember(authority, "macaroon", row, audience, wanted.issued_by, issued_at).await?;
    Ok(Made { id, token, issued_at, expires_at })
}

/// Discharges a caveat for a caller who shows what it demands; an administrator decides for everybody.
pub(crate) async fn discharge(
    authority: &Arc<Authority>,
    caveat_id: &[u8],
    caller: &Caller,
    by: String,
) -> Result<(Secret<String>, UnixTime), DischargeError> {
    let keys = authority.keys.load_full();
    let ticket = open(&keys, caveat_id)?;
    let condition = Condition::parse(ticket.condition())?;
    if !condition.is_shown_by(caller) {
        return Err(DischargeError::NotShown { condition });
    }
    let expires = whole_seconds(clock::now().saturating_add(DISCHARGE_LIFE));
    let discharge =
        ticket.discharge(authority.id.as_str())?.attenuate(Predicate::Before(expires).to_string())?;
    let (what, audience) = ("discharge".to_owned(), vec![condition.to_string()]);
    let event = Event::WorkloadTokenIssued {
        what,
        id: countersign_keys::sha256_hex(caveat_id),
        owner: authority.id.clone(),
        audience,
        issued_by: by,
        replaces: None,
        expires,
    };
    authority.journal.record(vec![event]).await?;
    Ok((Secret::new(HeldMacaroon::new(discharge).to_text()), expires))
}

fn make(
    keys: &Keys,
    discharger: &SpiffeId,
    wanted: &Wanted,
    expires: UnixTime,
) -> Result<(String, Secret<String>), TokenError> {
    let (key_id, key) = secrets::newest_macaroon_key(keys, &wanted.callee)
        .ok_or(MacaroonError::UnknownKey { key_id: String::new() })?;
    let name = MacaroonName::new(&key_id, wanted.owner.clone(), random()?)?;
    let mut macaroon = service::mint(&RootKey::derive(key.expose()), &name, &wanted.callee, expires)?;
    for caveat in &wanted.caveats {
        // Unknown caveats deny: better here and now than at the first call.
        Predicate::parse(caveat.as_bytes())?;
        macaroon = macaroon.attenuate(caveat)?;
    }
    if let Some(condition) = &wanted.condition {
        let ticket = seal(keys, condition)?;
        macaroon = ticket.demand(macaroon, discharger.as_str(), random()?)?;
    }
    Ok((name.id, Secret::new(HeldMacaroon::new(macaroon).to_text())))
}

fn seal(keys: &Keys, condition: &Condition) -> Result<Ticket, TokenError> {
    let key = ticket_keys(keys).next().ok_or(TicketError::DoesNotOpen)?;
    Ok(Ticket::seal(&key, random()?, &condition.to_string(), random()?)?)
}

/// With whichever version it was sealed under.
fn open(keys: &Keys, caveat_id: &[u8]) -> Result<Ticket, TicketError> {
    let mut refused = TicketError::DoesNotOpen;
    for key in ticket_keys(keys) {
        match Ticket::open(&key, caveat_id) {
            Ok(ticket) => return Ok(ticket),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// Ours alone: nobody else can send people to us, or read what they are sent for.
fn ticket_keys(keys: &Keys) -> impl Iterator<Item = TicketKey> {
    let of_version = |(_, root): &(u32, Secret<[u8; 32]>)| {
        let secret = Secret::new(hmac_sha256(root.expose(), &domain("macaroon-discharge", b"")));
        TicketKey::derive(secret.expose())
    };
    keys.macaroon_roots.iter().map(of_version)
}

fn random<const N: usize>() -> Result<[u8; N], RandomError> {
    random_bytes(&SystemRandom::new())
}

impl Condition {
    /// As it is written in a ticket, and by administrators.
    pub(crate) fn parse(text: &str) -> Result<Self, DischargeError> {
        let unknown = || DischargeError::Condition { condition: text.chars().take(128).collect() };
        match text.split_once(" = ").ok_or_else(unknown)? {
            ("workload", id) => SpiffeId::parse(id).map(Self::Workload).map_err(|_| unknown()),
            ("user", id) if id.starts_with("u_") && id.bytes().all(|b| b.is_ascii_graphic()) => {
                Ok(Self::User(id.to_owned()))
            }
            _ => Err(unknown()),
        }
    }

    fn is_shown_by(&self, caller: &Caller) -> bool {
        if caller.proof().user == UserProof::LocalUid {
            return true;
        }
        match self {
            Self::Workload(id) => caller.workload().is_some_and(|workload| workload.id == *id),
            Self::User(id) => caller.user().is_some_and(|user| user.id == *id),
        }
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Workload(id) => write!(f, "workload = {id}"),
            Self::User(id) => write!(f, "user = {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::serve::testing;

    #[test]
    fn a_condition_reads_back_as_it_is_written() {
        for text in ["workload = spiffe://fleamarket.test/svc/ads", "user = u_1"] {
            assert_eq!(Condition::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn rejects_conditions_that_nobody_decides() {
        for text in
            ["", "workload", "workload = ", "workload = ads", "user = alice", "user = u_ 1", "x = u_1"]
        {
            let refused = Condition::parse(text).unwrap_err();
            assert!(matches!(refused, DischargeError::Condition { .. }), "{text}");
        }
    }

    #[tokio::test]
    async fn a_discharge_says_why_it_is_not_made() {
        let (_dir, authority) = testing::authority().await;
        let keys = authority.keys.load_full();
        let nobody = Caller::new(None, None, Vec::new(), countersign_identity::Proof::NONE);
        let ask = |caveat: Vec<u8>| {
            let (authority, nobody) = (Arc::clone(&authority), nobody.clone());
            async move { discharge(&authority, &caveat, &nobody, "x".to_owned()).await.map(drop).unwrap_err() }
        };
        let foreign = TicketKey::derive(b"of somebody else");
        let foreign = Ticket::seal(&foreign, [1; 32], "user = u_1", [2; 24]).unwrap();
        let foreign = foreign.discharge("x").unwrap().identifier().to_vec();
        assert_eq!(ask(foreign).await, DischargeError::Ticket(TicketError::DoesNotOpen));
        assert_eq!(ask(b"!".to_vec()).await, DischargeError::Ticket(TicketError::NotATicket));
        let condition = Condition::User("u_1".to_owned());
        let ticket = seal(&keys, &condition).unwrap().discharge("x").unwrap().identifier().to_vec();
        assert_eq!(ask(ticket.clone()).await, DischargeError::NotShown { condition });
        let too_much = DischargeError::from(AttenuateError::TooManyCaveats);
        assert!(matches!(too_much, DischargeError::Attenuate(_)));
        assert!(matches!(DischargeError::from(StoreError::Busy), DischargeError::Store(_)));
    }
}
