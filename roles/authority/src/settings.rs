//! What the authority is told: its own table of the TOML file, and the parts of the deployment that it shares.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use countersign_identity::{ServiceName, SpiffeId, TrustDomain, UserContext, WimseProof};
use countersign_pki::profile::LeafTtl;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::AuthorityError;

/// The table `[authority]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// HTTPS API (`/api/v1`, `/oauth2/jwks`), with a certificate of the edge root.
    pub listen: SocketAddr,
    /// gRPC for agents (`countersign.node.v1`), mutual TLS under the workload root.
    pub node_listen: SocketAddr,
    /// Plain HTTP for probes and metrics: a loopback address, anything else is refused.
    pub admin: SocketAddr,
    /// Issuer of access tokens, and where clients reach `listen`; default `https://localhost:PORT`.
    #[serde(default)]
    pub public_url: Option<String>,
    /// `sqlite` (a file in the state directory) or `postgres://user@host/database`.
    #[serde(default = "sqlite")]
    pub database: String,
    /// File with the password of a `postgres://` database; never in the URL itself.
    #[serde(default)]
    pub database_password_file: Option<PathBuf>,
    /// The master key: a file outside the state directory, made by `countersign up` or by `MasterKey::generate`.
    pub master_key: PathBuf,
    /// Uids besides our own that may use the admin socket.
    #[serde(default)]
    pub admin_uids: Vec<u32>,
    /// Life of a workload's certificate, `1m` to `24h`.
    #[serde(default = "one_hour", deserialize_with = "duration")]
    #[schemars(with = "String")]
    pub svid_ttl: Duration,
    /// Requests per second of one address that proved nothing (IPv6: one /64): generous to people, tight to floods.
    #[serde(default = "stranger_rate")]
    pub stranger_requests_per_second: NonZeroU32,
    /// How many of them may come at once.
    #[serde(default = "stranger_burst")]
    pub stranger_requests_burst: NonZeroU32,
    /// `aud` of access tokens; default `https://TRUST_DOMAIN`.
    #[serde(default)]
    pub audience: Option<String>,
    /// Refuses mode `none` for every service. Without it, plain HTTP without any identity can be switched on.
    #[serde(default = "yes")]
    pub strict: bool,
    /// This deployment is a demonstration: all its modes may be switched at once. Never set it elsewhere.
    #[serde(default)]
    pub demonstration: bool,
    /// DNS names and IP addresses of `listen` besides `localhost`, `127.0.0.1`, `::1` and its own address.
    #[serde(default)]
    pub names: Vec<String>,
}

/// One table `[[service]]`: a registration entry, which lives at the authority alone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceEntry {
    /// Short name, also the name of its policy file.
    #[schemars(with = "String")]
    pub name: ServiceName,
    /// Default `spiffe://TRUST_DOMAIN/svc/NAME`; a gateway names `spiffe://TRUST_DOMAIN/countersign/gateway/…`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub spiffe_id: Option<SpiffeId>,
    /// Where its callers find it; a gateway has none.
    #[serde(default)]
    pub address: Option<SocketAddr>,
    /// Uids that may launch it.
    #[serde(default)]
    pub launch_by: Vec<u32>,
    /// Nodes that may hold its identity.
    #[serde(default = "local_node")]
    pub nodes: Vec<String>,
    /// Modes that it accepts.
    #[serde(default = "mtls_only")]
    pub accepts: Vec<String>,
    /// The mode that it sends.
    #[serde(default = "mtls")]
    pub sends: String,
    /// How it carries its user along: `same`, `per-hop` or `nested`.
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["same", "per-hop", "nested"]))]
    pub user_context: UserContext,
    /// Which proof it sends in mode `wimse`: `token` or `http-signature`.
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["token", "http-signature"]))]
    pub wimse: WimseProof,
}

/// What the authority shares with the other roles of one deployment.
#[derive(Clone)]
pub struct Deployment {
    /// The trust domain; a database of another one is refused.
    pub trust_domain: TrustDomain,
    /// Absolute path of the state directory (0700): `ca.pem`, `admin.sock`, `authority/`.
    pub state_dir: PathBuf,
    /// Registration entries of the file; entries made by the API are kept besides.
    pub services: Vec<ServiceEntry>,
    /// `[policy] dir`: one `NAME.cedar` per target, read at the start and by `POST /api/v1/policies/reload`.
    pub policy_dir: Option<PathBuf>,
    /// Renders the metrics of this process in Prometheus' text format; the recorder is the binary's.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// The node that `up` makes, and the default of an entry's `nodes`.
pub const LOCAL_NODE: &str = "local";

impl Settings {
    /// The issuer: `public_url` without a trailing slash.
    #[must_use]
    pub fn issuer(&self) -> String {
        match &self.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("https://localhost:{}", self.listen.port()),
        }
    }

