//! What a workload asks for: a key that it holds, and at most its own name (PKCS #10, RFC 2986).

use countersign_identity::{IdError, SpiffeId};
use countersign_keys::{KeyPair, PublicKey, SignError, WeakKey};

/// A certificate signing request that was judged: the key is fit, its holder signed, and nothing is asked for
/// beyond at most one SPIFFE ID. The subject of a request is ignored: certificates get their content from
/// [`crate::profile`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr {
    public_key: PublicKey,
    requested_id: Option<SpiffeId>,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`CSR_BYTES_MAX`].
    #[error("the CSR has {bytes} bytes, more than {CSR_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not DER of PKCS #10.
    #[error("the CSR is not a DER certification request; make one with `openssl req -new -outform DER`")]
    Malformed,
    /// Something follows the request.
    #[error("the CSR is followed by {bytes} more bytes")]
    TrailingData {
        /// How many.
        bytes: usize,
    },
    /// The key is weak or foreign.
    #[error("the CSR's key is refused: {0}")]
    Key(#[from] WeakKey),
    /// Signed with something else than ECDSA and SHA-256.
    #[error("the CSR is signed with {oid}, not with ecdsa-with-SHA256")]
    SignatureAlgorithm {
        /// The algorithm's object identifier in dots.
        oid: String,
    },
    /// The signature is not by the key inside: possession is not proven.
    #[error("the CSR is not signed by the key that it holds; sign it with that key's private half")]
    NotPossessed,
    /// An attribute other than one extension request.
    #[error("the CSR carries the attribute {oid}; ask for extensions once, and for nothing else")]
    Attribute {
        /// The attribute's object identifier in dots.
        oid: String,
    },
    /// More than one name, or a name that is not a URI.
    #[error("the CSR asks for the name {name}; a workload is named by one SPIFFE ID alone")]
    AsksForOtherNames {
        /// The first name too many.
        name: String,
    },
    /// The URI is no SPIFFE ID.
    #[error("the CSR asks for a name that is no SPIFFE ID: {0}")]
    AsksForInvalidId(#[source] IdError),
    /// It wants to be a CA.
    #[error("the CSR asks to become a CA; workloads are leaves")]
    AsksToBeCa,
    /// A key usage beyond digitalSignature.
    #[error("the CSR asks for key usages beyond digitalSignature")]
    AsksForKeyUsage,
    /// An extended key usage beyond clientAuth and serverAuth.
    #[error("the CSR asks for extended key usages beyond clientAuth and serverAuth")]
    AsksForExtendedKeyUsage,
    /// Any other extension.
    #[error("the CSR asks for the extension {oid}; leave it out, the profile decides")]
    AsksForExtension {
        /// The extension's object identifier in dots.
        oid: String,
    },
}

/// A request could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MakeCsrError {
    /// Signing failed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The encoder refused the content.
    #[error("the CSR could not be written")]
    Encode,
}

impl Csr {
    /// Reads and judges DER.
    pub fn parse(der: &[u8]) -> Result<Self, CsrError> {
        let _ = der;
        Err(CsrError::Malformed)
    }

    /// The key to certify.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The name asked for, if any. Whether it may have it is decided when issuing.
    pub fn requested_id(&self) -> Option<&SpiffeId> {
        self.requested_id.as_ref()
    }
}

/// Makes a request for `key`, in DER; naming `id` is optional and grants nothing.
pub fn make(key: &KeyPair, id: Option<&SpiffeId>) -> Result<Vec<u8>, MakeCsrError> {
    let _ = (key, id);
    Err(MakeCsrError::Encode)
}

/// The longest request that is read.
pub const CSR_BYTES_MAX: usize = 8 * 1024;
