//! What others wrote, under the same attacks: specimens that the lab builds itself, to see what they let through.
//!
//! A specimen has no ledger and no codes. What shows that it stopped an attack is that the honest request before it was
//! served and the attack was refused by the specimen's own verdict; what shows a fault is that the attack was served.

mod article;
mod thesis;

use serde::Serialize;

use super::{AttackError, Verdict, doc, wire::Broken};

/// What can be examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Specimen {
    /// Two services written after an article on authentication between microservices ([`crate::article`]).
    Article,
    /// Algorithm 5.1 of the thesis, to the letter ([`crate::thesis`]).
    Thesis,
}

/// What an examination found.
#[derive(Clone, Debug, Serialize)]
pub struct Examination {
    /// Of what.
    pub specimen: Specimen,
    /// Every attack that was tried.
    pub tried: Vec<Tried>,
    /// How many of them succeeded.
    pub faults: usize,
}

/// One attack on a specimen.
#[derive(Clone, Debug, Serialize)]
pub struct Tried {
    /// By which name the same attack is known against a deployment.
    pub name: &'static str,
    /// The defect that it looks for, as the requirements number it.
    pub defect: &'static str,
    /// What was sent.
    pub sent: &'static str,
    /// What came back.
    pub received: String,
    /// What that means.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Where it is told.
    pub doc: String,
}

/// Builds the specimen, and tries at it what it may get wrong.
///
/// # Errors
/// It could not be built.
pub async fn examine(specimen: Specimen) -> Result<Examination, AttackError> {
    let tried = match specimen {
        Specimen::Article => article::examine().await?,
        Specimen::Thesis => thesis::examine().await?,
    };
    let faults = tried.iter().filter(|tried| matches!(tried.verdict, Verdict::Succeeded { .. })).count();
    Ok(Examination { specimen, tried, faults })
}

impl Tried {
    /// An attack that was answered with `status` by a specimen that serves the honest request.
    fn answered(
        name: &'static str,
        defect: &'static str,
        sent: &'static str,
        status: Result<u16, Broken>,
    ) -> Self {
        let (received, verdict) = match status {
            Ok(status @ 200..=299) => {
                let evidence = format!("{status}: it was served");
                (status.to_string(), Verdict::Succeeded { evidence })
            }
            Ok(status @ (401 | 403)) => {
                let sign = format!("{status}, where the honest request is served");
                (status.to_string(), Verdict::Blocked { sign })
            }
            Ok(status) => {
                (status.to_string(), Verdict::Inconclusive { why: format!("{status} is no verdict") })
            }
            Err(broken) => (broken.how.clone(), Verdict::Inconclusive { why: broken.how }),
        };
        Self { name, defect, sent, received, verdict, doc: doc(name) }
    }
}
