//! What the files say, and whether it can be used.

use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::{Secret, sha256};
use countersign_policy::PolicySet;
use countersign_wire::snapshot::{PolicyFile, TrustBundle};

use super::{FileIdentity, FilesError, Home};
use crate::{
    clock,
    policy_dir::read_policies,
    tls::{
        Identity,
        pem::{self, PEM_BYTES_MAX},
    },
};

/// The bytes of all files at one time.
pub(super) struct Contents {
    cert: Vec<u8>,
    key: Secret<Vec<u8>>,
    ca: Vec<u8>,
    crl: Option<Vec<u8>>,
    policies: Vec<PolicyFile>,
}

/// What can be used.
pub(super) struct Loaded {
    pub(super) identity: Identity,
    pub(super) id: SpiffeId,
    pub(super) not_after: UnixTime,
    pub(super) bundle: TrustBundle,
    pub(super) policies: Vec<PolicyFile>,
}

impl Contents {
    pub(super) fn read(files: &FileIdentity) -> Result<Self, FilesError> {
        Ok(Self {
            cert: pem::read_bounded(&files.cert, PEM_BYTES_MAX)?,
            key: Secret::new(pem::read_bounded(&files.key, PEM_BYTES_MAX)?),
            ca: pem::read_bounded(&files.ca, PEM_BYTES_MAX)?,
            crl: files.crl.as_deref().map(|path| pem::read_bounded(path, CRL_BYTES_MAX)).transpose()?,
            policies: files.policy_dir.as_deref().map_or(Ok(Vec::new()), read_policies)?,
        })
    }

    /// Tells these contents from all others.
    pub(super) fn digest(&self) -> [u8; 32] {
        let pems = [&self.cert, self.key.expose(), &self.ca].into_iter().chain(&self.crl);
        let mut digests: Vec<u8> = pems.flat_map(|bytes| sha256(bytes)).collect();
        for file in &self.policies {
            digests.extend(sha256(file.name.as_bytes()));
            digests.extend(sha256(file.text.as_bytes()));
        }
        sha256(&digests)
    }

    /// Everything but the roots and lists, which are judged when they are compiled. `home` is who we are already.
    pub(super) fn judge(self, files: &FileIdentity, home: Option<&Home>) -> Result<Loaded, FilesError> {
        let key = pem::private_key(&self.key, &files.key)?;
        let chain = pem::certificates(&self.cert, &files.cert)?;
        let refused = |source| {
            let (cert, key) = (files.cert.clone(), files.key.clone());
            FilesError::Identity { cert, key, source }
        };
        let identity = Identity::workload(chain, &key).map_err(refused)?;
        let id = identity.id().cloned().ok_or_else(|| refused(crate::tls::IdentityError::NoSpiffeId))?;
        let not_after = identity.not_after();
        if not_after <= clock::now() {
            return Err(FilesError::Expired { cert: files.cert.clone() });
        }
        if let Some(home) = home.filter(|home| home.id != id) {
            return Err(FilesError::OtherId { cert: files.cert.clone(), want: home.id.clone(), got: id });
        }
        PolicySet::load(self.policies.iter().map(|file| (file.name.as_str(), file.text.as_str())))?;
        let roots = pem::certificates(&self.ca, &files.ca)?;
        let crls = match (&self.crl, &files.crl) {
            (Some(crl), Some(path)) => pem::revocation_lists(crl, path)?,
            _ => Vec::new(),
        };
        let bundle = TrustBundle {
            trust_domain: id.trust_domain().clone(),
            roots: roots.iter().map(|root| root.as_ref().into()).collect(),
            crls: crls.iter().map(|crl| crl.as_ref().into()).collect(),
        };
        Ok(Loaded { identity, id, not_after, bundle, policies: self.policies })
    }
}

/// The most bytes of a file with revocation lists.
const CRL_BYTES_MAX: u64 = 16 * 1024 * 1024;
