//! All that a rule can read of one question, borrowed from whoever asks.
//!
//! Everything goes through here: Cedar's form of the question, our own evaluation of conditions, and the key under
//! which a decision is remembered. So none of them can know more than another.

use countersign_identity::{Bound, Caller, Proof, UserProof};

use crate::model::{API, AdminAsk, Ask};

/// What rules read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) principal: Principal<'a>,
    pub(crate) action: &'a str,
    pub(crate) resource: Resource<'a>,
    pub(crate) path: &'a str,
    pub(crate) user: Option<Person<'a>>,
    pub(crate) proof: Proof,
}

/// The workload if there is one, else the user, else a stranger: never anything that was not proven.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Principal<'a> {
    pub(crate) kind: PrincipalKind,
    pub(crate) id: &'a str,
    /// Of a workload, and part of its name.
    pub(crate) trust_domain: Option<&'a str>,
}

/// The entity types of principals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PrincipalKind {
    Admin,
    Workload,
    User,
    Stranger,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resource<'a> {
    Route { service: &'a str, template: &'a str },
    Api,
}

/// `context.user`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Person<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) roles: &'a [String],
}

impl<'a> Facts<'a> {
    pub(crate) fn of(ask: &Ask<'a>) -> Self {
        Self {
            principal: Principal::of(ask.caller),
            action: ask.method.as_str(),
            resource: Resource::Route { service: ask.target, template: ask.route },
            path: ask.path,
            user: Person::of(ask.caller),
            proof: *ask.caller.proof(),
        }
    }

    pub(crate) fn of_admin(ask: &AdminAsk<'a>) -> Self {
        let principal = match ask.caller.user() {
            Some(user) if ask.caller.proof().user == UserProof::LocalUid => {
                Principal { kind: PrincipalKind::Admin, id: &user.id, trust_domain: None }
            }
            _ => Principal::of(ask.caller),
        };
        Self {
            principal,
            action: ask.action,
            resource: Resource::Api,
            path: ask.path,
            user: Person::of(ask.caller),
            proof: *ask.caller.proof(),
        }
    }

    /// Writes all of it but the path, so that no two questions read alike. Taken apart without `..`: a new fact does
    /// not compile before it is part of the key.
    pub(crate) fn write_key(&self, key: &mut Vec<u8>) {
        let Self { principal, action, resource, path: _, user, proof } = self;
        let Principal { kind, id, trust_domain: _ } = principal;
        write_all(key, [kind.as_str(), id, action]);
        match resource {
            Resource::Route { service, template } => write_all(key, [service, template]),
            Resource::Api => {}
        }
        let Proof { workload, binding, user: user_proof, user_possession, freshness } = *proof;
        key.extend([workload as u8, user_proof as u8, user_possession as u8, freshness as u8]);
        key.extend(Bound::ALL.iter().map(|bound| u8::from(binding.contains(*bound))));
        key.push(u8::from(user.is_some()));
        if let Some(Person { id, name, roles }) = user {
            write_all(key, [id, name]);
            key.extend_from_slice(&roles.len().to_le_bytes());
            roles.iter().for_each(|role| write_all(key, [role]));
        }
    }

    /// Writes the path after it, for a question whose answer may depend on it.
    pub(crate) fn write_path(&self, key: &mut Vec<u8>) {
        write_all(key, [self.path]);
    }
}

impl<'a> Principal<'a> {
    fn of(caller: &'a Caller) -> Self {
        let (kind, id) = match (caller.workload(), caller.user()) {
            (Some(workload), _) => {
                let (id, trust_domain) = (workload.id.as_str(), workload.id.trust_domain().as_str());
                return Self { kind: PrincipalKind::Workload, id, trust_domain: Some(trust_domain) };
            }
            (None, Some(user)) => (PrincipalKind::User, user.id.as_str()),
            (None, None) => (PrincipalKind::Stranger, STRANGER),
        };
        Self { kind, id, trust_domain: None }
    }
}

impl PrincipalKind {
    pub(crate) const ALL: [Self; 4] = [Self::Admin, Self::Workload, Self::User, Self::Stranger];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "Admin",
            Self::Workload => "Workload",
            Self::User => "User",
            Self::Stranger => "Stranger",
        }
    }
}

impl Resource<'_> {
    /// Its id, such as `ads /ads/{id}/buy`.
    pub(crate) fn id(&self) -> String {
        match self {
            Self::Route { service, template } => format!("{service} {template}"),
            Self::Api => API.to_owned(),
        }
    }
}

impl<'a> Person<'a> {
    fn of(caller: &'a Caller) -> Option<Self> {
        caller.user().map(|user| Self { id: &user.id, name: &user.name, roles: &user.roles })
    }
}

/// The one id of a stranger.
pub(crate) const STRANGER: &str = "stranger";

fn write_all<const N: usize>(key: &mut Vec<u8>, texts: [&str; N]) {
    for text in texts {
        key.extend_from_slice(&text.len().to_le_bytes());
        key.extend_from_slice(text.as_bytes());
    }
}
