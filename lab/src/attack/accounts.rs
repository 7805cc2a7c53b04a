//! Who guesses passwords, and who asks the login which names exist.

use std::time::{Duration, Instant};

use countersign_wire::codes::Code;
use futures::{StreamExt as _, stream::FuturesUnordered};
use serde_json::{Value, json};

use super::{
    Attack, AttackError, Guard, Observation, Position, Sign, Target,
    forge::part,
    user_tokens::bearing,
    wire::{Broken, Dial, Exchanged, Reply, Request},
};
use crate::weak::Weakness;

const LOCKOUT: &str = "rules/accounts/src/lockout.rs";
const LOGIN: &str = "roles/authority/src/api/idp.rs";

pub(super) static ATTACKS: &[Attack] = &[
    Attack {
        name: "password-guessing",
        title: "guess passwords from one address, one after the other",
        from: &["PW-1", "PW-2", "lesson 56"],
        position: Position::Stranger,
        guard: Guard {
            what: "ten logins at once from one address, then one every few seconds",
            home: "roles/gateway/src/throttle.rs",
            signs: &[Sign::Code(Code::TooManyRequests)],
            weakness: Weakness::AnyNumberOfLogins,
        },
        waits: false,
        run: |target| Box::pin(guessing(target, |_| None)),
    },
    Attack {
        name: "guessing-under-other-addresses",
        title: "guess passwords from one address, and say another one in a header each time",
        from: &["PW-2", "lesson 27", "CVE-2026-33495"],
        position: Position::Stranger,
        guard: Guard {
            what: "an address is that of the connection, unless a listed proxy is at its other end",
            home: "roles/gateway/src/guard/behind.rs",
            signs: &[Sign::Code(Code::TooManyRequests)],
            weakness: Weakness::AddressByHeader,
        },
        waits: false,
        run: |target| Box::pin(guessing(target, |turn| Some(format!("198.51.100.{turn}")))),
    },
    Attack {
        name: "guessing-from-everywhere",
        title: "guess the password of one account from many addresses, under several spellings of its name",
        from: &["PW-1", "PW-2", "lesson 56", "CVE-2025-6004"],
        position: Position::Stranger,
        guard: Guard {
            what: "an account closes after a hundred failures, whoever made them and however its name was spelled",
            home: LOCKOUT,
            signs: &[Sign::Fact],
            weakness: Weakness::NoLockout,
        },
        waits: true,
        run: |target| Box::pin(from_everywhere(target)),
    },
    Attack {
        name: "unknown-user-answer",
        title: "find out from the answer whether there is an account of this name",
        from: &["PW-2", "V6"],
        position: Position::Stranger,
        guard: Guard {
            what: "one answer for a wrong name and a wrong password",
            home: LOGIN,
            signs: &[Sign::Fact],
            weakness: Weakness::UnknownUserIsTold,
        },
        waits: false,
        run: |target| Box::pin(by_answer(target)),
    },
    Attack {
        name: "unknown-user-time",
        title: "find out from the time that it takes whether there is an account of this name",
        from: &["PW-2", "lesson 56", "CVE-2025-6011"],
        position: Position::Stranger,
        guard: Guard {
            what: "as much work for nobody as for somebody",
            home: LOGIN,
            signs: &[Sign::Fact],
            weakness: Weakness::UnknownUserIsQuick,
        },
        waits: false,
        run: |target| Box::pin(by_time(target)),
    },
    Attack {
        name: "user-token-taken-back",
        title: "go on using an access token after it was taken back",
        from: &["D12", "REV-1", "V7"],
        position: Position::Former,
        guard: Guard {
            what: "what is taken back is in the next snapshot, and each use of a token asks it",
            home: "rules/token/src/revoked.rs",
            signs: &[Sign::Code(Code::TokenRevoked)],
            weakness: Weakness::AccessTokensForEver,
        },
        waits: true,
        run: |target| Box::pin(taken_back(target)),
    },
];

