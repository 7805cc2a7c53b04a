//! Who somebody is: names that are parsed once, and proof that they were checked.
//!
//! Everything that authenticates ends in one [`Caller`], and a `Caller` is built only from
//! [`Verified`] parts. A human at the gateway has no workload, a cron job no user, a stranger
//! neither: no identity is ever invented or defaulted.
//!
//! ```
//! use countersign_identity::{IdKind, SpiffeId};
//!
//! let id = SpiffeId::parse("spiffe://fleamarket.test/svc/ads")?;
//! assert_eq!(id.kind(), IdKind::Service("ads"));
//! assert_eq!(id.trust_domain().as_str(), "fleamarket.test");
//! # Ok::<(), countersign_identity::IdError>(())
//! ```

mod caller;
mod decision_id;
mod id;
mod mode;
mod proof;
mod service_name;
mod time;
mod trust_domain;
mod verified;

pub use caller::{Caller, CertificateFacts, User, Workload};
pub use decision_id::{DecisionId, DecisionIdError};
pub use id::{IdError, IdKind, SPIFFE_ID_BYTES_MAX, SpiffeId};
pub use mode::{Mode, UnknownMode, UserContext, WimseProof};
pub use proof::{Binding, Bound, Freshness, Possession, Proof, UserProof, WorkloadProof};
pub use service_name::{SERVICE_NAME_CHARS_MAX, ServiceName, ServiceNameError};
pub use time::{CLOCK_SKEW, UnixTime};
pub use trust_domain::{TRUST_DOMAIN_BYTES_MAX, TrustDomain, TrustDomainError};
pub use verified::Verified;
