//! Whether a macaroon and its discharges are genuine and allowed: the generic judgement, for any predicates.

use super::{Caveat, DISCHARGES_MAX, Macaroon, PredicateError, RootKey, Tag, ThirdParty, chain, secretbox};
use crate::jws::printable;

/// Judges `root` with the discharges that came beside it: every MAC first, in constant time, and only then the predicates, so
/// that nothing is ever decided by a caveat that somebody may have invented. Every discharge must be needed, exactly once.
///
/// `satisfied` judges one first-party predicate, of the root and of the discharges alike; what it does not know it refuses.
///
/// # Errors
/// See [`ChainError`].
pub fn verify_chain(
    root: &Macaroon<'_>,
    discharges: &[Macaroon<'_>],
    key: &RootKey,
    mut satisfied: impl FnMut(&[u8]) -> Result<(), PredicateError>,
) -> Result<(), ChainError> {
    if discharges.len() > DISCHARGES_MAX {
        return Err(ChainError::TooManyDischarges { discharges: discharges.len() });
    }
    let links = walk(root, key);
    if links.end != root.tag {
        return Err(ChainError::BadSignature);
    }
    let mut presented = Presented::new(root, discharges);
    presented.discharge(&links)?;
    if let Some(unused) = presented.unused() {
        return Err(ChainError::Unused { identifier: printable(&String::from_utf8_lossy(unused)) });
    }
    let all = std::iter::once(root).chain(discharges);
    for caveat in all.flat_map(|macaroon| &macaroon.caveats).filter(|c| c.third_party.is_none()) {
        satisfied(&caveat.id)?;
    }
    Ok(())
}

/// The chain over one macaroon: its end, and each third-party caveat with the MAC that its key is sealed under.
struct Links<'m> {
    end: Tag,
    third_party: Vec<(Tag, &'m Caveat<'m>, &'m ThirdParty<'m>)>,
}

fn walk<'m>(macaroon: &'m Macaroon<'m>, key: &RootKey) -> Links<'m> {
    let mut third_party = Vec::new();
    let end = macaroon.caveats.iter().fold(chain::start(key, &macaroon.identifier), |tag, caveat| {
        match &caveat.third_party {
            None => chain::first_party(&tag, &caveat.id),
            Some(third) => {
                third_party.push((tag, caveat, third));
                chain::third_party(&tag, &third.verification_id, &caveat.id)
            }
        }
    });
    Links { end, third_party }
}

/// The discharges at hand, and how far each one's judgement has come.
struct Presented<'m> {
    root: &'m Macaroon<'m>,
    discharges: &'m [Macaroon<'m>],
    uses: Vec<Use>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    None,
    /// Its own third-party caveats are being discharged just now.
    Open,
    Done,
}

impl<'m> Presented<'m> {
    fn new(root: &'m Macaroon<'m>, discharges: &'m [Macaroon<'m>]) -> Self {
        Self { root, discharges, uses: vec![Use::None; discharges.len()] }
    }

    /// Finds and judges the discharge of each third-party caveat. Calls itself at most once per discharge.
    fn discharge(&mut self, links: &Links<'_>) -> Result<(), ChainError> {
        for (tag, caveat, third) in &links.third_party {
            let at = self.find(caveat, third)?;
            let Some(discharge) = self.discharges.get(at) else { continue };
            let bad = |location: &str| ChainError::BadDischarge { location: printable(location) };
            let opened = secretbox::open(tag.bytes(), &third.verification_id);
            let key = opened.and_then(|key| key.expose().as_slice().try_into().ok());
            let key = RootKey::of_derived(key.ok_or_else(|| bad(&third.location))?);
            let inner = walk(discharge, &key);
            if chain::bind(&self.root.tag, &inner.end) != discharge.tag {
                return Err(bad(&third.location));
            }
            self.mark(at, Use::Open);
            self.discharge(&inner)?;
            self.mark(at, Use::Done);
        }
        Ok(())
    }

    fn find(&self, caveat: &Caveat<'_>, third: &ThirdParty<'_>) -> Result<usize, ChainError> {
        let location = || printable(&third.location);
        let mut fitting = self.discharges.iter().enumerate().filter(|(_, d)| d.identifier == caveat.id);
        let (at, _) = fitting.next().ok_or_else(|| ChainError::NoDischarge { location: location() })?;
        match self.uses.get(at) {
            Some(Use::Open) => Err(ChainError::Cyclic { location: location() }),
            Some(Use::Done) => Err(ChainError::UsedTwice { location: location() }),
            _ => Ok(at),
        }
    }

    fn mark(&mut self, at: usize, state: Use) {
        if let Some(place) = self.uses.get_mut(at) {
            *place = state;
        }
    }

    fn unused(&self) -> Option<&'m [u8]> {
        let mut both = self.uses.iter().zip(self.discharges);
        both.find(|(state, _)| **state == Use::None).map(|(_, discharge)| discharge.identifier())
    }
}

/// Why a macaroon is refused, whatever its caveats mean.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Not minted under this key, or a caveat was changed, moved or taken away.
    #[error("the macaroon's signature does not fit")]
    BadSignature,
    /// A caveat does not hold here.
    #[error(transparent)]
    Predicate(#[from] PredicateError),
    /// Nobody discharged a third-party caveat.
    #[error("the macaroon needs a discharge from {location:?}; ask there for one")]
    NoDischarge {
        /// Who could.
        location: String,
    },
    /// A discharge of another caveat, changed, or not bound to this macaroon.
    #[error("the discharge from {location:?} does not fit, or was bound to another macaroon")]
    BadDischarge {
        /// Whose it should be.
        location: String,
    },
    /// Two caveats need the same discharge.
    #[error("the discharge from {location:?} would be used twice")]
    UsedTwice {
        /// Whose it is.
        location: String,
    },
    /// A discharge needs itself.
    #[error("the discharge from {location:?} needs itself")]
    Cyclic {
        /// Whose it is.
        location: String,
    },
    /// Something came along that no caveat asks for.
    #[error("the discharge {identifier:?} belongs to no caveat; leave it out")]
    Unused {
        /// What it discharges.
        identifier: String,
    },
    /// Over [`DISCHARGES_MAX`].
    #[error("{discharges} discharges came along, at most {DISCHARGES_MAX} are allowed")]
    TooManyDischarges {
        /// How many.
        discharges: usize,
    },
}
