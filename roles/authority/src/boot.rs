//! From settings to an open house, in an order that changes nothing before the master key has proven itself.
//!
//! First the master key is read, then the canary that lies beside the database is opened, then the database and the
//! canary in it, then every sealed key; only after that is anything made or written. A database without state is
//! founded in one transaction.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use countersign_identity::{TrustDomain, UnixTime};
use countersign_keys::{
    MasterKey, OpenError, Sealed, SystemRandom,
    envelope::{canary, check_canary},
    hash::hex,
    random_bytes,
};
use countersign_pki::{pem, profile::EdgeNames};
use countersign_store::{
    Db, StoreError,
    keys::{NewKey, SealedKey},
    meta::Founding,
};

use crate::{
    AuthorityError, Deployment, Settings,
    keys::{self, Keys, Sealer},
    master,
};

/// An opened deployment.
pub(crate) struct Booted {
    pub(crate) db: Db,
    pub(crate) master: MasterKey,
    pub(crate) keys: Keys,
    pub(crate) epoch: String,
}

/// Opens the deployment, or founds it where the database holds nothing.
pub(crate) async fn boot(
    settings: &Settings,
    deployment: &Deployment,
    now: UnixTime,
) -> Result<Booted, AuthorityError> {
    let home = &deployment.trust_domain;
    let master = master::read(&settings.master_key, &deployment.state_dir)?;
    let place = Place::of(settings, deployment);
    place.check_canary(&master, home, &settings.master_key)?;
    let db = place.open(home, settings).await?;
    let meta = match db.meta().await? {
        Some(meta) => meta,
        None => {
            place.refuse_neighbours(&db, home).await?;
            found(&db, home, &master, &edge_names(settings, home), now).await?;
            db.meta().await?.ok_or(StoreError::NotFounded)?
        }
    };
    check_canary(&master, home, &meta.canary)
        .map_err(|error| wrong_key(&settings.master_key, home, error))?;
    let keys = open_keys(&db, home, &master, now).await?;
    // From here on the master key is the right one, and things may be written.
    place.keep_canary(&meta.canary)?;
    let ca = pem::encode("CERTIFICATE", keys.edge_root.certificate());
    write_private(&deployment.state_dir.join("ca.pem"), ca.as_bytes())?;
    Ok(Booted { db, master, keys, epoch: meta.epoch })
}

/// Opens every key. A database of an earlier version gets those that it lacks, once all others have opened.
async fn open_keys(
    db: &Db,
    home: &TrustDomain,
    master: &MasterKey,
    now: UnixTime,
) -> Result<Keys, AuthorityError> {
    let rng = SystemRandom::new();
    let mut rows = db.keys().await?;
    let missing = keys::missing(&Sealer { trust_domain: home, master, rng: &rng }, &rows)?;
    if missing.is_empty() {
        return keys::open(home, master, &rows, now);
    }
    rows.extend(missing.iter().map(|key| stored(key, now)));
    let keys = keys::open(home, master, &rows, now)?;
    match db.add_keys(&missing, now).await {
        Ok(()) => Ok(keys),
        // Another authority on the same PostgreSQL was quicker: its keys are ours.
        Err(StoreError::Conflict { .. }) => keys::open(home, master, &db.keys().await?, now),
        Err(error) => Err(error.into()),
    }
}

/// A new key as it will lie in the database.
fn stored(key: &NewKey, now: UnixTime) -> SealedKey {
    let NewKey { purpose, version, sealed, public, certificate } = key.clone();
    SealedKey { purpose, version, sealed, public, certificate, created_at: now, retired_at: None }
}

/// What the edge root may ever certify: our own listener, the deployment's names, and loopback.
fn edge_names(settings: &Settings, home: &TrustDomain) -> EdgeNames {
    let own = edge_names_of_listener(settings);
    let mut dns = own.dns;
    dns.push(home.as_str().to_owned());
    dns.sort();
    dns.dedup();
    EdgeNames { dns, ips: own.ips }
}

/// What the API's certificate says.
pub(crate) fn edge_names_of_listener(settings: &Settings) -> EdgeNames {
    let mut dns = vec!["localhost".to_owned()];
    let mut ips = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    if !settings.listen.ip().is_unspecified() {
        ips.push(settings.listen.ip());
    }
    for name in &settings.names {
        match name.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => dns.push(name.to_ascii_lowercase()),
        }
    }
    dns.sort();
    dns.dedup();
    ips.sort();
    ips.dedup();
    EdgeNames { dns, ips }
}

