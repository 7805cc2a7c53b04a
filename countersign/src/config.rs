//! The one configuration file: each role owns the settings of its table, this module owns the file.
//!
//! Unknown keys are errors with a suggestion. Secrets never stand in it, only the paths of files that hold them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use countersign_identity::{ServiceName, SpiffeId, TrustDomain};
use countersign_sdk::workload::{FileIdentity, FileService};
use serde::Deserialize;

use crate::error::CliError;

/// Longest configuration that is read.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// A deployment's configuration. A role whose table is missing does not run from this file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The trust domain that this deployment serves. With `[identity]` it may be left out: the certificate names it.
    #[serde(default)]
    pub trust_domain: Option<TrustDomain>,
    /// Absolute directory of all state; mode 0700.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Who a gateway or sidecar is, where certificates come from elsewhere and no agent runs.
    #[serde(default)]
    pub identity: Option<IdentityTable>,
    /// The control plane.
    #[serde(default)]
    pub authority: Option<countersign_authority::Settings>,
    /// Registration entries; they count only in the authority's file.
    #[serde(default)]
    pub service: Vec<countersign_authority::ServiceEntry>,
    /// Where the policies lie.
    #[serde(default)]
    pub policy: Option<PolicyTable>,
    /// The node's agent.
    #[serde(default)]
    pub agent: Option<countersign_agent::Settings>,
    /// The edge.
    #[serde(default)]
    pub gateway: Option<countersign_gateway::Settings>,
    /// One service's door and way out, where that service links no SDK.
    #[serde(default)]
    pub sidecar: Option<countersign_gateway::sidecar::Settings>,
    /// The flea market of `countersign up`.
    #[serde(default)]
    pub demo: Option<DemoTable>,
}

/// `[identity]`: plain PEM files, which are watched.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityTable {
    /// The chain, leaf first; the leaf names one SPIFFE ID.
    pub cert: PathBuf,
    /// The leaf's P-256 key, PKCS#8.
    pub key: PathBuf,
    /// Roots: whom we believe.
    pub ca: PathBuf,
    /// Revocation lists. Without them nobody is revoked.
    #[serde(default)]
    pub crl: Option<PathBuf>,
    /// The name under which policies speak of us; by default the last segment of the SPIFFE ID.
    #[serde(default)]
    pub name: Option<ServiceName>,
    /// Whom we call by name.
    #[serde(default, rename = "service")]
    pub services: Vec<IdentityService>,
}

/// `[[identity.service]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityService {
    /// Its short name.
    pub name: ServiceName,
    /// Whom we expect there.
    pub spiffe_id: SpiffeId,
    /// `host:port`.
    pub address: String,
}

/// `[policy]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyTable {
    /// One Cedar file for each callee: `ads.cedar` guards `ads`.
    pub dir: PathBuf,
}

/// `[demo]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemoTable {
    /// The flea market's services by name.
    pub services: BTreeMap<String, DemoService>,
}

/// `[demo.services.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemoService {
    /// Where it serves, mutual TLS.
    pub listen: SocketAddr,
    /// Where it answers probes and metrics; loopback.
    pub admin: SocketAddr,
    /// Its own database, which no other service opens: `sqlite:FILE` or `postgres://…`.
    pub database: String,
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// Exit 2, with the place in the file and the nearest known key.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let named = |e: std::io::Error| {
            CliError::usage(format!("cannot read {}", path.display()), e, "name the file with --config")
        };
        if std::fs::metadata(path).map_err(named)?.len() > CONFIG_BYTES_MAX {
            let what = format!("{} is longer than {CONFIG_BYTES_MAX} bytes", path.display());
            return Err(CliError::usage(
                what,
                "a configuration is a page, not a book",
                "name the right file",
            ));
        }
        let text = std::fs::read_to_string(path).map_err(named)?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses the text of a file called `name`.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(text: &str, name: &str) -> Result<Self, CliError> {
        toml::from_str(text).map_err(|e| {
            let place = e.span().map(|span| position(text, span.start)).unwrap_or_default();
            let why = e.message().to_owned();
            CliError::usage(format!("{name}{place} is not a configuration"), &why, suggestion(&why))
        })
    }

    /// The trust domain, for roles that cannot run without one.
    ///
    /// # Errors
    /// Exit 2 where the file names none.
    pub fn trust_domain(&self) -> Result<TrustDomain, CliError> {
        self.trust_domain.clone().ok_or_else(|| {
            CliError::usage(
                "the configuration has no trust_domain",
                "only a gateway or sidecar with [identity] takes it from its certificate",
                "add trust_domain = \"example.org\" as its first line",
            )
        })
    }

    /// The identity that `[identity]` describes, if there is one.
    #[must_use]
    pub fn file_identity(&self) -> Option<FileIdentity> {
        let table = self.identity.clone()?;
        let policy_dir = self.policy.as_ref().map(|policy| policy.dir.clone());
        let service =
            |s: IdentityService| FileService { name: s.name, spiffe_id: s.spiffe_id, address: s.address };
        Some(FileIdentity {
            crl: table.crl,
            name: table.name,
            policy_dir,
            services: table.services.into_iter().map(service).collect(),
            ..FileIdentity::new(table.cert, table.key, table.ca, self.state_dir.clone())
        })
    }

    /// The table of a role that is asked to run.
    ///
    /// # Errors
    /// Exit 2 where the file lacks the table.
    pub fn table<T: Clone>(&self, table: &Option<T>, name: &str) -> Result<T, CliError> {
        table.clone().ok_or_else(|| {
            CliError::usage(
                format!("the configuration has no table [{name}]"),
                "a role runs only where its table is",
                "add the table, or name another file with --config",
            )
        })
    }
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/countersign")
}

