//! An identity from plain PEM files: for those who have certificates already, without agent and authority.
//!
//! The files are what the agent and its snapshot are elsewhere: who we are (certificate and key), whom we believe
//! (roots, and revocation lists if there are any) and whom we let do what (a directory of `NAME.cedar`). They are
//! looked at every second and swapped as a whole; what cannot be used keeps the old ones in force and is said once.
//!
//! | | with an agent | from files |
//! |---|---|---|
//! | modes | as the snapshot says | [`FileIdentity::accepts`]; we send `mtls` |
//! | revocation | lists are required | required where [`FileIdentity::crl`] is set, otherwise unknown is good enough |
//! | how long it counts | until the snapshot is stale | until our own certificate has expired, and the usual grace |
//! | ledger | shipped to the authority | stays on this disk; the oldest files go when it is full, and that is recorded |
//! | issued tokens, secrets, exchange | yes | refused with [`crate::agent::AgentError::NoAgent`] |

mod contents;
mod watch;

use std::{path::PathBuf, sync::Arc};

use countersign_identity::{IdKind, Mode, ServiceName, SpiffeId, TrustDomain};
use countersign_keys::{SystemRandom, random_bytes};
use countersign_pki::verify::CrlPolicy;
use countersign_policy::PolicyError;
use countersign_wire::snapshot::{AccessTokenKeys, FORMAT, Policies, Revoked, ServiceAddress, Snapshot};
use thiserror::Error;

use super::{Inner, Workload, connect::Parts, target_of};
use crate::{
    agent::AgentApi,
    live::{CompileError, Live, LiveCell},
    outbound::CallLimits,
    policy_dir::PolicyDirError,
    spool::{Spool, SpoolError, SpoolLimits},
    tls::{IdentityError, TrustState, pem::PemFileError},
};
use contents::{Contents, Loaded};
use watch::{Look, Watching};

/// Where a workload without an agent finds what it is.
#[derive(Clone, Debug)]
pub struct FileIdentity {
    /// Its X.509-SVID, leaf first, then intermediates. Any path: `spiffe://mesh.test/server`.
    pub cert: PathBuf,
    /// The key of the leaf: P-256, PKCS#8.
    pub key: PathBuf,
    /// Roots of the leaf's own trust domain: whom we believe.
    pub ca: PathBuf,
    /// Revocation lists of that trust domain. With them, a certificate of whose issuer there is no current list is
    /// refused; without them, nobody is revoked.
    pub crl: Option<PathBuf>,
    /// Directory of the policies, one `NAME.cedar` for each target, of which ours counts here. Without it nobody is
    /// let do anything.
    pub policy_dir: Option<PathBuf>,
    /// Ours alone (mode 0700): ledger records lie below it.
    pub state_dir: PathBuf,
    /// The name under which policies speak of us; by default the one in the certificate: that of a service or gateway,
    /// otherwise the last segment of its path.
    pub name: Option<ServiceName>,
    /// How callers may prove themselves to us.
    pub accepts: Vec<Mode>,
    /// Whom we call by name.
    pub services: Vec<FileService>,
    /// Limits of outgoing calls.
    pub calls: CallLimits,
    /// Limits of the spool.
    pub spool: SpoolLimits,
}

/// A service that is called by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileService {
    /// Its short name.
    pub name: ServiceName,
    /// Whom we expect there.
    pub spiffe_id: SpiffeId,
    /// `host:port`.
    pub address: String,
}

/// Why files do not make a workload. Of new files: why the old ones stay.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FilesError {
    /// A file of certificates, keys or revocation lists.
    #[error(transparent)]
    Pem(#[from] PemFileError),
    /// Certificate and key do not make an identity.
    #[error("{cert} and {key} are no identity: {source}", cert = cert.display(), key = key.display())]
    Identity {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong with them.
        source: IdentityError,
    },
    /// The certificate has ended.
    #[error("certificate in {cert} has expired: put a new one there", cert = cert.display())]
    Expired {
        /// The file.
        cert: PathBuf,
    },
    /// A new certificate of somebody else.
    #[error("certificate in {cert} is that of {got}, we are {want}: restart to become somebody else", cert = cert.display())]
    OtherId {
        /// The file.
        cert: PathBuf,
        /// Who we are.
        want: SpiffeId,
        /// Whom it names.
        got: SpiffeId,
    },
    /// The path of our id ends with nothing that policies could call us.
    #[error(
        "{id} ends with no name that a policy file can have: set the name under which policies speak of it"
    )]
    NoName {
        /// Who we are.
        id: SpiffeId,
    },
    /// The directory of policies, or a file in it.
    #[error(transparent)]
    Policies(#[from] PolicyDirError),
    /// Policies that do not fit the schema, or each other.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Roots or revocation lists.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// No place for ledger records.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The machine gave no randomness.
    #[error("there is no randomness to be had")]
    NoRandomness,
}

