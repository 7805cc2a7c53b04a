//! Bearer tokens and macaroons, which whoever has a copy may show: what they are not good for, at a callee of the lab's own
//! that accepts them. The user's services need not.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_token::macaroon::HeldMacaroon;
use countersign_wire::codes::Code;

use super::{
    Attack, AttackError, Guard, Observation, Position, Sign, Target, forge,
    target::{CALLEE, PATH, VICTIM},
    wire::Request,
};
use crate::weak::Weakness;

const BEARER: &str = "rules/token/src/bearer.rs";
const MACAROON: &str = "rules/token/src/macaroon/service.rs";
const CHAIN: &str = "rules/token/src/macaroon/verify.rs";
const CAVEAT: &str = "rules/token/src/macaroon/caveat.rs";

pub(super) static ATTACKS: &[Attack] = &[
    Attack {
        name: "unissued-bearer",
        title: "show a bearer token that nobody issued, under the id of one that somebody did",
        from: &["L4", "idea 10"],
        position: Position::Stranger,
        guard: Guard {
            what: "a bearer token is looked up by its id and compared by its keyed hash",
            home: BEARER,
            signs: &[Sign::Code(Code::TokenSignature)],
            weakness: Weakness::BearerByItsId,
        },
        waits: false,
        run: |target| Box::pin(unissued_bearer(target)),
    },
    Attack {
        name: "bearer-out-of-scope",
        title: "show at one service the bearer token that was issued for another",
        from: &["L4", "BCP-1"],
        position: Position::Thief,
        guard: Guard {
            what: "a callee knows the hashes of tokens in its own scope, and no others",
            home: BEARER,
            signs: &[Sign::Code(Code::TokenKeyUnknown)],
            weakness: Weakness::BearerAnywhere,
        },
        waits: false,
        run: |target| Box::pin(bearer_out_of_scope(target)),
    },
    Attack {
        name: "revoked-bearer",
        title: "go on using a bearer token that was taken back",
        from: &["L4", "REV-1"],
        position: Position::Former,
        guard: Guard {
            what: "what is taken back leaves every callee that knew it before the revocation is answered",
            home: BEARER,
            signs: &[Sign::Code(Code::TokenKeyUnknown), Sign::Code(Code::TokenRevoked)],
            weakness: Weakness::BearerForEver,
        },
        waits: false,
        run: |target| Box::pin(revoked_bearer(target)),
    },
    Attack {
        name: "macaroon-other-method",
        title: "send a DELETE with a macaroon whose caveat says GET",
        from: &["L9", "MC-2"],
        position: Position::Thief,
        guard: Guard {
            what: "every caveat is judged against the request itself",
            home: CAVEAT,
            signs: &[Sign::Code(Code::CaveatNotMet)],
            weakness: Weakness::CaveatsSkipped,
        },
        waits: false,
        run: |target| Box::pin(other_method(target)),
    },
    Attack {
        name: "macaroon-unknown-caveat",
        title: "add a caveat that nobody understands, and hope that it is skipped",
        from: &["MC-2"],
        position: Position::Service,
        guard: Guard {
            what: "a caveat that is not understood denies",
            home: CAVEAT,
            signs: &[Sign::Code(Code::CaveatNotMet)],
            weakness: Weakness::CaveatsSkipped,
        },
        waits: false,
        run: |target| Box::pin(unknown_caveat(target)),
    },
    Attack {
        name: "macaroon-without-caveat",
        title: "cut the last caveat out of a macaroon",
        from: &["L9", "MC-1"],
        position: Position::Thief,
        guard: Guard {
            what: "each caveat goes into the chain of MACs: who cannot undo one cannot remove one",
            home: CHAIN,
            signs: &[Sign::Code(Code::TokenSignature)],
            weakness: Weakness::MacUnchecked,
        },
        waits: false,
        run: |target| Box::pin(without_caveat(target)),
    },
    Attack {
        name: "macaroon-elsewhere",
        title: "show at one service the macaroon that was minted for another",
        from: &["L9", "MC-1"],
        position: Position::Thief,
        guard: Guard {
            what: "a macaroon names its one callee, under whose root key it is minted",
            home: MACAROON,
            signs: &[Sign::Code(Code::TokenKeyUnknown), Sign::Code(Code::TokenAudience)],
            weakness: Weakness::MacaroonAnywhere,
        },
        waits: false,
        run: |target| Box::pin(macaroon_elsewhere(target)),
    },
];