/// One login over a connection of its own, from the address of that connection alone.
async fn log_in(dial: &Dial, told: Option<&str>, name: &str, password: &str) -> Exchanged {
    dial.connect().await?.send(&login(told, name, password)).await
}

/// The honest login, which also ends the row of failures that is counted for this account.
async fn honest(target: &Target, name: &str) -> Result<(), AttackError> {
    let password = target.password(name)?;
    match log_in(&target.dial_edge(), None, name, &password).await {
        Ok(Reply { status: 200, .. }) => Ok(()),
        other => Err(AttackError::HonestRefused { answer: target.observed("", other).await.told() }),
    }
}

fn login(told: Option<&str>, name: &str, password: &str) -> Request {
    let body = json!({"name": name, "password": password}).to_string();
    let request = Request::get("/login").by("POST").carrying("application/json", body);
    match told {
        Some(told) => request.with("X-Forwarded-For", told).with("X-Real-IP", told),
        None => request,
    }
}

async fn guessing(target: &Target, told: fn(usize) -> Option<String>) -> Result<Observation, AttackError> {
    let dial = target.dial_edge();
    let sent = format!("{GUESSES} logins at once as somebody who does not exist");
    // All at once: a slow machine must not give back in time what is counted.
    let guesses = (1..=GUESSES).map(async |turn| log_in(&dial, told(turn).as_deref(), NOBODY, WRONG).await);
    let answers = futures::future::join_all(guesses).await;
    let is_judged = |answer: &Exchanged| matches!(answer, Ok(Reply { status: 401, .. }));
    let others = answers.into_iter().filter(|answer| !is_judged(answer));
    // Of many alike only the first is sure to be recorded in full, and which that was is not known here.
    let mut others: FuturesUnordered<_> = others.map(|other| target.observed(&sent, other)).collect();
    let mut seen = Observation::looked(&sent, false, format!("{GUESSES} guesses were judged"));
    while let Some(other) = others.next().await {
        seen = other;
        if seen.is_explained() {
            break;
        }
    }
    Ok(seen)
}

async fn from_everywhere(target: &Target) -> Result<Observation, AttackError> {
    let password = target.password(VICTIM)?;
    // A run that was ended before its end may have left it closed.
    target.unlock(VICTIM, &password).await?;
    honest(target, VICTIM).await?;
    let seen = guess_and_try(target, &password).await;
    target.unlock(VICTIM, &password).await?;
    seen
}

async fn guess_and_try(target: &Target, password: &str) -> Result<Observation, AttackError> {
    let spellings = [VICTIM.to_owned(), VICTIM.to_uppercase()];
    let mut dial = target.dial_edge();
    for (turn, spelling) in (0..=FAILURES_MAX).zip(spellings.iter().cycle()) {
        if turn % EACH_ADDRESS == 0 {
            dial = target.dial_edge();
        }
        let guess = log_in(&dial, None, spelling, WRONG).await;
        if !matches!(guess, Ok(Reply { status: 401, .. })) {
            return Ok(target.observed(format!("guess number {turn}"), guess).await);
        }
    }
    let addresses = FAILURES_MAX / EACH_ADDRESS + 1;
    let sent = format!("{} wrong passwords from {addresses} addresses, then the right one", FAILURES_MAX + 1);
    let right = log_in(&target.dial_edge(), None, VICTIM, password).await;
    Ok(match right {
        Ok(Reply { status: 401, .. }) => {
            Observation::looked(sent, true, "the right password opens it no more")
        }
        Ok(Reply { status: 200, .. }) => Observation::looked(sent, false, "the right password was found"),
        other => target.observed(sent, other).await,
    })
}