impl FileIdentity {
    /// These files and the usual settings: no policies, no other services, callers prove themselves by mutual TLS.
    #[must_use]
    pub fn new(cert: PathBuf, key: PathBuf, ca: PathBuf, state_dir: PathBuf) -> Self {
        Self {
            cert,
            key,
            ca,
            crl: None,
            policy_dir: None,
            state_dir,
            name: None,
            accepts: vec![Mode::Mtls],
            services: Vec::new(),
            calls: CallLimits::default(),
            spool: SpoolLimits::default(),
        }
    }

    const fn crl_policy(&self) -> CrlPolicy {
        if self.crl.is_some() { CrlPolicy::Require } else { CrlPolicy::AcceptMissing }
    }

    /// The snapshot that an authority would have sent.
    fn snapshot(&self, home: &Home, sequence: u64, loaded: &Loaded) -> Snapshot {
        let service = |name: &ServiceName, spiffe_id: &SpiffeId, address: &str, accepts: Vec<Mode>| {
            let (name, spiffe_id, address) = (name.clone(), spiffe_id.clone(), address.to_owned());
            let (user_context, wimse) = Default::default();
            ServiceAddress { name, spiffe_id, address, accepts, sends: Mode::Mtls, user_context, wimse }
        };
        let callees =
            self.services.iter().map(|s| service(&s.name, &s.spiffe_id, &s.address, vec![Mode::Mtls]));
        let own = service(&home.name, &home.id, "", self.accepts.clone());
        Snapshot {
            format: FORMAT,
            trust_domain: home.trust_domain().clone(),
            epoch: home.epoch.clone(),
            sequence,
            issued_at: crate::clock::now(),
            // Files do not become stale; the certificate among them does.
            valid_until: loaded.not_after,
            critical: Vec::new(),
            bundles: vec![loaded.bundle.clone()],
            access_token: AccessTokenKeys {
                issuer: String::new(),
                audience: String::new(),
                keys: Vec::new(),
            },
            internal_token_keys: Vec::new(),
            services: callees.filter(|callee| callee.name != home.name).chain([own]).collect(),
            policies: Policies { generation: sequence, files: loaded.policies.clone() },
            ledger_head: None,
            pseudonym_key: None,
            token_authorities: Vec::new(),
            workload_keys: Vec::new(),
            revoked: Revoked::default(),
            sts: None,
        }
    }
}

/// Who we are for as long as this process lives.
#[derive(Clone, Debug)]
struct Home {
    id: SpiffeId,
    name: ServiceName,
    epoch: String,
}

impl Home {
    fn of(id: &SpiffeId, name: Option<&ServiceName>) -> Result<Self, FilesError> {
        let by_certificate = || match id.kind() {
            IdKind::Service(_) | IdKind::Gateway(_) => ServiceName::parse(&target_of(id)).ok(),
            _ => ServiceName::parse(id.path().rsplit('/').next().unwrap_or_default()).ok(),
        };
        let name = name.cloned().or_else(by_certificate);
        let name = name.ok_or_else(|| FilesError::NoName { id: id.clone() })?;
        let epoch: [u8; 16] = random_bytes(&SystemRandom::new()).map_err(|_| FilesError::NoRandomness)?;
        Ok(Self { id: id.clone(), name, epoch: format!("{:032x}", u128::from_be_bytes(epoch)) })
    }

    const fn trust_domain(&self) -> &TrustDomain {
        self.id.trust_domain()
    }
}

impl Workload {
    /// Gets an identity from files, and watches them.
    ///
    /// # Errors
    /// See [`FilesError`].
    pub async fn from_files(files: FileIdentity) -> Result<Self, FilesError> {
        crate::tls::install_provider();
        let (parts, watching) = open(files)?;
        let inner = Inner::assemble(parts);
        inner.until_shutdown(watching.run());
        Ok(Self(Arc::new(inner)))
    }
}

fn open(files: FileIdentity) -> Result<(Parts, Watching), FilesError> {
    let (look, contents) = Look::first(&files)?;
    let loaded = contents.judge(&files, None)?;
    let home = Home::of(&loaded.id, files.name.as_ref())?;
    let target = home.name.to_string();
    let live = Live::compile(files.snapshot(&home, 1, &loaded), Some(&target))?;
    let trust = TrustState::new(live.bundles().clone(), files.crl_policy());
    trust.set_identity(loaded.identity);
    let spool = files.state_dir.join("spool").join(&target);
    let spool = Spool::open_local(spool, home.id.clone(), files.spool)?;
    let live = LiveCell::new(live);
    let (id, calls, agent) = (home.id.clone(), files.calls, AgentApi::none());
    let watching = Watching::new(files, home, look, Arc::clone(&trust), Arc::clone(&live));
    let signing_key = None;
    Ok((Parts { id, target, trust, live, agent, spool, calls, signing_key }, watching))
}
