//! May X do Y to Z: Cedar with a strict schema, default deny, and a [`Permit`] instead of a bool.
//!
//! Each service has its own file of rules, named after it, and only that file is asked about its
//! routes. Nothing permits by accident: no file, no matching rule, an unknown action or a rule that
//! fails while it is evaluated all refuse. Cedar itself skips a rule that fails; we do not, because
//! the rule that failed may have been the one that forbids.
//!
//! ```
//! use countersign_identity::{Caller, Proof};
//! use countersign_policy::{Ask, PolicySet, RefusalKind, decide};
//!
//! let rules = r#"
//!     @id("browse")
//!     permit (principal, action == Action::"GET", resource == Route::"ads /ads");
//! "#;
//! let policies = PolicySet::load([("ads", rules)])?;
//! let stranger = Caller::new(None, None, Vec::new(), Proof::NONE);
//! let get = http::Method::GET;
//! let ask = Ask { caller: &stranger, target: "ads", method: &get, route: "/ads", path: "/ads" };
//!
//! let permit = decide(&policies, &ask).map_err(|refusal| refusal.kind());
//! assert_eq!(permit.map(|p| p.policies().to_vec()), Ok(vec!["browse".to_owned()]));
//!
//! let users = Ask { target: "users", ..ask };
//! assert_eq!(decide(&policies, &users).map_err(|r| r.kind()).err(), Some(RefusalKind::NoPolicies));
//! # Ok::<(), countersign_policy::PolicyError>(())
//! ```

mod cache;
mod condition;
mod decide;
mod explain;
mod explainer;
mod facts;
mod index;
mod model;
mod parse;
mod quota;

pub use cache::DecisionCache;
pub use decide::{Permit, Refusal, RefusalKind, decide, decide_admin};
pub use explain::{
    ClauseResult, ClauseTrace, Explanation, RULES_TRACED_MAX, RuleEffect, RuleTrace, explain, explain_admin,
};
pub use explainer::{Explainer, Reason};
pub use model::{APPLICATION_SCHEMA, AdminAsk, Ask, Generation, administration_schema};
pub use parse::{
    AdminPolicies, POLICY_FILE_BYTES_MAX, POLICY_FILES_MAX, PolicyError, PolicySet, RULES_PER_FILE_MAX,
};
pub use quota::{Quota, QuotaError, address_key};
