//! Who would like to administrate: with an account, with the certificate of a service, or with nothing.

use countersign_wire::codes::Code;

use super::{
    Attack, AttackError, Guard, Held, Kind, Observation, Position, Sign, Target,
    wire::{Dial, Request},
};
use crate::weak::Weakness;

const TABLE: &str = "roles/authority/policies/admin.cedar";
const DOOR: &str = "roles/authority/src/http.rs";

pub(super) static ATTACKS: &[Attack] = &[
    Attack {
        name: "user-as-administrator",
        title: "ask the authority's own API with the access token of an application's user",
        from: &["V8", "lesson 53"],
        position: Position::User,
        guard: Guard {
            what: "one table says who may call which route, and an access token is never an administrator",
            home: TABLE,
            signs: &[Sign::Code(Code::AdminNotPermitted)],
            weakness: Weakness::EverybodyAdministers,
        },
        waits: false,
        run: |target| Box::pin(as_user(target)),
    },
    Attack {
        name: "service-as-administrator",
        title: "ask the authority's own API with the certificate of a service",
        from: &["V8", "lesson 20"],
        position: Position::Service,
        guard: Guard {
            what: "a certificate of the deployment is never an administrator",
            home: TABLE,
            signs: &[Sign::Code(Code::AdminNotPermitted)],
            weakness: Weakness::EverybodyAdministers,
        },
        waits: false,
        run: |target| Box::pin(as_service(target)),
    },
    Attack {
        name: "neighbour-as-administrator",
        title: "ask the authority's own API from the same machine, and show nothing",
        from: &["V8", "NI-1"],
        position: Position::Neighbour,
        guard: Guard {
            what: "an address proves nothing; an administrator is known by the kernel's word on its uid",
            home: DOOR,
            signs: &[Sign::Code(Code::CertificateMissing)],
            weakness: Weakness::LoopbackAdministers,
        },
        waits: false,
        run: |target| Box::pin(asked(target, "nothing", None, Request::get(USERS))),
    },
];

async fn as_user(target: &Target) -> Result<Observation, AttackError> {
    let token = target.user_token("alice").await?;
    let request = Request::get(USERS).with("Authorization", format!("Bearer {token}"));
    asked(target, "a good access token", None, request).await
}

async fn as_service(target: &Target) -> Result<Observation, AttackError> {
    let own = target.own(Kind::Workload).await?;
    asked(target, "the certificate of a service", Some(&own), Request::get(USERS)).await
}

/// The same evidence is good for what everybody may ask.
async fn asked(
    target: &Target,
    what: &str,
    shown: Option<&Held>,
    request: Request,
) -> Result<Observation, AttackError> {
    let mut dial = Dial::to(target.authority());
    dial.shows = shown.map(Held::shown).transpose()?;
    let honest = Request { target: PUBLIC.to_owned(), ..Request::get(PUBLIC) };
    let honest = target.tried_by("", &dial, &honest).await;
    if !honest.is_believed() {
        return Err(AttackError::HonestRefused { answer: honest.told() });
    }
    Ok(target.tried_by(format!("GET {USERS} of the authority with {what}"), &dial, &request).await)
}

const USERS: &str = "/api/v1/users";
const PUBLIC: &str = "/api/v1/openapi.json";