async fn found(
    db: &Db,
    home: &TrustDomain,
    master: &MasterKey,
    edge_names: &EdgeNames,
    now: UnixTime,
) -> Result<(), AuthorityError> {
    let rng = SystemRandom::new();
    let ca = |error: &dyn std::fmt::Display| AuthorityError::Ca(error.to_string());
    let founding = Founding {
        epoch: hex(&random_bytes::<16>(&rng).map_err(|error| ca(&error))?),
        canary: canary(master, home, &rng).map_err(|error| ca(&error))?,
        keys: keys::make(&Sealer { trust_domain: home, master, rng: &rng }, edge_names, now)?,
    };
    match db.found(&founding, now).await {
        // Another authority on the same PostgreSQL was quicker: its state is ours.
        Ok(()) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Where the database is. Beside a database file lies a copy of its canary, because already opening a database
/// in WAL mode writes to its directory, and with a wrong key nothing may change.
enum Place {
    File { dir: PathBuf },
    Server,
}

impl Place {
    fn of(settings: &Settings, deployment: &Deployment) -> Self {
        match settings.database.as_str() {
            "sqlite" => Self::File { dir: deployment.state_dir.join("authority") },
            _ => Self::Server,
        }
    }

    fn database(dir: &Path) -> PathBuf {
        dir.join("authority.db")
    }

    fn canary(dir: &Path) -> PathBuf {
        dir.join("canary")
    }

    fn check_canary(
        &self,
        master: &MasterKey,
        home: &TrustDomain,
        key_file: &Path,
    ) -> Result<(), AuthorityError> {
        let Self::File { dir } = self else { return Ok(()) };
        let path = Self::canary(dir);
        let sealed = match fs::read(&path) {
            Ok(bytes) => Sealed::from_bytes(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(file_error(&path, &error)),
        };
        check_canary(master, home, &sealed).map_err(|error| wrong_key(key_file, home, error))?;
        if Self::database(dir).exists() {
            Ok(())
        } else {
            Err(AuthorityError::DatabaseGone { path: Self::database(dir) })
        }
    }

    async fn open(&self, home: &TrustDomain, settings: &Settings) -> Result<Db, AuthorityError> {
        Ok(match self {
            Self::File { dir } => {
                let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
                made.map_err(|error| file_error(dir, &error))?;
                Db::open_sqlite(&Self::database(dir), home).await?
            }
            Self::Server => Db::open_postgres(&settings.postgres_url()?, home).await?,
        })
    }

    /// A file belongs to one trust domain: another name in the configuration is a mistake, not a new deployment.
    async fn refuse_neighbours(&self, db: &Db, home: &TrustDomain) -> Result<(), AuthorityError> {
        let Self::File { .. } = self else { return Ok(()) };
        match db.trust_domains().await?.into_iter().next() {
            None => Ok(()),
            Some(found) => Err(AuthorityError::OtherTrustDomain {
                configured: home.to_string(),
                found: found.to_string(),
            }),
        }
    }

    fn keep_canary(&self, canary: &Sealed) -> Result<(), AuthorityError> {
        let Self::File { dir } = self else { return Ok(()) };
        let path = Self::canary(dir);
        if path.exists() { Ok(()) } else { write_private(&path, canary.as_bytes()) }
    }
}

fn wrong_key(key_file: &Path, home: &TrustDomain, error: OpenError) -> AuthorityError {
    let (path, trust_domain) = (key_file.to_owned(), home.to_string());
    match error {
        OpenError::WrongMasterKey | OpenError::WrongContext => {
            AuthorityError::MasterKeyWrong { path, trust_domain }
        }
        other => AuthorityError::SealedKeyDamaged { name: "canary".to_owned(), why: other.to_string() },
    }
}

/// Writes a file (0600) so that it is there completely or not at all.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), AuthorityError> {
    let write = || -> std::io::Result<()> {
        let draft = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(|error| file_error(path, &error))
}

fn file_error(path: &Path, error: &std::io::Error) -> AuthorityError {
    AuthorityError::File { path: path.to_owned(), why: error.to_string() }
}
