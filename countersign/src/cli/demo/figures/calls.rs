//! Figures 4.2, 4.3 and 5.1: one call while one token serves for all hops, and one while each hop has its own.

use std::time::{Duration, Instant};

use countersign_identity::{Mode, UserContext, WimseProof};
use countersign_lab::sequence::Sequence;
use countersign_ledger::event::{Decision, Event};
use countersign_wire::api::modes::SwitchDemo;

use super::{Recorded, missing, newest, recorded, short};
use crate::cli::At;
use crate::cli::demo::workflow::{self, Call};
use crate::error::CliError;
use crate::output;

/// What happened at the gateway reaches the ledger within a second.
const LEDGER_WAIT: Duration = Duration::from_secs(10);

pub(super) async fn figures(at: &At) -> Result<[Sequence; 3], CliError> {
    let one_token = workflow::in_mode(at, &mtls(UserContext::Same), same(at)).await?;
    let tokens = workflow::in_mode(at, &mtls(UserContext::PerHop), per_hop(at)).await?;
    let [for_all, components] = one_token;
    Ok([for_all, tokens, components])
}

fn mtls(user_context: UserContext) -> SwitchDemo {
    SwitchDemo { mode: Mode::Mtls, user_context, wimse: WimseProof::default() }
}

async fn same(at: &At) -> Result<[Sequence; 2], CliError> {
    let before = newest(at).await?;
    let call = workflow::call(at).await?;
    // The login is new, so its token is too.
    let minted = awaited(at, "token_minted", before, 1).await?;
    let minted = minted.first().ok_or_else(|| missing("token_minted"))?;
    Ok([one_for_all(&call, minted), components(&call)])
}

async fn per_hop(at: &At) -> Result<Sequence, CliError> {
    let before = newest(at).await?;
    let call = workflow::call(at).await?;
    let exchanged = awaited(at, "token_exchanged", before, 1).await?;
    Ok(one_for_each(&call, &exchanged))
}

/// At least `count` events of a kind after `before`.
async fn awaited(at: &At, kind: &str, before: u64, count: usize) -> Result<Vec<Recorded>, CliError> {
    let deadline = Instant::now() + LEDGER_WAIT;
    loop {
        let found = recorded(at, kind, before).await?;
        if found.len() >= count {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(missing(kind));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Figure 4.2.
fn one_for_all(call: &Call, minted: &Recorded) -> Sequence {
    let mut figure = Sequence::new("4.2", "One token for all hops");
    let Event::TokenMinted { id, expires, .. } = &minted.event else { return figure };
    ask(&mut figure, call);
    let told = format!("token {id} takes its place, until {}", output::moment(*expires));
    figure.tells("gateway", "gateway", told, format!("ledger {} (token_minted)", minted.index));
    hop(&mut figure, "gateway", &call.hops.ads, "with that token");
    hop(&mut figure, "ads", &call.hops.users, "with the same token, unchanged");
    figure
}

/// Figure 4.3.
fn one_for_each(call: &Call, exchanged: &[Recorded]) -> Sequence {
    let mut figure = Sequence::new("4.3", "A token of its own for each hop");
    for name in ["client", "gateway", "ads", "users", "token service"] {
        figure.place(name);
    }
    ask(&mut figure, call);
    for (caller, decision) in [("gateway", &call.hops.ads), ("ads", &call.hops.users)] {
        // The call before, which opened the connections, left one too.
        if let Some(one) = exchanged.iter().rfind(|one| is_for(one, caller, short(&decision.target))) {
            exchange(&mut figure, caller, one);
        }
        hop(&mut figure, caller, decision, "with the token for this hop");
    }
    figure
}

fn is_for(recorded: &Recorded, caller: &str, callee: &str) -> bool {
    matches!(&recorded.event, Event::TokenExchanged { client, audience, .. }
        if short(&client.to_string()) == caller && short(audience) == callee)
}

fn exchange(figure: &mut Sequence, caller: &str, recorded: &Recorded) {
    let Event::TokenExchanged { id, audience, actors, expires, .. } = &recorded.event else { return };
    let source = format!("ledger {} (token_exchanged)", recorded.index);
    let told = format!("the user's token, for one that counts at {}", short(audience));
    figure.tells(caller, "token service", told, source.clone());
    let actors: Vec<&str> = actors.iter().map(|actor| short(actor)).collect();
    let told =
        format!("token {id}, acted for by {}, until {}", actors.join(" for "), output::moment(*expires));
    figure.tells("token service", caller, told, source);
}

/// Figure 5.1: the eight steps.
fn components(call: &Call) -> Sequence {
    let mut figure = Sequence::new("5.1", "Ads near by, with previews of their sellers");
    for step in call.steps() {
        let (from, to) = step.hop.split_once(" → ").unwrap_or((&step.hop, &step.hop));
        // Question and answer alike are in the decision of whoever was asked.
        let is_of = |callee: &str| from == callee || to == callee;
        let decision = match () {
            () if is_of("users") => &call.hops.users,
            () if is_of("ads") => &call.hops.ads,
            () => &call.hops.gateway,
        };
        figure.tells(from, to, step.told, format!("decision {}", decision.id));
    }
    figure
}

fn ask(figure: &mut Sequence, call: &Call) {
    let gateway = &call.hops.gateway;
    let told =
        format!("{} {} with the access token of alice, {}", gateway.method, gateway.route, user_of(gateway));
    figure.tells("client", "gateway", told, format!("decision {}", gateway.id));
}

fn hop(figure: &mut Sequence, caller: &str, decision: &Decision, with: &str) {
    let callee = short(&decision.target).to_owned();
    let told =
        format!("{} {} {with}: {}, {}", decision.method, decision.route, decision.mode, user_of(decision));
    figure.tells(caller, &callee, told, format!("decision {}", decision.id));
}

fn user_of(decision: &Decision) -> String {
    let user = decision.user.as_deref().unwrap_or("nobody");
    format!("user {user}")
}
