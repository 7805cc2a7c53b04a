//! The authority's keys: made once, sealed under the master key, opened at every start.
//!
//! | purpose | what it does | which versions are opened |
//! |---|---|---|
//! | `workload-root` | signs issuing CAs | the newest |
//! | `issuing-ca` | signs workloads' certificates and CRLs | all that have not expired: an old CA still revokes |
//! | `edge-root` | signs HTTPS certificates of gateways and of this API | the newest |
//! | `snapshot` | signs snapshots | all |
//! | `access-token` | signs users' access tokens | all |
//! | `exchange` | signs what the token service issues by exchange | all |
//! | `txn` | signs transaction tokens that the token service issues | all |
//! | `wit` | signs workload identity tokens | all |
//! | `jwt-svid` | signs JWT-SVIDs | all |
//! | `macaroon-root` | roots of macaroons are derived from it, one for each callee | all |
//! | `bearer-hash` | keys under which bearer tokens are hashed are derived from it, one for each callee | the newest |
//! | `dpop-nonce` | makes the nonces that DPoP proofs must carry | the newest |
//! | `ledger` | signs heads of the ledger | all |
//! | `pepper` | goes into every password hash | all |
//! | `pseudonym` | turns user ids into pseudonyms | the newest |
//!
//! A database of an earlier version lacks the purposes of [`ADDED_SINCE`]: they are made at the next start.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_accounts::{Pepper, Peppers};
use countersign_identity::{TrustDomain, UnixTime};
use countersign_keys::{
    KeyPair, MasterKey, OpenError, SealContext, Sealed, Secret, SecureRandom, random_bytes,
};
use countersign_ledger::PseudonymKey;
use countersign_pki::{
    issue::{self, Issuer, Root},
    profile::EdgeNames,
};
use countersign_store::keys::{NewKey, SealedKey};
use rustls_pki_types::CertificateDer;

use crate::AuthorityError;

const WORKLOAD_ROOT: &str = "workload-root";
const ISSUING_CA: &str = "issuing-ca";
const EDGE_ROOT: &str = "edge-root";
const SNAPSHOT: &str = "snapshot";
const ACCESS_TOKEN: &str = "access-token";
const LEDGER: &str = "ledger";
const PEPPER: &str = "pepper";
const PSEUDONYM: &str = "pseudonym";
const EXCHANGE: &str = "exchange";
const TXN: &str = "txn";
const DPOP_NONCE: &str = "dpop-nonce";
const WIT: &str = "wit";
const JWT_SVID: &str = "jwt-svid";
const MACAROON_ROOT: &str = "macaroon-root";
const BEARER_HASH: &str = "bearer-hash";

/// Purposes that the first version did not have, with what is made for each.
const ADDED_SINCE: [(&str, Material); 7] = [
    (EXCHANGE, Material::KeyPair),
    (TXN, Material::KeyPair),
    (DPOP_NONCE, Material::Secret),
    (WIT, Material::KeyPair),
    (JWT_SVID, Material::KeyPair),
    (MACAROON_ROOT, Material::Secret),
    (BEARER_HASH, Material::Secret),
];

/// What a purpose needs.
#[derive(Clone, Copy)]
enum Material {
    KeyPair,
    /// 32 random bytes.
    Secret,
}

/// Every key, open. Private halves never leave this process.
pub(crate) struct Keys {
    pub(crate) workload_root: Arc<Issuer>,
    /// Newest last; never empty.
    pub(crate) issuing: Vec<Arc<Issuer>>,
    /// Version of the newest issuing CA.
    pub(crate) issuing_version: u32,
    pub(crate) edge_root: Arc<Issuer>,
    pub(crate) snapshot: Signing,
    pub(crate) access_token: Signing,
    pub(crate) exchange: Signing,
    pub(crate) txn: Signing,
    pub(crate) dpop_nonce: Secret<[u8; 32]>,
    pub(crate) wit: Signing,
    pub(crate) jwt_svid: Signing,
    /// By version, newest first; never empty.
    pub(crate) macaroon_roots: Vec<(u32, Secret<[u8; 32]>)>,
    pub(crate) bearer_hash: Secret<[u8; 32]>,
    pub(crate) ledger: Signing,
    pub(crate) peppers: Peppers,
    pub(crate) pseudonym: PseudonymKey,
    /// The same key for the data planes, which write records too: base64url.
    pub(crate) pseudonym_text: Secret<String>,
}

