//! Two services written after an article, under attack.

use std::{net::SocketAddr, sync::PoisonError};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_keys::{SystemRandom, random_bytes};
use serde_json::{Value, json};

use super::Tried;
use crate::{
    article::{Article, token},
    attack::{
        AttackError, Verdict, doc,
        wire::{Broken, Dial, Reply, Request},
    },
};

pub(super) async fn examine() -> Result<Vec<Tried>, AttackError> {
    let secret = random_bytes::<32>(&SystemRandom::new()).map_err(|error| unbuilt(&error))?.to_vec();
    let article = Article::start(secret).await.map_err(|error| unbuilt(&error))?;
    let mut tried = with_a_copy(&article).await?;
    tried.push(with_the_secret(&article).await);
    tried.push(in_the_log(&article).await);
    tried.push(guessing(&article).await);
    tried.extend(as_time_passes(&article).await?);
    Ok(tried)
}

/// What a copy of somebody's token is good for.
async fn with_a_copy(article: &Article) -> Result<Vec<Tried>, AttackError> {
    let (profiles, payments) = (article.profiles, article.payments);
    let alice = honest(article, "alice").await?;
    let get = |path: &str, token: &str| bearing(Request::get(path), token);
    Ok(vec![
        Tried::answered(
            "replay-elsewhere",
            "bearer",
            "a copy of the token of alice, over another connection",
            status(profiles, get("/profile", &alice)).await,
        ),
        Tried::answered(
            "wrong-audience",
            "no audience",
            "the token that alice sent to her profile, by the profile service at the payments",
            status(payments, get("/payments", &alice)).await,
        ),
        Tried::answered(
            "other-method",
            "bearer",
            "the token that came with a GET, with a POST",
            status(payments, get("/payments", &alice).by("POST")).await,
        ),
        Tried::answered(
            "alg-none",
            "JB-1",
            "a token without a signature",
            status(profiles, get("/profile", &without_signature(&alice))).await,
        ),
        Tried::answered(
            "edited-token",
            "JB-1",
            "the token of alice with another name in it",
            status(profiles, get("/profile", &edited(&alice))).await,
        ),
    ])
}

/// Whoever can verify can sign: that is what a shared secret is.
async fn with_the_secret(article: &Article) -> Tried {
    let shared = &article.shared;
    let forged = token::generate_token("carol", &["admin".to_owned()], &shared.secret, shared.now());
    let request = bearing(Request::get("/users/alice").by("DELETE"), &forged);
    Tried::answered(
        "issuer-of-another",
        "shared secret",
        "DELETE /users/alice with a token for carol that the payment service signed",
        status(article.profiles, request).await,
    )
}

/// A name with a line feed in it.
async fn in_the_log(article: &Article) -> Tried {
    let forged = "info: Auth attempt for user carol: success";
    let name = format!("mallory: failure\n{forged}");
    let sent = "a login under a name that contains a line feed and a line of the log";
    let answered = log_in(article, &name, "whatever").await;
    let found = article.shared.logger.lines().iter().any(|line| line.starts_with(forged));
    let verdict = match (found, answered) {
        (true, _) => Verdict::Succeeded { evidence: format!("the log says: {forged}") },
        (false, Ok(_)) => Verdict::Blocked { sign: "the name stands in one line of the log".to_owned() },
        (false, Err(broken)) => Verdict::Inconclusive { why: broken.how },
    };
    let received = verdict.because().to_owned();
    Tried {
        name: "ledger-edited",
        defect: "log injection",
        sent,
        received,
        verdict,
        doc: doc("ledger-edited"),
    }
}

/// As many guesses as one likes: the article has a log, and nobody who reads it.
async fn guessing(article: &Article) -> Tried {
    let mut last = Err(Broken { alert: None, how: "no guess was made".to_owned(), local: None });
    for turn in 0..GUESSES {
        last = log_in(article, "carol", &format!("guess {turn}")).await;
        if !matches!(last, Ok(Reply { status: 401, .. })) {
            break;
        }
    }
    let right = log_in(article, "carol", "the password of carol").await;
    let found = matches!((&last, &right), (Ok(Reply { status: 401, .. }), Ok(Reply { status: 200, .. })));
    Tried::answered(
        "password-guessing",
        "no throttle",
        "a hundred wrong passwords in a row, and then the right one",
        if found { right.map(|reply| reply.status) } else { last.map(|reply| reply.status) },
    )
}

