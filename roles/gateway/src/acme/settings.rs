//! The table `[gateway.tls.acme]`: which authority is asked for certificates of which hosts.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use rustls::pki_types::DnsName;
use schemars::JsonSchema;
use serde::Deserialize;

/// Certificates that are ordered, and renewed at two thirds of their life. What was read is right in itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Table")]
pub struct AcmeSettings {
    /// The authority's directory (RFC 8555 section 7.1.1): an `https` URL.
    pub directory: String,
    /// Whom the authority may tell of trouble: `mailto:` URLs.
    pub contact: Vec<String>,
    /// Names to get certificates for, one each, in lower case.
    pub hosts: Vec<String>,
    /// Where account, keys and certificates are kept.
    pub state_dir: Option<PathBuf>,
    /// PEM of the roots that the directory's own certificate must descend from; without it, those that this machine
    /// trusts.
    pub ca: Option<PathBuf>,
    /// Pause after an order that failed. It doubles each time in a row.
    pub retry_min: Duration,
    /// The longest pause, unless the authority asks for a longer one.
    pub retry_max: Duration,
}

/// The table as it is written.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    /// The authority's directory (RFC 8555 section 7.1.1): an `https` URL, for example
    /// `https://acme-v02.api.letsencrypt.org/directory`.
    directory: String,
    /// Whom the authority may tell of trouble: `mailto:` URLs.
    #[serde(default)]
    contact: Vec<String>,
    /// Names to get certificates for, one each; no wildcards.
    hosts: Vec<String>,
    /// That somebody read the terms of the authority and agrees to them.
    terms_of_service_agreed: bool,
    /// Where account, keys and certificates are kept (0700). Without it, `gateway-acme` below the file's `state_dir`.
    #[serde(default)]
    state_dir: Option<PathBuf>,
    /// PEM of the roots that the directory's own certificate must descend from; without it, those that this machine
    /// trusts.
    #[serde(default)]
    ca: Option<PathBuf>,
    /// Seconds after an order that failed until the next; they double each time in a row.
    #[serde(default = "minute")]
    retry_min_s: u64,
    /// The most seconds between two orders, unless the authority asks for more.
    #[serde(default = "quarter_of_a_day")]
    retry_max_s: u64,
}

/// Why a table orders nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcmeSettingsError {
    /// Nobody agreed.
    #[error("terms_of_service_agreed must be true: read the terms that the directory links to")]
    TermsNotAgreed,
    /// Not where an authority can be asked.
    #[error(
        "directory = \"{url}\" must be an https url without fragment, such as https://acme-v02.api.letsencrypt.org/directory"
    )]
    Directory {
        /// As configured.
        url: String,
    },
    /// No host, or too many.
    #[error("hosts: {count}, and there must be from 1 to {HOSTS_MAX}")]
    HostCount {
        /// How many.
        count: usize,
    },
    /// Not a name that tls-alpn-01 can validate.
    #[error("hosts: \"{host}\" is no DNS name of one host; addresses and wildcards are not ordered")]
    Host {
        /// As configured.
        host: String,
    },
    /// One name, two orders.
    #[error("hosts: \"{host}\" stands there twice; keep one")]
    Twice {
        /// In lower case.
        host: String,
    },
    /// Not somebody who can be written to.
    #[error("contact: \"{contact}\" must be a mailto: url with one address, such as mailto:ops@example.com")]
    Contact {
        /// As configured.
        contact: String,
    },
    /// Orders would be repeated without a pause, or never.
    #[error("retry_min_s must be at least 1, and retry_max_s no less than that and at most a day")]
    Pauses,
}

impl TryFrom<Table> for AcmeSettings {
    type Error = AcmeSettingsError;

    fn try_from(table: Table) -> Result<Self, AcmeSettingsError> {
        if !table.terms_of_service_agreed {
            return Err(AcmeSettingsError::TermsNotAgreed);
        }
        if !is_directory(&table.directory) {
            return Err(AcmeSettingsError::Directory { url: table.directory });
        }
        if let Some(contact) = table.contact.iter().find(|contact| !is_contact(contact)) {
            return Err(AcmeSettingsError::Contact { contact: contact.clone() });
        }
        let pauses = table.retry_min_s..=table.retry_max_s;
        if *pauses.start() == 0 || pauses.is_empty() || *pauses.end() > RETRY_S_MAX {
            return Err(AcmeSettingsError::Pauses);
        }
        Ok(AcmeSettings {
            directory: table.directory,
            contact: table.contact,
            hosts: hosts(&table.hosts)?,
            state_dir: table.state_dir,
            ca: table.ca,
            retry_min: Duration::from_secs(table.retry_min_s),
            retry_max: Duration::from_secs(table.retry_max_s),
        })
    }
}

