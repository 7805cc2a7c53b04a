//! State that every core has for itself, so that the hot path shares no cache line.

use std::{
    cell::Cell,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// As many `T` as there are likely to be threads; each thread uses one of them.
#[derive(Debug)]
pub struct Sharded<T>([Shard<T>; SHARDS]);

/// On a cache line of its own.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Shard<T>(Mutex<T>);

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Shard::default()))
    }
}

impl<T> Sharded<T> {
    /// Works on this thread's `T`. The lock is free unless somebody collects, or threads outnumber shards.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        thread_local! {
            static MINE: Cell<Option<usize>> = const { Cell::new(None) };
        }
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let mine = MINE.get().unwrap_or_else(|| {
            let mine = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
            MINE.set(Some(mine));
            mine
        });
        let [first, ..] = &self.0;
        let shard = self.0.get(mine).unwrap_or(first);
        work(&mut shard.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Sharded<T> {
    /// Works on every thread's `T`, one after the other, until `work` finds what it looks for.
    pub fn find<R>(&self, mut work: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        self.0.iter().find_map(|shard| work(&mut shard.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<T: Default> Sharded<T> {
    /// Takes what every shard holds.
    pub fn take_all(&self) -> impl Iterator<Item = T> + '_ {
        self.0
            .iter()
            .map(|shard| std::mem::take(&mut *shard.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

const SHARDS: usize = 32;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_threads_put_in_is_taken_out_once() {
        let sharded = Sharded::<u64>::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1000).for_each(|_| sharded.with(|count| *count += 1)));
            }
        });
        let mut shares = 0;
        assert_eq!(
            sharded.find(|count| {
                shares += *count;
                None::<()>
            }),
            None
        );
        assert_eq!(shares, 8000);
        assert!(sharded.find(|count| (*count > 0).then_some(())).is_some());
        assert_eq!(sharded.take_all().sum::<u64>(), 8000);
        assert_eq!(sharded.take_all().sum::<u64>(), 0);
    }
}