    /// Refuses what no type refuses.
    ///
    /// # Errors
    /// [`AuthorityError::Setting`] with the key and what to write.
    pub(crate) fn check(&self) -> Result<(), AuthorityError> {
        let wrong = |name: &'static str, why: String| Err(AuthorityError::Setting { name, why });
        if !self.admin.ip().is_loopback() {
            return wrong(
                "authority.admin",
                format!("{} is not a loopback address; use 127.0.0.1:PORT", self.admin),
            );
        }
        if let Err(error) = LeafTtl::new(self.svid_ttl) {
            return wrong("authority.svid_ttl", error.to_string());
        }
        if self.public_url.as_deref().is_some_and(|url| !url.starts_with("https://")) {
            return wrong("authority.public_url", "it must begin with https://".to_owned());
        }
        let postgres = self.database.starts_with("postgres://") || self.database.starts_with("postgresql://");
        if self.database != "sqlite" && !postgres {
            return wrong(
                "authority.database",
                "write \"sqlite\" or \"postgres://USER@HOST/DATABASE\"".to_owned(),
            );
        }
        if postgres && has_password(&self.database) {
            let why = "a password has no place in this file; put it into a file and name it in database_password_file";
            return wrong("authority.database", why.to_owned());
        }
        Ok(())
    }

    /// The URL for the driver, with the password out of its file.
    pub(crate) fn postgres_url(&self) -> Result<zeroize::Zeroizing<String>, AuthorityError> {
        let Some(path) = &self.database_password_file else { return Ok(self.database.clone().into()) };
        let why = |error: std::io::Error| AuthorityError::File { path: path.clone(), why: error.to_string() };
        let password = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(why)?);
        let mut encoded = zeroize::Zeroizing::new(String::new());
        for byte in password.trim_end_matches(['\r', '\n']).bytes() {
            match byte {
                b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => encoded.push(char::from(byte)),
                other => encoded.push_str(&format!("%{other:02X}")),
            }
        }
        let Some((user, rest)) = self.database.split_once('@') else {
            let why = "it names no user; write postgres://USER@HOST/DATABASE".to_owned();
            return Err(AuthorityError::Setting { name: "authority.database", why });
        };
        Ok(format!("{user}:{}@{rest}", *encoded).into())
    }

    /// The audience of access tokens.
    #[must_use]
    pub fn audience(&self, trust_domain: &TrustDomain) -> String {
        self.audience.clone().unwrap_or_else(|| format!("https://{trust_domain}"))
    }
}

fn has_password(url: &str) -> bool {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let user = authority.split(['/', '?']).next().and_then(|authority| authority.rsplit_once('@'));
    user.is_some_and(|(user, _)| user.contains(':')) || url.contains("password=")
}

fn sqlite() -> String {
    "sqlite".to_owned()
}

fn stranger_rate() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(49)
}

fn stranger_burst() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(199)
}

fn one_hour() -> Duration {
    Duration::from_secs(3600)
}

fn local_node() -> Vec<String> {
    vec![LOCAL_NODE.to_owned()]
}

fn mtls() -> String {
    "mtls".to_owned()
}

fn yes() -> bool {
    true
}

fn mtls_only() -> Vec<String> {
    vec![mtls()]
}

/// `90s`, `15m`, `8h`, `30d`: a whole number and one unit.
///
/// # Errors
/// A sentence that shows the text and the units.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; write a number and one of s, m, h, d, such as 15m");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds_per_unit: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let digits = text.strip_suffix(unit).ok_or_else(wrong)?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    count.checked_mul(seconds_per_unit).map(Duration::from_secs).ok_or_else(wrong)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn accepts_a_number_with_one_unit() {
        assert_eq!(parse_duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_duration("15m").unwrap(), Duration::from_secs(900));
        assert_eq!(parse_duration("1h").unwrap(), Duration::from_secs(3600));
        assert_eq!(parse_duration("2d").unwrap(), Duration::from_secs(172_800));
    }

    #[test]
    fn rejects_durations_that_could_be_misread() {
        for text in ["", "m", "1", "1.5h", "-1m", "+1m", "1h30m", " 1m", "1 m", "99999999999999999999d", "1ö"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
