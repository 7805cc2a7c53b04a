//! What an arm claims about each of its trials. A figure counts only if the callees saw what the arm says happened.

use std::collections::BTreeMap;

use super::data::{
    CarriedUser, Claim, ClaimKind, Connections, EdgeUse, Errors, Factors, Handshakes, LabMode,
};

/// What was counted in one trial.
#[derive(Clone, Copy, Debug)]
pub struct Counted<'a> {
    /// Answers that the load generator got.
    pub requests: u64,
    /// Those that were none.
    pub errors: Errors,
    /// Requests that it had in progress when it stopped, at most: callees saw them, it did not.
    pub in_progress_max: u64,
    /// What the callees saw.
    pub edges: &'a [EdgeUse],
    /// Do the callees count by user? Relays do, sidecars do not.
    pub users_are_counted: bool,
}

/// Holds everything that `factors` says against what was counted.
#[must_use]
pub fn judge(factors: &Factors, counted: &Counted<'_>) -> Vec<Claim> {
    let mut claims = vec![
        answers(counted),
        chain(factors, counted),
        at_each_edge(ClaimKind::Mode, counted, |edge| only(&edge.modes, factors.mode.verified_as().as_str())),
        at_each_edge(ClaimKind::Connections, counted, |edge| connections(factors, counted, edge)),
        at_each_edge(ClaimKind::Handshakes, counted, |edge| handshakes(factors, counted, edge)),
        at_each_edge(ClaimKind::Group, counted, |edge| group(factors.post_quantum, &edge.handshakes_ever)),
    ];
    if counted.users_are_counted {
        let wanted = proof_of(factors.user);
        claims.push(at_each_edge(ClaimKind::User, counted, |edge| only(&edge.users, wanted)));
    }
    claims
}

fn answers(counted: &Counted<'_>) -> Claim {
    let Errors { connect, read, write, status, timeout } = counted.errors;
    let said = format!(
        "{} answers, {status} not 2xx, errors: {connect} connect, {read} read, {write} write, {timeout} timeout",
        counted.requests
    );
    Claim {
        claim: ClaimKind::Answers,
        holds: counted.requests > 0 && counted.errors.sum() == 0,
        counted: said,
    }
}

fn chain(factors: &Factors, counted: &Counted<'_>) -> Claim {
    let seen: Vec<u64> = counted.edges.iter().map(EdgeUse::requests).collect();
    let most = counted.requests.saturating_add(counted.in_progress_max);
    let complete = seen.iter().all(|seen| (counted.requests..=most).contains(seen));
    Claim {
        claim: ClaimKind::Chain,
        holds: seen.len() == usize::from(factors.edges) && complete,
        counted: format!("{} answers, at the callees {seen:?}", counted.requests),
    }
}

/// A claim about every edge: the first one that breaks it tells.
fn at_each_edge(
    claim: ClaimKind,
    counted: &Counted<'_>,
    judge: impl Fn(&EdgeUse) -> Result<String, String>,
) -> Claim {
    let mut found = Vec::new();
    for edge in counted.edges {
        let (holds, said) = match judge(edge) {
            Ok(said) => (true, said),
            Err(said) => (false, said),
        };
        let said = format!("{}: {said}", edge.callee);
        if !holds {
            return Claim { claim, holds, counted: said };
        }
        found.push(said);
    }
    Claim { claim, holds: true, counted: found.join("; ") }
}

fn only(seen: &BTreeMap<String, u64>, wanted: &str) -> Result<String, String> {
    let said = listed(seen);
    if !seen.is_empty() && seen.keys().all(|name| name == wanted) {
        return Ok(said);
    }
    Err(format!("{said}, all should be {wanted}"))
}

/// How a callee says that it knows the user (`context.proof.user` of policies). Nested or beside, it is the gateway's own
/// token; only a token for one hop is another.
const fn proof_of(user: CarriedUser) -> &'static str {
    match user {
        CarriedUser::None => "none",
        CarriedUser::Same | CarriedUser::Nested => "internal_token",
        CarriedUser::PerHop => "hop_token",
    }
}