/// `:line:column`, both from 1.
fn position(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    format!(":{line}:{column}")
}

/// Reads serde's own words (unknown field `x`, expected one of `a`, `b`) and offers the nearest.
fn suggestion(why: &str) -> String {
    let mut quoted = why.split('`').skip(1).step_by(2);
    let (true, Some(unknown)) = (why.starts_with("unknown field"), quoted.next()) else {
        return "compare with the file that countersign up writes".to_owned();
    };
    let known: Vec<&str> = quoted.collect();
    let nearest = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(unknown, k), *k))
        .min()
        .filter(|(distance, _)| *distance <= 3);
    match nearest {
        Some((_, key)) => format!("did you mean `{key}`?"),
        None => format!("known keys here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: &str = "trust_domain = \"example.org\"\nstate_dir = \"/s\"\n";

    #[test]
    fn accepts_a_file_with_any_subset_of_roles() {
        let config = Config::parse(SMALL, "c.toml").unwrap();
        assert!(config.authority.is_none() && config.gateway.is_none());
        assert_eq!(config.table(&config.agent, "agent").unwrap_err().code(), 2);
    }

    #[test]
    fn rejects_an_unknown_key_with_its_place_and_the_nearest_key() {
        let text = format!("{SMALL}[polcy]\ndir = \"p\"\n");
        let error = Config::parse(&text, "c.toml").unwrap_err();
        let said = error.to_string();
        assert_eq!(error.code(), 2);
        assert!(said.contains("c.toml:3:2"), "{said}");
        assert!(said.contains("did you mean `policy`?"), "{said}");
    }

    #[test]
    fn rejects_an_unknown_key_inside_a_role_s_table() {
        let text = format!("{SMALL}[policy]\ndri = \"p\"\n");
        assert!(Config::parse(&text, "c.toml").unwrap_err().to_string().contains("did you mean `dir`?"));
    }

    #[test]
    fn rejects_a_duplicate_key_and_a_wrong_type() {
        assert!(Config::parse(&format!("{SMALL}trust_domain = \"b\"\n"), "c").is_err());
        assert!(Config::parse("trust_domain = 7\nstate_dir = \"/s\"", "c").is_err());
    }

    #[test]
    fn rejects_a_file_that_is_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let pad = |n: u64| format!("{SMALL}#{}\n", "x".repeat(usize::try_from(n).unwrap() - SMALL.len() - 2));
        std::fs::write(&path, pad(CONFIG_BYTES_MAX)).unwrap();
        assert!(Config::read(&path).is_ok());
        std::fs::write(&path, pad(CONFIG_BYTES_MAX + 1)).unwrap();
        assert_eq!(Config::read(&path).unwrap_err().code(), 2);
    }

    proptest! {
        #[test]
        fn never_panics_on_any_text(text in "\\PC{0,200}") {
            let _ = Config::parse(&text, "c");
            let _ = Config::parse(&format!("{SMALL}{text}"), "c");
        }
    }
}
