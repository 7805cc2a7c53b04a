//! What survives a restart: the account, and for each host its certificate with its key in one file, so that they cannot
//! come apart. Each is written whole or not at all, and is its owner's to read.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use countersign_keys::{KeyPair, Secret, sha256_hex};
use countersign_pki::pem::{PRIVATE_KEY, encode};
use countersign_sdk::tls::Identity;
use countersign_sdk::tls::pem::{self, PEM_BYTES_MAX, PemFileError};
use http::Uri;
use instant_acme::AccountCredentials;

/// Why something is not kept, or what was kept is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("cannot {doing} {path}: {why}", path = path.display())]
    File { doing: &'static str, path: PathBuf, why: String },
    #[error(transparent)]
    Pem(#[from] PemFileError),
    #[error("{path} does not hold what was kept there; move it away", path = path.display())]
    Damaged { path: PathBuf },
}

/// The directory of one authority: what one gave is not kept for another.
#[derive(Debug)]
pub(super) struct Store(PathBuf);

impl Store {
    /// Makes it (0700) below `state_dir` where it is missing.
    pub(super) fn open(state_dir: &Path, directory_url: &str) -> Result<Self, StoreError> {
        let path = state_dir.join(name_of(directory_url));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o700)))
            .map_err(failed("make", &path))?;
        Ok(Self(path))
    }

    /// The account, if there is one.
    pub(super) fn account(&self) -> Result<Option<AccountCredentials>, StoreError> {
        let path = self.0.join(ACCOUNT);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        serde_json::from_slice(bytes.expose()).map(Some).map_err(|_| StoreError::Damaged { path })
    }

    pub(super) fn keep_account(&self, credentials: &AccountCredentials) -> Result<(), StoreError> {
        let path = self.0.join(ACCOUNT);
        let json = serde_json::to_vec(credentials).map_err(|_| StoreError::Damaged { path: path.clone() })?;
        write(&path, &Secret::new(json))
    }

    /// Forgets an account that the authority does not know any more. Its file stays beside, for whoever wonders.
    pub(super) fn forget_account(&self) -> Result<(), StoreError> {
        let path = self.0.join(ACCOUNT);
        std::fs::rename(&path, path.with_extension("json.unknown")).map_err(failed("move away", &path))
    }

    /// The certificate for a host, if there is one; whether it is still good is not judged here.
    pub(super) fn certificate(&self, host: &str) -> Result<Option<Identity>, StoreError> {
        let path = self.of(host);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let chain = pem::certificates(bytes.expose(), &path)?;
        let key = pem::private_key(&bytes, &path)?;
        Identity::edge(chain, &key).map(Some).map_err(|_| StoreError::Damaged { path })
    }

    /// `chain_pem`: as it came, leaf first.
    pub(super) fn keep_certificate(
        &self,
        host: &str,
        chain_pem: &str,
        key: &KeyPair,
    ) -> Result<(), StoreError> {
        let path = self.of(host);
        let pkcs8 = key.to_pkcs8().map_err(|_| StoreError::Damaged { path: path.clone() })?;
        let key_pem = Secret::new(encode(PRIVATE_KEY, pkcs8.expose()));
        let mut both = Vec::with_capacity(chain_pem.len() + 1 + key_pem.expose().len());
        both.extend_from_slice(chain_pem.trim_end().as_bytes());
        both.push(b'\n');
        both.extend_from_slice(key_pem.expose().as_bytes());
        write(&path, &Secret::new(both))
    }

    fn of(&self, host: &str) -> PathBuf {
        self.0.join(format!("{host}.pem"))
    }
}

/// For people the host, and what tells two directories of one host apart.
fn name_of(directory_url: &str) -> String {
    let uri: Option<Uri> = directory_url.parse().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default().replace(['[', ']', ':'], "-");
    let digest = sha256_hex(directory_url.as_bytes());
    format!("{host}-{}", digest.get(..8).unwrap_or_default())
}

fn read(path: &Path) -> Result<Option<Secret<Vec<u8>>>, StoreError> {
    match path.try_exists() {
        Ok(false) => Ok(None),
        Ok(true) => Ok(Some(Secret::new(pem::read_bounded(path, PEM_BYTES_MAX)?))),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

/// On disk before this returns.
fn write(path: &Path, content: &Secret<Vec<u8>>) -> Result<(), StoreError> {
    let write = || {
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        // `mode` counts for new files only.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(content.expose())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(failed("write", path))
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::File { doing, path: path.clone(), why: error.to_string() }
}

const ACCOUNT: &str = "account.json";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    const URL: &str = "https://ca.test:14000/dir";

    fn credentials() -> AccountCredentials {
        let key = KeyPair::generate(&countersign_keys::SystemRandom::new()).unwrap();
        let pkcs8 = key.to_pkcs8().unwrap();
        let key = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, pkcs8.expose());
        serde_json::from_value(serde_json::json!({ "id": "https://ca.test/1", "key_pkcs8": key })).unwrap()
    }

    #[test]
    fn what_is_kept_is_found_again_and_is_nobody_elses_to_read() {
        let dir = countersign_testkit::temp_dir();
        let store = Store::open(&dir.path().join("a/b"), URL).unwrap();
        assert!(store.account().unwrap().is_none());
        assert!(store.certificate("shop.test").unwrap().is_none());
        let account = store.0.join("account.json");
        std::fs::write(account.with_extension("json.new"), "left behind by a crash").unwrap();
        std::fs::set_permissions(account.with_extension("json.new"), Permissions::from_mode(0o644)).unwrap();
        store.keep_account(&credentials()).unwrap();
        assert!(store.account().unwrap().is_some());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&account), mode(&store.0)), (0o600, 0o700));
        store.forget_account().unwrap();
        assert!(store.account().unwrap().is_none());
    }

    #[test]
    fn what_one_authority_gave_is_not_kept_for_another() {
        let dir = countersign_testkit::temp_dir();
        Store::open(dir.path(), URL).unwrap().keep_account(&credentials()).unwrap();
        let staging = Store::open(dir.path(), "https://ca.test:14000/staging").unwrap();
        assert!(staging.account().unwrap().is_none());
        assert!(Store::open(dir.path(), URL).unwrap().account().unwrap().is_some());
        assert!(name_of(URL).starts_with("ca.test-"), "{}", name_of(URL));
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let dir = countersign_testkit::temp_dir();
        let store = Store::open(dir.path(), URL).unwrap();
        std::fs::write(store.0.join(ACCOUNT), "{").unwrap();
        let path = store.0.join(ACCOUNT);
        assert!(matches!(store.account(), Err(StoreError::Damaged { path: damaged }) if damaged == path));
        std::fs::write(store.of("shop.test"), "no pem").unwrap();
        assert!(matches!(store.certificate("shop.test"), Err(StoreError::Pem(_))));
        let nowhere = Store::open(&store.of("shop.test"), URL).unwrap_err();
        assert!(matches!(nowhere, StoreError::File { doing: "make", .. }), "{nowhere}");
    }
}