/// Keys of one purpose: the newest signs, all verify.
pub(crate) struct Signing {
    current: KeyPair,
    older: Vec<KeyPair>,
}

impl Signing {
    /// Signs now.
    pub(crate) fn current(&self) -> &KeyPair {
        &self.current
    }

    /// All of them, the signing one first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &KeyPair> {
        std::iter::once(&self.current).chain(&self.older)
    }
}

/// Seals secrets for this deployment.
pub(crate) struct Sealer<'a> {
    pub(crate) trust_domain: &'a TrustDomain,
    pub(crate) master: &'a MasterKey,
    pub(crate) rng: &'a dyn SecureRandom,
}

/// The first version of every key; the edge root may certify `edge_names`, and what lies below its DNS names.
pub(crate) fn make(
    sealer: &Sealer<'_>,
    edge_names: &EdgeNames,
    now: UnixTime,
) -> Result<Vec<NewKey>, AuthorityError> {
    let Sealer { trust_domain, rng, .. } = *sealer;
    let (home, key, serial) = (trust_domain, || new_key(rng), || random::<16>(rng));
    let root = issue::make_root(Root::Workload, home, key()?, now, serial()?).map_err(ca)?;
    let issuing = issue::make_issuing(&root, home, key()?, now, serial()?).map_err(ca)?;
    let edge = issue::make_root(Root::Edge(edge_names), home, key()?, now, serial()?).map_err(ca)?;
    let mut keys = vec![
        sealer.issuer(WORKLOAD_ROOT, 1, &root)?,
        sealer.issuer(ISSUING_CA, 1, &issuing)?,
        sealer.issuer(EDGE_ROOT, 1, &edge)?,
    ];
    for purpose in [SNAPSHOT, ACCESS_TOKEN, LEDGER] {
        keys.push(sealer.key_pair(purpose, 1, &key()?)?);
    }
    for purpose in [PEPPER, PSEUDONYM] {
        keys.push(sealer.seal(purpose, 1, &random::<32>(rng)?)?);
    }
    keys.extend(missing(sealer, &[])?);
    Ok(keys)
}

/// The first version of every key that the database of an earlier version cannot have. What the first version had
/// already is never made again: where that is missing, something was lost.
pub(crate) fn missing(sealer: &Sealer<'_>, rows: &[SealedKey]) -> Result<Vec<NewKey>, AuthorityError> {
    let lacks = |purpose: &str| rows.iter().all(|row| row.purpose != purpose);
    let make = |(purpose, material): (&str, Material)| match material {
        Material::KeyPair => sealer.key_pair(purpose, 1, &new_key(sealer.rng)?),
        Material::Secret => sealer.seal(purpose, 1, &random::<32>(sealer.rng)?),
    };
    ADDED_SINCE.into_iter().filter(|(purpose, _)| lacks(purpose)).map(make).collect()
}

/// The next version of the issuing CA, to be stored before it signs.
pub(crate) fn next_issuing(
    sealer: &Sealer<'_>,
    keys: &Keys,
    now: UnixTime,
) -> Result<(NewKey, Issuer), AuthorityError> {
    let (key, serial) = (new_key(sealer.rng)?, random::<16>(sealer.rng)?);
    let next = issue::make_issuing(&keys.workload_root, sealer.trust_domain, key, now, serial).map_err(ca)?;
    Ok((sealer.issuer(ISSUING_CA, keys.issuing_version.saturating_add(1), &next)?, next))
}

