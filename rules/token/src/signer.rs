//! Whose key signed: the one question behind every token that a workload makes about itself.

use countersign_identity::SpiffeId;
use countersign_keys::PublicKey;

/// By what a token asks for its key to be found. Nothing of it is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignerHint<'a> {
    /// Who the token says made it.
    pub issuer: &'a SpiffeId,
    /// RFC 7638 thumbprint of the key.
    pub kid: &'a str,
    /// SHA-256 of the DER of the certificate that is said to name the key's owner. `None`: look among the
    /// registered keys.
    pub certificate_sha256: Option<&'a [u8; 32]>,
}

/// A key, and the one workload that may sign with it: the only URI in the verified certificate, or the owner of
/// the registered key. Whoever finds it takes the owner from there and never from the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The key.
    pub key: PublicKey,
    /// Whose it is.
    pub owner: SpiffeId,
}
