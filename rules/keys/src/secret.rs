//! A value that is wiped when dropped and never printed.

use std::fmt;

use zeroize::Zeroize;

/// Holds a secret: wiped from memory on drop, `Debug` prints `Secret(..)`, and there is neither
/// `Display`, `Serialize` nor `PartialEq` (compare with [`crate::constant_time_eq`]).
#[derive(Clone)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes charge of `value`.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The secret itself. One greppable word for every place that reads a secret.
    pub fn expose(&self) -> &T {
        &self.0
    }

    /// The secret itself, to be changed in place (decrypting a buffer).
    pub fn expose_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_secret_prints_nothing_of_it() {
        let secret = Secret::new(String::from("correct horse"));
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(format!("{:#?}", Some(&secret)).matches("horse").count(), 0);
        assert_eq!(secret.expose(), "correct horse");
    }

    #[test]
    fn a_dropped_secret_is_wiped() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicBool, Ordering};

        struct Probe(Arc<AtomicBool>);
        impl Zeroize for Probe {
            fn zeroize(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let wiped = Arc::new(AtomicBool::new(false));
        drop(Secret::new(Probe(wiped.clone())));
        assert!(wiped.load(Ordering::SeqCst));
    }
}
