//! Column ca: `cert list|issue|revoke`, `ca bundle`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use countersign_identity::ServiceName;
use countersign_keys::{KeyPair, SystemRandom};
use countersign_wire::Base64;
use countersign_wire::api::Page;
use countersign_wire::api::certificates::{
    Bundle, Certificate, EdgeNames, IssueCertificate, IssuedCertificate, Revoke, Revoked,
};

use crate::cli::{At, read_input};
use crate::error::CliError;
use crate::output::{self, Format};
use crate::pem;
use crate::up::write_private;

const CSR_BYTES_MAX: u64 = 16 * 1024;

/// `cert …`
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Certificates that were issued, newest first
    List {
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Issue a certificate by hand: for tests, and for servers without an agent
    Issue(IssueArgs),
    /// Revoke one certificate, or all of a service; open connections are cut within two seconds
    Revoke(RevokeArgs),
}

/// `cert issue`
#[derive(Debug, Args)]
pub struct IssueArgs {
    /// The registered service to certify
    #[arg(long, value_name = "NAME", required_unless_present = "dns")]
    service: Option<ServiceName>,
    /// `workload` (clientAuth and serverAuth), `server` (serverAuth alone: no peer accepts it as a caller), or `signing`
    /// (a key that signs tokens and requests, and is good for no TLS)
    #[arg(long, value_enum, default_value_t = Profile::Workload)]
    profile: Profile,
    /// Lifetime, from 1m to 24h
    #[arg(long, default_value = "1h", value_parser = countersign_authority::parse_duration)]
    ttl: Duration,
    /// A PKCS#10 request, PEM or DER; without it a new key is made and written beside the certificate
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// A DNS name of an HTTPS server, to be certified under the edge root instead
    #[arg(long, value_name = "NAME", conflicts_with = "service")]
    dns: Vec<String>,
    /// An IP address of that server
    #[arg(long, value_name = "ADDRESS", requires = "dns")]
    ip: Vec<String>,
    /// Where cert.pem (leaf first), bundle.pem and, without --csr, key.pem are written
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Profile {
    Workload,
    Server,
    Signing,
}

/// `cert revoke`
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// A service's short name, or a serial number in hex
    #[arg(value_name = "SERVICE|SERIAL")]
    what: String,
    /// RFC 5280 reason: keyCompromise, cACompromise, affiliationChanged, superseded, cessationOfOperation,
    /// privilegeWithdrawn, unspecified
    #[arg(long, default_value = "unspecified")]
    reason: String,
}

/// `ca …`
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// The roots that peers trust, PEM
    Bundle {
        /// The root of the edge and the API instead: what a browser or curl needs
        #[arg(long, conflicts_with = "crl")]
        edge: bool,
        /// The newest revocation list instead
        #[arg(long)]
        crl: bool,
    },
}

/// Runs `cert …`.
///
/// # Errors
/// Exit 3 or 4 from the authority, 2 for files.
pub async fn cert(at: &At, command: CertCommand) -> Result<(), CliError> {
    match command {
        CertCommand::List { limit } => list(at, limit).await,
        CertCommand::Issue(args) => issue(at, args).await,
        CertCommand::Revoke(args) => revoke(at, args).await,
    }
}

/// Runs `ca …`.
///
/// # Errors
/// Exit 3 or 4 from the authority.
pub async fn ca(at: &At, command: CaCommand) -> Result<(), CliError> {
    let CaCommand::Bundle { edge, crl } = command;
    let bundle: Bundle = at.admin.get("/api/v1/bundle").await?;
    let (label, ders) = match (edge, crl) {
        (true, _) => ("CERTIFICATE", &bundle.edge_roots),
        (_, true) => ("X509 CRL", &bundle.crls),
        _ => ("CERTIFICATE", &bundle.roots),
    };
    output::raw(pem_of(label, ders).as_bytes());
    Ok(())
}

async fn list(at: &At, limit: u32) -> Result<(), CliError> {
    let page: Page<Certificate> = at.admin.get(&format!("/api/v1/certificates?limit={limit}")).await?;
    if at.output == Format::Json {
        return output::json(&page.items, false);
    }
    output::table(
        ["SERIAL", "IDENTITY", "PROFILE", "EXPIRES", "STATE"],
        page.items.into_iter().map(|c| {
            let state = match (&c.revoked_at, &c.reason) {
                (Some(_), reason) => format!("revoked ({})", reason.as_deref().unwrap_or("unspecified")),
                (None, _) if c.not_after < countersign_sdk::clock::now() => "expired".to_owned(),
                (None, _) => "valid".to_owned(),
            };
            let identity = c.spiffe_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
            [c.serial, identity, c.profile, output::moment(c.not_after), state]
        }),
    )
}