/// Kept: those that a renewed certificate or a refused one would take. Fresh: one for each request.
fn connections(factors: &Factors, counted: &Counted<'_>, edge: &EdgeUse) -> Result<String, String> {
    let (ever, plain) = (edge.handshakes_ever.connections(), edge.handshakes_ever.plain);
    let (began, requests) = (edge.handshakes.connections(), edge.requests());
    let said =
        format!("{began} connections for {requests} requests; {plain} plain of {ever} since the start");
    if ever == 0 {
        return Err(format!("{said}, there should be one at least"));
    }
    if factors.mode.shakes_hands() && plain > 0 {
        return Err(format!("{said}, none should be plain"));
    }
    if !factors.mode.shakes_hands() && plain < ever {
        return Err(format!("{said}, all should be plain"));
    }
    let in_progress = counted.in_progress_max;
    let wanted = match factors.connections {
        Connections::Kept => 0..=KEPT_RENEWED_MAX,
        Connections::Fresh => requests.saturating_sub(in_progress)..=requests.saturating_add(in_progress),
    };
    if wanted.contains(&began) {
        return Ok(said);
    }
    Err(format!("{said}, should be {} to {}", wanted.start(), wanted.end()))
}

/// Of fresh connections some are still being made when the load stops, and given up with the requests that wait for them.
fn handshakes(factors: &Factors, counted: &Counted<'_>, edge: &EdgeUse) -> Result<String, String> {
    let Handshakes { mutual, anonymous, resumed, .. } = &edge.handshakes_ever;
    let [mutual, anonymous]: [u64; 2] = [mutual, anonymous].map(|groups| groups.values().sum());
    let refused = edge.handshakes.refused;
    let said = format!("{mutual} mutual, {anonymous} anonymous, {resumed} resumed, {refused} refused");
    let mode = factors.mode;
    let given_up_max = if factors.connections == Connections::Fresh { counted.in_progress_max } else { 0 };
    let unwanted = match mode {
        LabMode::None => mutual + anonymous,
        LabMode::Mtls | LabMode::MtlsJwt => anonymous,
        LabMode::Tls | LabMode::Bearer | LabMode::Macaroon | LabMode::Jwt | LabMode::Wimse => mutual,
    };
    if unwanted + *resumed == 0 && refused <= given_up_max {
        return Ok(said);
    }
    Err(format!("{said}, mode {mode}"))
}

fn group(post_quantum: bool, seen: &Handshakes) -> Result<String, String> {
    let mut groups = seen.mutual.clone();
    for (group, count) in &seen.anonymous {
        *groups.entry(group.clone()).or_default() += count;
    }
    let wanted = if post_quantum { POST_QUANTUM } else { CLASSICAL };
    if groups.is_empty() { Ok("no handshake".to_owned()) } else { only(&groups, wanted) }
}