async fn taken_back(target: &Target) -> Result<Observation, AttackError> {
    let token = target.user_token(FORMER).await?;
    let claims = part(&token, 1)?;
    let jti = claims.get("jti").and_then(Value::as_str);
    let jti = jti.ok_or_else(|| AttackError::equipment("an access token", "it has no id"))?;
    let mut connection = target.connect_to_edge().await?;
    let honest = target.observed("", connection.send(&bearing(&token)).await).await;
    if !honest.is_believed() {
        return Err(AttackError::HonestRefused { answer: honest.told() });
    }
    target.take_back(jti).await?;
    let exchanged = connection.send(&bearing(&token)).await;
    Ok(target.observed("GET /ads with an access token that was taken back meanwhile", exchanged).await)
}

async fn by_answer(target: &Target) -> Result<Observation, AttackError> {
    honest(target, KNOWN).await?;
    let dial = target.dial_edge();
    let sent = "a login with a wrong password, and one with a wrong name";
    let known = log_in(&dial, None, KNOWN, WRONG).await;
    let unknown = log_in(&dial, None, NOBODY, WRONG).await;
    let (Ok(known), Ok(unknown)) = (known, unknown) else {
        return Err(AttackError::NoConnection { what: "the login".to_owned(), why: "it ended".to_owned() });
    };
    let (known, unknown) = (looks(&known), looks(&unknown));
    let held = known == unknown && known.starts_with("401");
    Ok(Observation::looked(sent, held, format!("{known}, and {unknown}")))
}

/// All of an answer but what is new each time.
fn looks(reply: &Reply) -> String {
    let mut names: Vec<String> = reply.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    let problem = reply.problem();
    let said = problem.map(|problem| format!("{} {} {:?}", problem.code, problem.title, problem.detail));
    format!("{} {} [{}]", reply.status, said.unwrap_or_default(), names.join(" "))
}

async fn by_time(target: &Target) -> Result<Observation, AttackError> {
    honest(target, KNOWN).await?;
    let (mut known, mut unknown) = (Duration::MAX, Duration::MAX);
    let mut pairs = 0;
    // The work is most of the time: what is left out shows as a multiple at best, whatever else the machine does. Where
    // neither shows yet, the machine does too much else, and more is measured.
    while pairs < PAIRS_MIN
        || (pairs < PAIRS_MAX && !shows_work(known, unknown) && !shows_none(known, unknown))
    {
        let dial = target.dial_edge();
        for (name, best) in [(KNOWN, &mut known), (NOBODY, &mut unknown)] {
            match timed(&dial, name).await? {
                (Ok(Reply { status: 401, .. }), took) => *best = took.min(*best),
                (other, _) => return Ok(target.observed("a login", other).await),
            }
        }
        pairs += 1;
    }
    let sent = format!("{pairs} logins each with a wrong password and with a wrong name");
    let seen = format!("at best {} ms and {} ms", known.as_millis(), unknown.as_millis());
    Ok(Observation::looked(sent, !shows_none(known, unknown), seen))
}

fn shows_work(known: Duration, unknown: Duration) -> bool {
    unknown.saturating_mul(2) > known
}

fn shows_none(known: Duration, unknown: Duration) -> bool {
    unknown.saturating_mul(4) < known
}

async fn timed(dial: &Dial, name: &str) -> Result<(Exchanged, Duration), AttackError> {
    let lost = |broken: Broken| AttackError::NoConnection { what: "the edge".to_owned(), why: broken.how };
    let mut connection = dial.connect().await.map_err(lost)?;
    let begun = Instant::now();
    let tried = connection.send(&login(None, name, WRONG)).await;
    Ok((tried, begun.elapsed()))
}

/// Whose account is closed, and opened again afterwards: nothing else here uses it.
const VICTIM: &str = "eve";
/// Who is compared with nobody.
const KNOWN: &str = "mod";
/// Whose token is taken back.
const FORMER: &str = "bob";
const NOBODY: &str = "nobody-of-this-name";
const WRONG: &str = "not the right one, is it";
const GUESSES: usize = 25;
const FAILURES_MAX: u32 = 100;
const EACH_ADDRESS: u32 = 8;
const PAIRS_MIN: usize = 4;
const PAIRS_MAX: usize = 24;