impl Sealer<'_> {
    fn issuer(&self, purpose: &str, version: u32, issuer: &Issuer) -> Result<NewKey, AuthorityError> {
        let certificate = Some(issuer.certificate().to_vec());
        Ok(NewKey { certificate, ..self.key_pair(purpose, version, issuer.key())? })
    }

    fn key_pair(&self, purpose: &str, version: u32, key: &KeyPair) -> Result<NewKey, AuthorityError> {
        let private = key.to_pkcs8().map_err(ca)?;
        let public = Some(key.public_key().to_jwk());
        Ok(NewKey { public, ..self.seal(purpose, version, private.expose())? })
    }

    fn seal(&self, purpose: &str, version: u32, secret: &[u8]) -> Result<NewKey, AuthorityError> {
        let row_id = SealedKey::row_id(purpose, version);
        let context =
            SealContext { trust_domain: self.trust_domain, purpose, row_id: &row_id, key_version: version };
        let sealed = Sealed::seal(self.master, context, secret, self.rng).map_err(ca)?;
        Ok(NewKey { purpose: purpose.to_owned(), version, sealed, public: None, certificate: None })
    }
}

/// Opens every key, or says which one does not open. Changes nothing.
pub(crate) fn open(
    trust_domain: &TrustDomain,
    master: &MasterKey,
    rows: &[SealedKey],
    now: UnixTime,
) -> Result<Keys, AuthorityError> {
    let opener = Opener { trust_domain, master, rows };
    let mut issuing = Vec::new();
    let mut issuing_version = 0;
    for row in opener.rows(ISSUING_CA) {
        let issuer = opener.issuer(row)?;
        issuing_version = issuing_version.max(row.version);
        issuing.push(Arc::new(issuer));
    }
    // The newest stays even when it has expired: then status and log say so, instead of nothing being there.
    let newest = issuing.pop().ok_or_else(|| damaged(ISSUING_CA, "it is not there"))?;
    issuing.retain(|issuer| issuer.not_after() > now);
    issuing.push(newest);
    let pseudonym = opener.bytes(opener.newest(PSEUDONYM)?)?;
    Ok(Keys {
        workload_root: Arc::new(opener.issuer(opener.newest(WORKLOAD_ROOT)?)?),
        issuing,
        issuing_version,
        edge_root: Arc::new(opener.issuer(opener.newest(EDGE_ROOT)?)?),
        snapshot: opener.signing(SNAPSHOT)?,
        access_token: opener.signing(ACCESS_TOKEN)?,
        exchange: opener.signing(EXCHANGE)?,
        txn: opener.signing(TXN)?,
        dpop_nonce: Secret::new(opener.bytes(opener.newest(DPOP_NONCE)?)?),
        wit: opener.signing(WIT)?,
        jwt_svid: opener.signing(JWT_SVID)?,
        macaroon_roots: opener.versions(MACAROON_ROOT)?,
        bearer_hash: Secret::new(opener.bytes(opener.newest(BEARER_HASH)?)?),
        ledger: opener.signing(LEDGER)?,
        peppers: opener.peppers()?,
        pseudonym_text: Secret::new(URL_SAFE_NO_PAD.encode(pseudonym)),
        pseudonym: PseudonymKey::new(pseudonym),
    })
}

/// A secret and the number of its version.
type Numbered = (u32, Secret<[u8; 32]>);

struct Opener<'a> {
    trust_domain: &'a TrustDomain,
    master: &'a MasterKey,
    rows: &'a [SealedKey],
}

impl<'a> Opener<'a> {
    /// Versions of one purpose, oldest first.
    fn rows(&self, purpose: &'static str) -> impl DoubleEndedIterator<Item = &'a SealedKey> + use<'a> {
        self.rows.iter().filter(move |row| row.purpose == purpose)
    }