fn hosts(named: &[String]) -> Result<Vec<String>, AcmeSettingsError> {
    if !(1..=HOSTS_MAX).contains(&named.len()) {
        return Err(AcmeSettingsError::HostCount { count: named.len() });
    }
    let mut hosts = Vec::with_capacity(named.len());
    for name in named {
        let host = name.to_ascii_lowercase();
        if DnsName::try_from(host.as_str()).is_err() || host.ends_with('.') {
            return Err(AcmeSettingsError::Host { host: name.clone() });
        }
        if hosts.contains(&host) {
            return Err(AcmeSettingsError::Twice { host });
        }
        hosts.push(host);
    }
    Ok(hosts)
}

fn is_directory(url: &str) -> bool {
    let uri: Option<Uri> = url.parse().ok();
    let is_https = uri.is_some_and(|uri| uri.scheme() == Some(&Scheme::HTTPS) && uri.host().is_some());
    is_https && !url.contains(['#', '@'])
}

/// RFC 8555 section 7.3: no header fields, one address.
fn is_contact(contact: &str) -> bool {
    let address = contact.strip_prefix("mailto:").unwrap_or_default();
    let named = address.split_once('@').is_some_and(|(local, host)| !local.is_empty() && !host.is_empty());
    named && address.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b','))
}

fn minute() -> u64 {
    60
}

fn quarter_of_a_day() -> u64 {
    6 * 3600
}

/// Hosts of one edge: each is an order of its own.
const HOSTS_MAX: usize = 100;
/// A day.
const RETRY_S_MAX: u64 = 24 * 3600;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TABLE: &str = "directory = \"https://ca.test/directory\"\nhosts = [\"Shop.test\", \"www.shop.test\"]\n\
                         contact = [\"mailto:ops@shop.test\"]\nterms_of_service_agreed = true\n";

    fn read(text: &str) -> Result<AcmeSettings, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    fn judged(change: impl FnOnce(&mut Table)) -> Result<AcmeSettings, AcmeSettingsError> {
        let mut table: Table = toml::from_str(TABLE).unwrap();
        change(&mut table);
        table.try_into()
    }

    #[test]
    fn accepts_a_table_and_its_defaults() {
        let read = read(TABLE).unwrap();
        assert_eq!(read.hosts, ["shop.test", "www.shop.test"]);
        assert_eq!((read.retry_min.as_secs(), read.retry_max.as_secs()), (60, 21600));
        assert!(judged(|table| table.hosts = vec!["localhost".into()]).is_ok());
    }

    #[test]
    fn refuses_an_unknown_field_and_a_missing_one() {
        assert!(read(&format!("{TABLE}challenge = \"dns-01\"\n")).unwrap_err().contains("unknown field"));
        assert!(read(&TABLE.replace("terms_of_service_agreed = true", "")).unwrap_err().contains("missing"));
        let refused = read(&TABLE.replace("true", "false")).unwrap_err();
        assert!(refused.contains("terms_of_service_agreed must be true"), "{refused}");
    }

    #[test]
    fn refuses_what_could_not_be_ordered() {
        let text = |text: &str| text.to_owned();
        assert_eq!(judged(|t| t.terms_of_service_agreed = false), Err(AcmeSettingsError::TermsNotAgreed));
        for url in ["http://ca.test/directory", "ca.test", "https://ca.test/#a", "https://me@ca.test/", ""] {
            assert_eq!(
                judged(|t| t.directory = text(url)),
                Err(AcmeSettingsError::Directory { url: text(url) }),
                "{url}"
            );
        }
        for host in ["*.shop.test", "127.0.0.1", "shop.test.", "", "a b", "::1"] {
            assert_eq!(
                judged(|t| t.hosts = vec![text(host)]),
                Err(AcmeSettingsError::Host { host: text(host) }),
                "{host}"
            );
        }
        assert_eq!(judged(|t| t.hosts = vec![]), Err(AcmeSettingsError::HostCount { count: 0 }));
        let many = |n: usize| (0..n).map(|n| format!("h{n}.test")).collect();
        assert!(judged(|t| t.hosts = many(100)).is_ok());
        assert_eq!(judged(|t| t.hosts = many(101)), Err(AcmeSettingsError::HostCount { count: 101 }));
        let twice = judged(|t| t.hosts = vec![text("a.test"), text("A.test")]);
        assert_eq!(twice, Err(AcmeSettingsError::Twice { host: text("a.test") }));
        for contact in ["ops@shop.test", "mailto:", "mailto:a@b?subject=x", "mailto:a@b,c@d", "tel:+4312345"]
        {
            let refused = Err(AcmeSettingsError::Contact { contact: text(contact) });
            assert_eq!(judged(|t| t.contact = vec![text(contact)]), refused, "{contact}");
        }
        for (min, max) in [(0, 10), (11, 10), (1, 86401)] {
            let refused = judged(|t| (t.retry_min_s, t.retry_max_s) = (min, max));
            assert_eq!(refused, Err(AcmeSettingsError::Pauses), "{min} {max}");
        }
        assert!(judged(|t| (t.retry_min_s, t.retry_max_s) = (1, 86400)).is_ok());
    }
}
