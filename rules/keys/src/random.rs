//! Randomness as an argument.

pub use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// Why no random bytes came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RandomError {
    /// The generator failed.
    #[error("the random number generator failed; nothing was made")]
    Unavailable,
}

/// `N` random bytes from `rng`.
pub fn random_bytes<const N: usize>(rng: &dyn SecureRandom) -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    rng.fill(&mut bytes).map_err(|_| RandomError::Unavailable)?;
    Ok(bytes)
}