    fn newest(&self, purpose: &'static str) -> Result<&'a SealedKey, AuthorityError> {
        self.rows(purpose).next_back().ok_or_else(|| damaged(purpose, "it is not there"))
    }

    fn secret(&self, row: &SealedKey) -> Result<Secret<Vec<u8>>, AuthorityError> {
        let row_id = SealedKey::row_id(&row.purpose, row.version);
        let context = SealContext {
            trust_domain: self.trust_domain,
            purpose: &row.purpose,
            row_id: &row_id,
            key_version: row.version,
        };
        row.sealed.open(self.master, context).map_err(|error: OpenError| damaged(&row_id, error))
    }

    fn key_pair(&self, row: &SealedKey) -> Result<KeyPair, AuthorityError> {
        let key =
            KeyPair::from_pkcs8(self.secret(row)?.expose()).map_err(|error| damaged(&row.purpose, error))?;
        // The public half lies beside it in the clear: it must not be somebody else's.
        match &row.public {
            Some(jwk) if *jwk == key.public_key().to_jwk() => Ok(key),
            _ => Err(damaged(&row.purpose, "its public half was exchanged")),
        }
    }

    fn issuer(&self, row: &SealedKey) -> Result<Issuer, AuthorityError> {
        let der =
            row.certificate.clone().ok_or_else(|| damaged(&row.purpose, "its certificate is not there"))?;
        Issuer::new(CertificateDer::from(der), self.key_pair(row)?)
            .map_err(|error| damaged(&row.purpose, error))
    }

    fn signing(&self, purpose: &'static str) -> Result<Signing, AuthorityError> {
        let current = self.key_pair(self.newest(purpose)?)?;
        let older =
            self.rows(purpose).rev().skip(1).map(|row| self.key_pair(row)).collect::<Result<_, _>>()?;
        Ok(Signing { current, older })
    }

    fn peppers(&self) -> Result<Peppers, AuthorityError> {
        let mut versions = self.rows(PEPPER);
        let first = versions.next().ok_or_else(|| damaged(PEPPER, "it is not there"))?;
        let mut peppers = Peppers::new(Pepper::new(first.version, self.bytes(first)?));
        for next in versions {
            peppers = peppers.rotate(Pepper::new(next.version, self.bytes(next)?));
        }
        Ok(peppers)
    }

    /// Every version of a secret, newest first.
    fn versions(&self, purpose: &'static str) -> Result<Vec<Numbered>, AuthorityError> {
        self.newest(purpose)?;
        let open = |row: &SealedKey| Ok((row.version, Secret::new(self.bytes(row)?)));
        self.rows(purpose).rev().map(open).collect()
    }

    fn bytes(&self, row: &SealedKey) -> Result<[u8; 32], AuthorityError> {
        let secret = self.secret(row)?;
        secret.expose().as_slice().try_into().map_err(|_| damaged(&row.purpose, "it has another length"))
    }
}

fn damaged(name: &str, why: impl ToString) -> AuthorityError {
    AuthorityError::SealedKeyDamaged { name: name.to_owned(), why: why.to_string() }
}

fn ca(error: impl ToString) -> AuthorityError {
    AuthorityError::Ca(error.to_string())
}

fn new_key(rng: &dyn SecureRandom) -> Result<KeyPair, AuthorityError> {
    KeyPair::generate(rng).map_err(ca)
}

fn random<const N: usize>(rng: &dyn SecureRandom) -> Result<[u8; N], AuthorityError> {
    random_bytes(rng).map_err(ca)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use countersign_keys::SystemRandom;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn home() -> TrustDomain {
        TrustDomain::parse("fleamarket.test").unwrap()
    }

    fn made() -> (MasterKey, Vec<SealedKey>) {
        let (rng, home) = (SystemRandom::new(), home());
        let master = MasterKey::generate(&rng).unwrap();
        let names = EdgeNames { dns: vec!["localhost".to_owned()], ips: Vec::new() };
        let sealer = Sealer { trust_domain: &home, master: &master, rng: &rng };
        let rows = make(&sealer, &names, NOW).unwrap().into_iter().map(stored).collect();
        (master, rows)
    }

    fn stored(key: NewKey) -> SealedKey {
        let NewKey { purpose, version, sealed, public, certificate } = key;
        SealedKey { purpose, version, sealed, public, certificate, created_at: NOW, retired_at: None }
    }

    fn damaged_name(result: Result<Keys, AuthorityError>) -> String {
        match result {
            Err(AuthorityError::SealedKeyDamaged { name, .. }) => name,
            Err(other) => other.to_string(),
            Ok(_) => "opened".to_owned(),
        }
    }

    #[test]
    fn opens_what_it_made() {
        let (master, rows) = made();
        let keys = open(&home(), &master, &rows, NOW).unwrap();
        assert_eq!((keys.issuing.len(), keys.issuing_version), (1, 1));
        assert_eq!(keys.snapshot.all().count(), 1);
    }

    #[test]
    fn rejects_each_key_that_is_missing_by_its_name() {
        let (master, rows) = made();
        for missing in &rows {
            let rest: Vec<SealedKey> =
                rows.iter().filter(|row| row.purpose != missing.purpose).cloned().collect();
            assert_eq!(damaged_name(open(&home(), &master, &rest, NOW)), missing.purpose);
        }
    }

    #[test]
    fn a_database_of_an_earlier_version_gets_the_keys_that_it_lacks_and_no_others() {
        let (rng, home) = (SystemRandom::new(), home());
        let (master, mut rows) = made();
        let names = |keys: &[NewKey]| keys.iter().map(|key| key.purpose.clone()).collect::<Vec<_>>();
        let sealer = Sealer { trust_domain: &home, master: &master, rng: &rng };
        assert!(missing(&sealer, &rows).unwrap().is_empty());
        rows.retain(|row| row.purpose != LEDGER && row.purpose != TXN && row.purpose != DPOP_NONCE);
        let made_now = missing(&sealer, &rows).unwrap();
        assert_eq!(names(&made_now), [TXN, DPOP_NONCE]);
        rows.extend(made_now.into_iter().map(stored));
        assert_eq!(damaged_name(open(&home, &master, &rows, NOW)), LEDGER);
    }

    #[test]
    fn rejects_sealed_rows_that_were_swapped() {
        let (master, mut rows) = made();
        let at = |purpose: &str| rows.iter().position(|row| row.purpose == purpose).unwrap();
        let (a, b) = (at(SNAPSHOT), at(LEDGER));
        let (first, second) = (rows[a].sealed.clone(), rows[b].sealed.clone());
        (rows[a].sealed, rows[b].sealed) = (second, first);
        assert!(damaged_name(open(&home(), &master, &rows, NOW)).ends_with("/1"));
    }

    #[test]
    fn rejects_a_public_half_or_a_certificate_that_was_exchanged() {
        let (master, rows) = made();
        let (_, strangers) = made();
        for (position, purpose) in [SNAPSHOT, WORKLOAD_ROOT].into_iter().enumerate() {
            let mut rows = rows.clone();
            let row = rows.iter_mut().find(|row| row.purpose == purpose).unwrap();
            let stranger = strangers.iter().find(|row| row.purpose == purpose).unwrap();
            match position {
                0 => row.public = stranger.public.clone(),
                _ => row.certificate = stranger.certificate.clone(),
            }
            assert_eq!(damaged_name(open(&home(), &master, &rows, NOW)), purpose);
        }
    }

    #[test]
    fn rejects_another_master_key_and_another_trust_domain() {
        let (master, rows) = made();
        let (other, _) = made();
        assert!(damaged_name(open(&home(), &other, &rows, NOW)).ends_with("/1"));
        let elsewhere = TrustDomain::parse("other.test").unwrap();
        assert!(damaged_name(open(&elsewhere, &master, &rows, NOW)).ends_with("/1"));
    }

    #[test]
    fn an_expired_issuing_ca_is_opened_only_while_there_is_no_newer_one() {
        let (rng, home) = (SystemRandom::new(), home());
        let (master, mut rows) = made();
        let late = NOW.saturating_add(countersign_pki::profile::ISSUING_TTL * 2);
        assert_eq!(open(&home, &master, &rows, late).unwrap().issuing.len(), 1);
        let sealer = Sealer { trust_domain: &home, master: &master, rng: &rng };
        let keys = open(&home, &master, &rows, late).unwrap();
        let (next, issuer) = next_issuing(&sealer, &keys, late).unwrap();
        assert_eq!(next.version, 2);
        rows.push(stored(next));
        let keys = open(&home, &master, &rows, late).unwrap();
        assert_eq!((keys.issuing.len(), keys.issuing_version), (1, 2));
        assert_eq!(keys.issuing[0].serial_hex(), issuer.serial_hex());
    }
}