fn listed(seen: &BTreeMap<String, u64>) -> String {
    if seen.is_empty() {
        return "none".to_owned();
    }
    seen.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

/// The group with which every arm begins, and the one without post-quantum key exchange, by their names in settings.
pub(super) const POST_QUANTUM: &str = "X25519MLKEM768";
pub(super) const CLASSICAL: &str = "X25519";
/// Kept connections that a trial may see begin: a certificate was renewed meanwhile.
const KEPT_RENEWED_MAX: u64 = 1;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::experiment::testing::factors;

    fn counts<const N: usize>(of: [(&str, u64); N]) -> BTreeMap<String, u64> {
        of.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
    }

    fn edge(mode: &str) -> EdgeUse {
        EdgeUse {
            caller: "relay-mtls-0".into(),
            callee: "relay-mtls-1".into(),
            modes: counts([(mode, 1000)]),
            users: counts([("none", 1000)]),
            handshakes: Handshakes::default(),
            handshakes_ever: if mode == "mtls" { mutual(2) } else { anonymous(2) },
            bytes_sent_per_request: 100.0,
            bytes_received_per_request: 200.0,
        }
    }

    fn broken(factors: &Factors, edges: &[EdgeUse]) -> Vec<ClaimKind> {
        broken_with(factors, edges, Errors::default())
    }

    fn broken_with(factors: &Factors, edges: &[EdgeUse], errors: Errors) -> Vec<ClaimKind> {
        let counted = Counted { requests: 998, errors, in_progress_max: 4, edges, users_are_counted: true };
        judge(factors, &counted).into_iter().filter(|claim| !claim.holds).map(|claim| claim.claim).collect()
    }

    fn fresh(mode: LabMode) -> Factors {
        Factors { connections: Connections::Fresh, ..factors(mode) }
    }

    fn shaken(mode: &str, handshakes: Handshakes) -> EdgeUse {
        EdgeUse { handshakes_ever: handshakes.clone(), handshakes, ..edge(mode) }
    }

    fn mutual(count: u64) -> Handshakes {
        Handshakes { mutual: counts([(POST_QUANTUM, count)]), ..Handshakes::default() }
    }

    fn anonymous(count: u64) -> Handshakes {
        Handshakes { anonymous: counts([(POST_QUANTUM, count)]), ..Handshakes::default() }
    }

    #[test]
    fn accepts_trials_that_are_what_their_arm_says() {
        assert_eq!(broken(&factors(LabMode::Mtls), &[edge("mtls"), edge("mtls")]), []);
        let both = [shaken("mtls", mutual(1000)), shaken("mtls", mutual(997))];
        assert_eq!(broken(&fresh(LabMode::Mtls), &both), []);
        let jwt = shaken("jwt", anonymous(1001));
        assert_eq!(broken(&fresh(LabMode::Jwt), &[jwt.clone(), jwt]), []);
        let plain = shaken("none", Handshakes { plain: 1000, ..Handshakes::default() });
        assert_eq!(broken(&fresh(LabMode::None), &[plain.clone(), plain]), []);
        let tls = shaken("none", anonymous(1000));
        assert_eq!(broken(&fresh(LabMode::Tls), &[tls.clone(), tls]), []);
    }

    #[test]
    fn rejects_a_mode_that_was_not_verified_by_every_callee_for_every_request() {
        let arm = factors(LabMode::Mtls);
        let unproven = EdgeUse { modes: counts([("none", 1000)]), ..edge("mtls") };
        assert_eq!(broken(&arm, &[edge("mtls"), unproven]), [ClaimKind::Mode]);
        let mixed = EdgeUse { modes: counts([("mtls", 999), ("none", 1)]), ..edge("mtls") };
        assert_eq!(broken(&arm, &[mixed, edge("mtls")]), [ClaimKind::Mode]);
    }

    #[test]
    fn rejects_kept_connections_that_were_not_kept() {
        let again = [shaken("mtls", mutual(2)), edge("mtls")];
        assert_eq!(broken(&factors(LabMode::Mtls), &again), [ClaimKind::Connections]);
    }

    #[test]
    fn rejects_fresh_connections_that_were_kept() {
        let few = shaken("mtls", mutual(40));
        assert_eq!(broken(&fresh(LabMode::Mtls), &[few.clone(), few]), [ClaimKind::Connections]);
        assert_eq!(broken(&fresh(LabMode::Mtls), &[edge("mtls"), edge("mtls")]), [ClaimKind::Connections]);
    }

    #[test]
    fn rejects_plain_connections_where_tls_was_claimed() {
        let one = Handshakes { plain: 1, ..Handshakes::default() };
        let edges = [shaken("mtls", one.clone()), edge("mtls")];
        assert_eq!(broken(&factors(LabMode::Mtls), &edges), [ClaimKind::Connections]);
        // Kept, and made before the trial.
        let before = |handshakes_ever| EdgeUse { handshakes_ever, ..edge("none") };
        let kept = factors(LabMode::Tls);
        assert_eq!(broken(&kept, &[before(anonymous(1)), before(anonymous(1))]), []);
        assert_eq!(broken(&kept, &[before(anonymous(1)), before(one)]), [ClaimKind::Connections]);
        let none = before(Handshakes::default());
        assert_eq!(broken(&kept, &[none.clone(), none]), [ClaimKind::Connections]);
        // Of requests that prove nothing, only this tells whether there was TLS.
        let plain = shaken("none", Handshakes { plain: 1000, ..Handshakes::default() });
        assert_eq!(broken(&fresh(LabMode::Tls), &[plain.clone(), plain]), [ClaimKind::Connections]);
    }

    #[test]
    fn rejects_handshakes_of_another_kind_than_the_mode_has() {
        let with = |handshakes| [shaken("mtls", handshakes), shaken("mtls", mutual(1000))];
        let arm = fresh(LabMode::Mtls);
        assert_eq!(broken(&arm, &with(anonymous(1000))), [ClaimKind::Handshakes]);
        let resumed = Handshakes { resumed: 500, ..mutual(500) };
        assert_eq!(broken(&arm, &with(resumed)), [ClaimKind::Handshakes]);
        let refused = |refused| Handshakes { refused, ..mutual(1000) };
        assert_eq!(broken(&arm, &with(refused(5))), [ClaimKind::Handshakes]);
        assert_eq!(broken(&arm, &with(refused(4))), [], "as many as were in progress at the end");
        let refused = Handshakes { refused: 1, ..Handshakes::default() };
        let kept = [EdgeUse { handshakes: refused, ..edge("mtls") }, edge("mtls")];
        assert_eq!(broken(&factors(LabMode::Mtls), &kept), [ClaimKind::Handshakes]);
        let jwt = shaken("jwt", mutual(1000));
        assert_eq!(broken(&fresh(LabMode::Jwt), &[jwt.clone(), jwt]), [ClaimKind::Handshakes]);
        let jwt = EdgeUse { handshakes_ever: mutual(1), ..edge("jwt") };
        assert_eq!(broken(&factors(LabMode::Jwt), &[jwt.clone(), jwt]), [ClaimKind::Handshakes]);
        let tls = shaken("none", anonymous(1000));
        assert_eq!(
            broken(&fresh(LabMode::None), &[tls.clone(), tls]),
            [ClaimKind::Connections, ClaimKind::Handshakes]
        );
    }

    #[test]
    fn rejects_another_group_than_the_arm_names() {
        let arm = Factors { post_quantum: false, ..fresh(LabMode::Mtls) };
        let with = || shaken("mtls", mutual(1000));
        assert_eq!(broken(&arm, &[with(), with()]), [ClaimKind::Group]);
        let mut classical = mutual(0);
        classical.mutual = counts([(CLASSICAL, 1000)]);
        let edges = || shaken("mtls", classical.clone());
        assert_eq!(broken(&arm, &[edges(), edges()]), []);
        assert_eq!(broken(&fresh(LabMode::Mtls), &[edges(), with()]), [ClaimKind::Group]);
    }

    #[test]
    fn rejects_bad_answers_missing_hops_and_users_that_did_not_come_along() {
        let (arm, edges) = (factors(LabMode::Mtls), [edge("mtls"), edge("mtls")]);
        let errors = Errors { status: 1, ..Errors::default() };
        assert_eq!(broken_with(&arm, &edges, errors), [ClaimKind::Answers]);
        let timeout = Errors { timeout: 1, ..Errors::default() };
        assert_eq!(broken_with(&arm, &edges, timeout), [ClaimKind::Answers]);
        assert_eq!(broken(&arm, &[edge("mtls")]), [ClaimKind::Chain]);
        let few = EdgeUse { modes: counts([("mtls", 900)]), ..edge("mtls") };
        assert_eq!(broken(&arm, &[edge("mtls"), few]), [ClaimKind::Chain]);
        let many = EdgeUse { modes: counts([("mtls", 1100)]), ..edge("mtls") };
        assert_eq!(broken(&arm, &[edge("mtls"), many]), [ClaimKind::Chain]);
        let same = Factors { user: CarriedUser::Same, ..factors(LabMode::Mtls) };
        assert_eq!(broken(&same, &edges), [ClaimKind::User]);
        let with_user = EdgeUse { users: counts([("internal_token", 1000)]), ..edge("mtls") };
        assert_eq!(broken(&same, &[with_user.clone(), with_user.clone()]), []);
        let per_hop = Factors { user: CarriedUser::PerHop, ..same };
        assert_eq!(broken(&per_hop, &[with_user.clone(), with_user]), [ClaimKind::User]);
    }

    #[test]
    fn a_trial_without_any_answer_holds_nothing() {
        let errors = Errors::default();
        let counted =
            Counted { requests: 0, errors, in_progress_max: 4, edges: &[], users_are_counted: true };
        assert!(!judge(&factors(LabMode::Mtls), &counted).iter().all(|claim| claim.holds));
    }
}