/// A certificate of `service` and its key, as `cert issue` writes them.
///
/// # Errors
/// As `cert issue`.
pub async fn issue_for(at: &At, service: &str, ttl: Duration, out: &Path) -> Result<(), CliError> {
    let service = service.parse().map_err(|e| CliError::usage(format!("{service} is no service"), e, ""))?;
    let out = out.to_owned();
    let args = IssueArgs {
        service: Some(service),
        profile: Profile::Workload,
        ttl,
        csr: None,
        dns: Vec::new(),
        ip: Vec::new(),
        out,
    };
    write_issued(at, args).await.map(|_| ())
}

async fn issue(at: &At, args: IssueArgs) -> Result<(), CliError> {
    let out = args.out.clone();
    let certificate = write_issued(at, args).await?;
    if at.output == Format::Json {
        return output::json(&certificate, false);
    }
    let who = certificate.spiffe_id.map_or_else(|| "edge server".to_owned(), |id| id.to_string());
    output::line(who);
    output::line(format!("  serial  {}", certificate.serial));
    output::line(format!("  until   {}", output::moment(certificate.not_after)));
    output::line(format!("  files   {}", out.display()));
    Ok(())
}

async fn write_issued(at: &At, args: IssueArgs) -> Result<Certificate, CliError> {
    let (csr, key) = match &args.csr {
        Some(file) => (
            pem::one(&read_input(file, CSR_BYTES_MAX)?, &["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"]),
            None,
        ),
        None => {
            let key = new_key()?;
            (csr_for(&key)?, Some(key))
        }
    };
    let request = IssueCertificate {
        service: args.service,
        edge: (!args.dns.is_empty()).then_some(EdgeNames { dns: args.dns, ips: args.ip }),
        csr: Base64(csr),
        profile: match args.profile {
            Profile::Workload => None,
            Profile::Server => Some("server".to_owned()),
            Profile::Signing => Some("signing".to_owned()),
        },
        ttl_s: Some(args.ttl.as_secs()),
    };
    let issued: IssuedCertificate = at.admin.post("/api/v1/certificates", &request).await?;
    std::fs::create_dir_all(&args.out).map_err(|e| {
        CliError::usage(format!("cannot make {}", args.out.display()), e, "choose another --out")
    })?;
    write_private(&args.out.join("cert.pem"), pem_of("CERTIFICATE", &issued.chain).as_bytes())?;
    write_private(&args.out.join("bundle.pem"), pem_of("CERTIFICATE", &issued.roots).as_bytes())?;
    if let Some(key) = key {
        write_private(&args.out.join("key.pem"), &key_pem(&key)?)?;
    }
    Ok(issued.certificate)
}

async fn revoke(at: &At, args: RevokeArgs) -> Result<(), CliError> {
    let mut request = Revoke { reason: Some(args.reason), ..Revoke::default() };
    let is_serial = args.what.len() >= 16 && args.what.bytes().all(|b| b.is_ascii_hexdigit());
    if is_serial {
        request.serial = Some(args.what.to_ascii_lowercase());
    } else {
        request.service = Some(args.what.parse().map_err(|e| {
            CliError::usage(
                format!("{} is neither a service nor a serial number", args.what),
                e,
                "countersign cert list",
            )
        })?);
    }
    let revoked: Revoked = at.admin.post("/api/v1/certificates/revoke", &request).await?;
    if at.output == Format::Json {
        return output::json(&revoked, false);
    }
    for serial in &revoked.serials {
        output::line(format!("revoked {serial}"));
    }
    output::line(format!("revocation list {} is signed and on its way to every process", revoked.crl_number));
    Ok(())
}

/// A new P-256 key.
///
/// # Errors
/// Where the system has no randomness.
pub fn new_key() -> Result<KeyPair, CliError> {
    KeyPair::generate(&SystemRandom::new())
        .map_err(|e| CliError::failed("no key can be made", e, "try again"))
}

/// A request that proves possession of `key` and asks for nothing else: the authority sets the content.
///
/// # Errors
/// Where signing fails.
pub fn csr_for(key: &KeyPair) -> Result<Vec<u8>, CliError> {
    countersign_pki::csr::make(key, None)
        .map_err(|e| CliError::failed("no request can be made", e, "report this"))
}

/// The key as PKCS#8 PEM.
///
/// # Errors
/// Where the key cannot be written out.
pub fn key_pem(key: &KeyPair) -> Result<Vec<u8>, CliError> {
    let der =
        key.to_pkcs8().map_err(|e| CliError::failed("the key cannot be written out", e, "report this"))?;
    Ok(pem::encode("PRIVATE KEY", der.expose()).into_bytes())
}

/// Certificates or lists as PEM, one after the other.
pub fn pem_of(label: &str, ders: &[Base64]) -> String {
    ders.iter().map(|der| pem::encode(label, der.as_slice())).collect()
}
