//! The one place where Argon2 runs.

use argon2::{Algorithm, Argon2, Version};
use countersign_keys::Secret;

use crate::password::{HashError, PEPPER_BYTES, Params};

/// Argon2id (RFC 9106) with the pepper as its secret value. Blocking, [`Params::memory_kib`] of memory.
pub(crate) fn argon2id(
    password: &str,
    pepper: &Secret<[u8; PEPPER_BYTES]>,
    params: Params,
    salt: &[u8],
) -> Result<[u8; HASH_BYTES], HashError> {
    #[cfg(test)]
    tests::RUNS.with(|runs| runs.set(runs.get() + 1));
    let Params { memory_kib, passes, lanes } = params;
    let params =
        argon2::Params::new(memory_kib, passes, lanes, Some(HASH_BYTES)).map_err(|_| HashError::Failed)?;
    let argon2 = Argon2::new_with_secret(pepper.expose(), Algorithm::Argon2id, Version::V0x13, params)
        .map_err(|_| HashError::Failed)?;
    let mut hash = [0; HASH_BYTES];
    argon2.hash_password_into(password.as_bytes(), salt, &mut hash).map_err(|_| HashError::Failed)?;
    Ok(hash)
}

/// Length of what is stored: 256 bits.
pub(crate) const HASH_BYTES: usize = 32;

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use std::cell::Cell;

    use argon2::{AssociatedData, ParamsBuilder};

    use super::*;

    thread_local! {
        /// How often Argon2 ran on this thread: what the tests of equal work count.
        pub(crate) static RUNS: Cell<u32> = const { Cell::new(0) };
    }

    #[test]
    fn rejects_parameters_that_argon2_does_not_have() {
        let pepper = Secret::new([7; PEPPER_BYTES]);
        let params = |memory_kib, passes| Params { memory_kib, passes, lanes: 1 };
        assert_eq!(argon2id("x", &pepper, params(1, 2), &[1; 16]), Err(HashError::Failed));
        assert_eq!(argon2id("x", &pepper, params(64, 0), &[1; 16]), Err(HashError::Failed));
        assert_eq!(
            argon2id("x", &pepper, params(64, 1), &[1; 4]),
            Err(HashError::Failed),
            "the salt is too short"
        );
        assert!(argon2id("x", &pepper, params(64, 1), &[1; 16]).is_ok());
    }

    /// The vectors of RFC 9106 and of the reference implementation, as far as they are Argon2id.
    #[test]
    fn argon2id_computes_what_others_compute() {
        let Some(path) = countersign_testkit::vectors("kdf-otp/KDF/argon2id.txt") else { return };
        let text = std::fs::read_to_string(path).unwrap();
        let mut checked = 0;
        for case in text.split("COUNT = ").skip(1) {
            let field = |name: &str| {
                case.lines()
                    .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('=').map(str::trim))
            };
            let number = |name: &str| field(name).unwrap().parse::<u32>().unwrap();
            let bytes = |name: &str| unhex(field(name).unwrap_or_default());
            let mut params = ParamsBuilder::new();
            params.m_cost(number("memcost")).t_cost(number("iter")).p_cost(number("lanes"));
            params.output_len(number("length") as usize);
            if field("ad").is_some() {
                params.data(AssociatedData::new(&bytes("ad")).unwrap());
            }
            let secret = bytes("secret");
            let argon2 = Argon2::new_with_secret(
                &secret,
                Algorithm::Argon2id,
                Version::V0x13,
                params.build().unwrap(),
            )
            .unwrap();
            let mut output = vec![0; number("length") as usize];
            argon2.hash_password_into(&bytes("pass"), &bytes("salt"), &mut output).unwrap();
            assert_eq!(output, bytes("output"), "case {}", case.lines().next().unwrap());
            checked += 1;
        }
        assert!(checked >= 5, "only {checked} vectors");
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }
}