/// What was once said in a token stays true for a day, and, with a refresh each day, for ever.
async fn as_time_passes(article: &Article) -> Result<Vec<Tried>, AttackError> {
    let shared = &article.shared;
    let carol = honest(article, "carol").await?;
    if let Some(account) = shared.users.lock().unwrap_or_else(PoisonError::into_inner).get_mut("carol") {
        account.roles.retain(|role| role != "admin");
    }
    let remove = bearing(Request::get("/users/alice").by("DELETE"), &carol);
    let frozen = status(article.profiles, remove).await;
    shared.pass(23 * HOUR);
    let old = status(article.profiles, bearing(Request::get("/profile"), &carol)).await;
    let renewed = refreshed(article, &carol).await?;
    shared.users.lock().unwrap_or_else(PoisonError::into_inner).remove("carol");
    shared.pass(23 * HOUR);
    let later = refreshed(article, &renewed).await?;
    let later = status(article.profiles, bearing(Request::get("/profile"), &later)).await;
    let ended = status(article.profiles, bearing(Request::get("/profile"), &carol)).await;
    Ok(vec![
        Tried::answered(
            "role-escalation",
            "roles frozen in the token",
            "DELETE /users/alice by carol, whose role was taken away",
            frozen,
        ),
        Tried::answered("long-lived-token", "24 hours", "a token that was copied 23 hours ago", old),
        Tried::answered(
            "revoked-signer",
            "refresh from the access token",
            "a copied token, refreshed twice, 46 hours later, of a user who was removed",
            later,
        ),
        Tried::answered("expired-token", "JB-1", "the first token, 46 hours later", ended),
    ])
}

async fn refreshed(article: &Article, token: &str) -> Result<String, AttackError> {
    let reply = send(article.profiles, bearing(Request::get("/refresh").by("POST"), token)).await;
    token_in(reply)
}

/// The token of a user who logged in, which is served.
async fn honest(article: &Article, user: &str) -> Result<String, AttackError> {
    let token = token_in(log_in(article, user, &format!("the password of {user}")).await)?;
    match status(article.profiles, bearing(Request::get("/profile"), &token)).await {
        Ok(200) => Ok(token),
        other => Err(AttackError::HonestRefused { answer: format!("{other:?}") }),
    }
}

async fn log_in(article: &Article, user: &str, password: &str) -> Result<Reply, Broken> {
    let body = json!({"user": user, "password": password}).to_string();
    send(article.profiles, Request::get("/login").by("POST").carrying("application/json", body)).await
}

fn token_in(reply: Result<Reply, Broken>) -> Result<String, AttackError> {
    let reply = reply.map_err(|broken| unbuilt(&broken.how))?;
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let token = body.get("token").and_then(Value::as_str).map(str::to_owned);
    token.ok_or_else(|| AttackError::HonestRefused { answer: reply.status.to_string() })
}

async fn status(address: SocketAddr, request: Request) -> Result<u16, Broken> {
    send(address, request).await.map(|reply| reply.status)
}

/// Each request over a connection of its own.
async fn send(address: SocketAddr, request: Request) -> Result<Reply, Broken> {
    Dial::to(address).connect_in_the_clear().await?.send(&request).await
}

fn bearing(request: Request, token: &str) -> Request {
    request.with("Authorization", format!("Bearer {token}"))
}

fn without_signature(token: &str) -> String {
    let claims = token.split('.').nth(1).unwrap_or_default();
    format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#))
}

fn edited(token: &str) -> String {
    let mut parts = token.split('.').map(str::to_owned).collect::<Vec<_>>();
    if let Some(claims) = parts.get_mut(1) {
        let said = URL_SAFE_NO_PAD.decode(claims.as_bytes()).unwrap_or_default();
        *claims = URL_SAFE_NO_PAD.encode(String::from_utf8_lossy(&said).replace("alice", "carol"));
    }
    parts.join(".")
}

fn unbuilt(why: &dyn std::fmt::Display) -> AttackError {
    AttackError::equipment("the article's services", why)
}

const GUESSES: usize = 100;
const HOUR: i64 = 3600;
