//! A database of its own for every test, and the things that tests store.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_identity::{SpiffeId, TrustDomain, UnixTime};
use countersign_keys::{MasterKey, SealContext, Sealed, SystemRandom};
use countersign_ledger::{BootId, Event, Record, Writer};
use countersign_store::Db;
use countersign_store::certificates::Certificate;
use countersign_store::keys::{NewKey, SealedKey};
use countersign_store::meta::Founding;
use countersign_testkit::{Postgres, TempDir};

/// A founded database, and where it is.
pub(crate) struct Ground {
    pub(crate) db: Db,
    place: Place,
    pub(crate) home: TrustDomain,
}

enum Place {
    File(TempDir),
    Server(String),
}

/// The moment at which tests happen.
pub(crate) const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

impl Ground {
    pub(crate) async fn sqlite() -> Ground {
        Ground::founded(Place::File(countersign_testkit::temp_dir())).await
    }

    pub(crate) async fn postgres() -> Option<Ground> {
        let server = Postgres::shared()?;
        Some(Ground::founded(Place::Server(server.database())).await)
    }

    async fn founded(place: Place) -> Ground {
        let home = TrustDomain::parse("fleamarket.test").unwrap();
        let db = open(&place, &home).await;
        db.found(&founding(&home), NOW).await.unwrap();
        Ground { db, place, home }
    }

    /// The same database through new connections, as after a restart.
    pub(crate) async fn reopened(&self) -> Db {
        open(&self.place, &self.home).await
    }

    /// Runs statements that the store would never run.
    pub(crate) async fn tamper(&self, sql: &'static str) {
        sqlx::any::install_default_drivers();
        let pool = sqlx::AnyPool::connect(&self.url()).await.unwrap();
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        pool.close().await;
    }

    pub(crate) fn url(&self) -> String {
        match &self.place {
            Place::File(_) => format!("sqlite://{}", self.file().unwrap().display()),
            Place::Server(url) => url.clone(),
        }
    }

    /// The database file, if it is one.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        match &self.place {
            Place::File(dir) => Some(dir.path().join("authority.db")),
            Place::Server(_) => None,
        }
    }

    pub(crate) fn id(&self, name: &str) -> SpiffeId {
        SpiffeId::service(&self.home, name).unwrap()
    }

    /// A writer's chain of its own.
    pub(crate) fn writer(&self) -> Writer {
        static BOOTS: AtomicU64 = AtomicU64::new(1);
        let mut boot = [0; 16];
        boot[..8].copy_from_slice(&BOOTS.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        Writer::start(SpiffeId::authority(&self.home), BootId::from_random(boot))
    }

    /// One record of a writer that nothing else has used.
    pub(crate) fn record(&self) -> Record {
        event(&mut self.writer())
    }
}

/// The next record of a writer; which event does not matter.
pub(crate) fn event(writer: &mut Writer) -> Record {
    writer.append(&Event::ClockSteppedBack { by_ms: 7 }, NOW).unwrap()
}

async fn open(place: &Place, home: &TrustDomain) -> Db {
    match place {
        Place::File(dir) => Db::open_sqlite(&dir.path().join("authority.db"), home).await.unwrap(),
        Place::Server(url) => Db::open_postgres(url, home).await.unwrap(),
    }
}

pub(crate) fn founding(home: &TrustDomain) -> Founding {
    Founding {
        epoch: "e1".to_owned(),
        canary: sealed(home, "canary", 1, b"canary"),
        keys: vec![key(home, "issuing-ca", 1)],
    }
}

pub(crate) fn key(home: &TrustDomain, purpose: &str, version: u32) -> NewKey {
    NewKey {
        purpose: purpose.to_owned(),
        version,
        sealed: sealed(home, purpose, version, SECRET),
        public: Some("{\"kty\":\"EC\"}".to_owned()),
        certificate: Some(vec![0x30, 0x00]),
    }
}

/// What must never be found at rest.
pub(crate) const SECRET: &[u8] = b"this-is-the-private-key";

pub(crate) fn master() -> MasterKey {
    static MASTER: std::sync::OnceLock<MasterKey> = std::sync::OnceLock::new();
    MASTER.get_or_init(|| MasterKey::generate(&SystemRandom::new()).unwrap()).clone()
}

pub(crate) fn sealed(home: &TrustDomain, purpose: &str, version: u32, plaintext: &[u8]) -> Sealed {
    let row_id = SealedKey::row_id(purpose, version);
    let context = SealContext { trust_domain: home, purpose, row_id: &row_id, key_version: version };
    Sealed::seal(&master(), context, plaintext, &SystemRandom::new()).unwrap()
}

/// A certificate that lives for an hour from [`NOW`].
pub(crate) fn certificate(serial: &str, spiffe_id: &SpiffeId) -> Certificate {
    Certificate {
        serial: serial.to_owned(),
        spiffe_id: Some(spiffe_id.clone()),
        profile: "workload".to_owned(),
        issuer: "ca01".to_owned(),
        thumbprint: format!("{serial:0>64}"),
        key: format!("key-of-{serial}"),
        der: vec![0x30, 0x03, 0x02, 0x01, 0x07],
        requested_by: "uid:0".to_owned(),
        issued_at: NOW,
        not_before: UnixTime::from_secs(NOW.secs() - 60),
        not_after: UnixTime::from_secs(NOW.secs() + 3600),
        revocation: None,
    }
}

/// `NOW` and some seconds.
pub(crate) fn later(seconds: i64) -> UnixTime {
    UnixTime::from_secs(NOW.secs() + seconds)
}
