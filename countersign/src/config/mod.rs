//! The one configuration file: each role owns the settings of its table, this module owns the file.
//!
//! Unknown keys are errors with a suggestion. Secrets never stand in it, only the paths of files that hold them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use countersign_identity::{ServiceName, SpiffeId, TrustDomain};
use countersign_sdk::tls::Groups;
use countersign_sdk::workload::{FileIdentity, FileService};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::CliError;
use crate::telemetry::{Access, OtlpTable};

mod layers;

pub use layers::{Layers, Origin};

/// A deployment's configuration. A role whose table is missing does not run from this file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The trust domain that this deployment serves. With `[identity]` it may be left out: the certificate names it.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub trust_domain: Option<TrustDomain>,
    /// Absolute directory of all state; mode 0700.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Who a gateway or sidecar is, where certificates come from elsewhere and no agent runs.
    #[serde(default)]
    pub identity: Option<IdentityTable>,
    /// What is written of each request.
    #[serde(default)]
    pub log: Option<LogTable>,
    /// Spans for a collector; without it none are made.
    #[serde(default)]
    pub otlp: Option<OtlpTable>,
    /// Handshakes between services.
    #[serde(default)]
    pub tls: Option<TlsTable>,
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
#[derive(Debug, Clone, Deserialize, JsonSchema)]
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
    #[schemars(with = "Option<String>")]
    pub name: Option<ServiceName>,
    /// Whom we call by name.
    #[serde(default, rename = "service")]
    pub services: Vec<IdentityService>,
}

/// `[log]`: access lines of gateways, sidecars and services.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogTable {
    /// Which requests leave a line on standard output: `off`, `errors` (status 400 and above, the default) or `all`.
    #[serde(default)]
    pub access: Access,
}

/// `[tls]`: handshakes of gateways and sidecars with services.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsTable {
    /// Groups of the key exchange, the preferred one first: X25519MLKEM768, X25519, P-256.
    #[schemars(with = "Vec<String>")]
    pub groups: Groups,
}

/// `[[identity.service]]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityService {
    /// Its short name.
    #[schemars(with = "String")]
    pub name: ServiceName,
    /// Whom we expect there.
    #[schemars(with = "String")]
    pub spiffe_id: SpiffeId,
    /// `host:port`.
    pub address: String,
}

/// `[policy]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyTable {
    /// One Cedar file for each callee: `ads.cedar` guards `ads`.
    pub dir: PathBuf,
}

/// `[demo]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DemoTable {
    /// The flea market's services by name.
    pub services: BTreeMap<String, DemoService>,
}

/// `[demo.services.NAME]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
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
    /// Reads the file, what lies in `conf.d` beside it, and the environment.
    ///
    /// # Errors
    /// Exit 2, with the place in the file and the nearest known key.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        Layers::read(path)?.parse()
    }

    /// Parses the text of a file called `name`.
    #[cfg(test)]
    pub fn parse(text: &str, name: &str) -> Result<Self, CliError> {
        Layers::of_text(text, name)?.parse()
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
    fn says_who_is_told_of_requests_and_rejects_what_nobody_can_be() {
        let parse = |more: &str| Config::parse(&format!("{SMALL}{more}"), "c.toml");
        let config =
            parse("[log]\naccess = \"all\"\n[otlp]\nendpoint = \"http://c:4318\"\nratio = 1\n").unwrap();
        assert_eq!(config.log.unwrap().access, Access::All);
        assert!(config.otlp.is_some());
        let quiet = parse("").unwrap();
        assert!(quiet.log.is_none() && quiet.otlp.is_none());
        for bad in [
            "[log]\naccess = \"some\"",
            "[log]\nlevel = \"info\"",
            "[otlp]\nratio = 0.5",
            "[otlp]\nendpoint = \"https://c:4318\"",
            "[otlp]\nendpoint = \"http://c:4318\"\nratio = 1.5",
            "[otlp]\nendpoint = \"http://c:4318\"\ntoken = \"t\"",
        ] {
            assert_eq!(parse(bad).unwrap_err().code(), 2, "{bad}");
        }
    }

    #[test]
    fn reads_which_certificates_are_ordered_and_rejects_what_could_not_be() {
        let good = "[gateway.tls.acme]\ndirectory = \"https://ca.test/directory\"\nhosts = [\"shop.test\"]\nterms_of_service_agreed = true\n";
        let parse = |text: &str| Config::parse(&format!("{SMALL}{text}"), "c.toml");
        let settings = parse(good).unwrap().gateway.unwrap();
        let acme = settings.keeping_state_below(Path::new("/s")).tls.acme.unwrap();
        assert_eq!(acme.state_dir.as_deref(), Some(Path::new("/s/gateway-acme")));
        for (old, new, hint) in [
            ("= true", "= false", "terms_of_service_agreed must be true"),
            ("https://", "http://", "https url"),
            ("shop.test", "*.shop.test", "no DNS name of one host"),
            ("hosts", "host", "did you mean `hosts`?"),
        ] {
            let refused = parse(&good.replace(old, new)).unwrap_err();
            let said = refused.to_string();
            assert!(refused.code() == 2 && said.contains("c.toml:") && said.contains(hint), "{said}");
        }
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
        std::fs::write(&path, pad(1024 * 1024)).unwrap();
        assert!(Config::read(&path).is_ok());
        std::fs::write(&path, pad(1024 * 1024 + 1)).unwrap();
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