async fn unissued_bearer(target: &Target) -> Result<Observation, AttackError> {
    let (_, good) = target.bearer(CALLEE).await?;
    honest(target, "Bearer", &good).await?;
    let guessed = forge::bearer_of_same_id(&good)?;
    shown(target, "the id of a bearer token and another secret", "GET", "Bearer", &guessed).await
}

async fn bearer_out_of_scope(target: &Target) -> Result<Observation, AttackError> {
    // Issued first: once the callee knows the newer one, it knows of this one whatever it is ever told.
    let (_, elsewhere) = target.bearer(VICTIM).await?;
    let (_, good) = target.bearer(CALLEE).await?;
    honest(target, "Bearer", &good).await?;
    shown(target, "a bearer token for another service", "GET", "Bearer", &elsewhere).await
}

async fn revoked_bearer(target: &Target) -> Result<Observation, AttackError> {
    let (id, good) = target.bearer(CALLEE).await?;
    honest(target, "Bearer", &good).await?;
    target.revoke_bearer(&id).await?;
    shown(target, "a bearer token that was taken back", "GET", "Bearer", &good).await
}

async fn other_method(target: &Target) -> Result<Observation, AttackError> {
    let narrow = target.macaroon(CALLEE, &[ONLY_GET]).await?;
    honest(target, "Macaroon", &narrow).await?;
    shown(target, "a macaroon for GET", "DELETE", "Macaroon", &narrow).await
}

async fn unknown_caveat(target: &Target) -> Result<Observation, AttackError> {
    let good = target.macaroon(CALLEE, &[]).await?;
    honest(target, "Macaroon", &good).await?;
    let failed = |error: &dyn std::fmt::Display| AttackError::equipment("a macaroon", error);
    let held = HeldMacaroon::parse(&good).map_err(|error| failed(&error))?;
    let odd = held.root().clone().attenuate("moon = full").map_err(|error| failed(&error))?;
    let odd = HeldMacaroon::new(odd).to_text();
    shown(target, "a macaroon with a caveat that nobody knows", "GET", "Macaroon", &odd).await
}

async fn without_caveat(target: &Target) -> Result<Observation, AttackError> {
    let narrow = target.macaroon(CALLEE, &[ONLY_GET]).await?;
    honest(target, "Macaroon", &narrow).await?;
    let wider = cut(&narrow, ONLY_GET)?;
    shown(target, "a macaroon whose caveat was cut out", "DELETE", "Macaroon", &wider).await
}

async fn macaroon_elsewhere(target: &Target) -> Result<Observation, AttackError> {
    let good = target.macaroon(CALLEE, &[]).await?;
    honest(target, "Macaroon", &good).await?;
    let elsewhere = target.macaroon(VICTIM, &[]).await?;
    shown(target, "a macaroon for another service", "GET", "Macaroon", &elsewhere).await
}

/// The twin: what is in order is believed, once the callee has heard of it.
async fn honest(target: &Target, scheme: &str, credential: &str) -> Result<(), AttackError> {
    let mut answer = String::new();
    for _ in 0..PATIENCE {
        let seen = shown(target, "", "GET", scheme, credential).await?;
        if seen.is_believed() {
            return Ok(());
        }
        answer = seen.told();
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    Err(AttackError::HonestRefused { answer })
}

async fn shown(
    target: &Target,
    what: &str,
    method: &str,
    scheme: &str,
    credential: &str,
) -> Result<Observation, AttackError> {
    let request = Request::get(PATH).by(method).with("Authorization", format!("{scheme} {credential}"));
    let dial = target.dial(target.callee().await?);
    Ok(target.tried_by(format!("{method} {PATH} with {what}"), &dial, &request).await)
}

/// A macaroon without this caveat, its MAC as it was (version 2 binary: type 2, length, text, end).
fn cut(macaroon: &str, caveat: &str) -> Result<String, AttackError> {
    let failed = || AttackError::equipment("a macaroon", "its caveat is not found");
    let bytes = URL_SAFE_NO_PAD.decode(macaroon).map_err(|_| failed())?;
    let length = u8::try_from(caveat.len()).map_err(|_| failed())?;
    let field = [&[2, length], caveat.as_bytes(), &[0]].concat();
    let at = bytes.windows(field.len()).position(|window| window == field).ok_or_else(failed)?;
    let (before, after) = (bytes.get(..at), bytes.get(at + field.len()..));
    Ok(URL_SAFE_NO_PAD.encode([before.unwrap_or_default(), after.unwrap_or_default()].concat()))
}

const ONLY_GET: &str = "method = GET";
const PATIENCE: u32 = 20;
