//! Two services written after an article on "robust authentication in microservices": its three listings, line by line,
//! and around them as little as makes them run. Nothing here was made worse than it stands there.
//!
//! | listing | here |
//! |---|---|
//! | `jwt.sign({ user, roles }, process.env.JWT_SECRET, { expiresIn: '24h' })` | [`token::generate_token`] |
//! | `refreshToken(oldToken)` | [`token::refresh_token`] |
//! | ``logger.info(`Auth attempt for user ${user}: ${status}`)`` | [`Logger::log_auth_attempt`] |
//!
//! What it lets through is found by [`crate::attack::specimen`]. Nothing that a service links can name it.

pub mod token;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::{delete, get, post},
};
use countersign_sdk::clock;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The two services of the article's examples, both with the one `JWT_SECRET` of their environment.
pub struct Article {
    /// Logs users in, and knows their profiles.
    pub profiles: SocketAddr,
    /// Moves money.
    pub payments: SocketAddr,
    /// What both share.
    pub shared: Arc<Shared>,
    _stop: DropGuard,
}

/// What the environment of both services holds.
pub struct Shared {
    /// `process.env.JWT_SECRET`: every service that verifies has it.
    pub secret: Vec<u8>,
    /// Passwords and roles by name.
    pub users: Mutex<BTreeMap<String, Account>>,
    /// `auth-logs.log`
    pub logger: Logger,
    ahead: AtomicI64,
}

/// A user of the application.
#[derive(Clone, Debug)]
pub struct Account {
    /// In the clear, for brevity; the article says nothing about passwords.
    pub password: String,
    /// What the user may do now.
    pub roles: Vec<String>,
}

/// `winston.createLogger`, with one file.
#[derive(Default)]
pub struct Logger(Mutex<String>);

#[derive(Deserialize)]
struct Credentials {
    user: String,
    password: String,
}

impl Article {
    /// Starts both on loopback ports.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start(secret: Vec<u8>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            secret,
            users: Mutex::new(accounts()),
            logger: Logger::default(),
            ahead: AtomicI64::new(0),
        });
        let stop = CancellationToken::new();
        let profiles = Router::new()
            .route("/login", post(log_in))
            .route("/refresh", post(refresh))
            .route("/profile", get(profile))
            .route("/users/{name}", delete(remove));
        let payments = Router::new().route("/payments", get(profile).post(profile));
        let profiles = serve(profiles.with_state(Arc::clone(&shared)), stop.clone()).await?;
        let payments = serve(payments.with_state(Arc::clone(&shared)), stop.clone()).await?;
        Ok(Self { profiles, payments, shared, _stop: stop.drop_guard() })
    }
}

impl Shared {
    /// Seconds since 1970, by the clock of both services.
    #[must_use]
    pub fn now(&self) -> i64 {
        clock::now().secs() + self.ahead.load(Ordering::SeqCst)
    }

    /// Lets time pass.
    pub fn pass(&self, seconds: i64) {
        self.ahead.fetch_add(seconds, Ordering::SeqCst);
    }

    /// The claims of a token that verifies.
    fn verified(&self, headers: &HeaderMap) -> Result<Value, StatusCode> {
        let bearer = headers.get("authorization").and_then(|value| value.to_str().ok());
        let token = bearer.and_then(|text| text.strip_prefix("Bearer ")).ok_or(StatusCode::UNAUTHORIZED)?;
        token::verify(token, &self.secret, self.now()).ok_or(StatusCode::UNAUTHORIZED)
    }
}

impl Logger {
    /// ``logger.info(`Auth attempt for user ${user}: ${status}`)``
    pub fn log_auth_attempt(&self, user: &str, status: &str) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if file.len() < LOG_BYTES_MAX {
            let _ = writeln!(file, "info: Auth attempt for user {user}: {status}");
        }
    }

    /// The lines of the file.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).lines().map(str::to_owned).collect()
    }
}

async fn log_in(
    State(shared): State<Arc<Shared>>,
    Json(given): Json<Credentials>,
) -> Result<Json<Value>, StatusCode> {
    let account = shared.users.lock().unwrap_or_else(PoisonError::into_inner).get(&given.user).cloned();
    let account = account.filter(|account| account.password == given.password);
    let status = if account.is_some() { "success" } else { "failure" };
    shared.logger.log_auth_attempt(&given.user, status);
    let account = account.ok_or(StatusCode::UNAUTHORIZED)?;
    let token = token::generate_token(&given.user, &account.roles, &shared.secret, shared.now());
    Ok(Json(json!({ "token": token })))
}

async fn refresh(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<Json<Value>, StatusCode> {
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok());
    let old = bearer.and_then(|text| text.strip_prefix("Bearer ")).ok_or(StatusCode::UNAUTHORIZED)?;
    let token = token::refresh_token(old, &shared.secret, shared.now()).ok_or(StatusCode::UNAUTHORIZED)?;
    Ok(Json(json!({ "token": token })))
}

/// Whoever has a token that verifies is served.
async fn profile(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<Json<Value>, StatusCode> {
    shared.verified(&headers).map(Json)
}

/// "validate the user's identity and their permissions based on their roles" in the token.
async fn remove(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<String, StatusCode> {
    let claims = shared.verified(&headers)?;
    let roles = claims.get("roles").and_then(Value::as_array).cloned().unwrap_or_default();
    if roles.contains(&json!("admin")) {
        Ok(format!("{name} was removed"))
    } else {
        Err(StatusCode::FORBIDDEN)
    }
}

async fn serve(router: Router, stop: CancellationToken) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    tokio::spawn(async move { serving.await });
    Ok(address)
}

fn accounts() -> BTreeMap<String, Account> {
    let account = |name: &str, roles: &[&str]| {
        let password = format!("the password of {name}");
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        (name.to_owned(), Account { password, roles })
    };
    [account("alice", &["user"]), account("carol", &["user", "admin"])].into()
}

/// A log without an end would be a fault that the article does not have.
const LOG_BYTES_MAX: usize = 1024 * 1024;
