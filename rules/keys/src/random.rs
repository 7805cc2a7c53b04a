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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use aws_lc_rs::test::rand::FixedSliceRandom;

    #[test]
    fn takes_its_bytes_from_the_generator_it_is_given() {
        assert_eq!(random_bytes::<4>(&FixedSliceRandom { bytes: &[1, 2, 3, 4] }), Ok([1, 2, 3, 4]));
        let (one, two) = (random_bytes::<16>(&SystemRandom::new()), random_bytes::<16>(&SystemRandom::new()));
        assert_ne!(one.unwrap(), two.unwrap());
    }
}
