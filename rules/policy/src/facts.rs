//! All that a rule can read of one question, borrowed from whoever asks.
//!
//! Everything goes through here: Cedar's form of the question, our own evaluation of conditions, and the key under
//! which a decision is remembered. So none of them can know more than another.

use std::cell::Cell;

use countersign_identity::{Bound, Caller, Possession, Proof, UserProof};

use crate::model::{API, AdminAsk, Ask};

/// What rules read.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) principal: Principal<'a>,
    pub(crate) action: &'a str,
    pub(crate) resource: Resource<'a>,
    /// Read by [`Facts::path`] alone.
    pub(crate) path: &'a str,
    /// Has anybody looked at the path? If not, the answer is the same for every other one.
    pub(crate) path_read: Cell<bool>,
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
            path_read: Cell::new(false),
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
            path_read: Cell::new(false),
            user: Person::of(ask.caller),
            proof: *ask.caller.proof(),
        }
    }

    /// The canonical path, for whoever decides by it.
    pub(crate) fn path(&self) -> &'a str {
        self.path_read.set(true);
        self.path
    }

    /// Does what was decided so far depend on the path?
    pub(crate) const fn path_was_read(&self) -> bool {
        self.path_read.get()
    }

    pub(crate) fn workload_possession(&self) -> bool {
        self.proof.workload.possession() == Possession::Key
    }

    pub(crate) fn user_possession(&self) -> bool {
        self.proof.user_possession == Possession::Key
    }

    /// Writes all of it but the path, so that no two questions read alike. Taken apart without `..`: a new fact does
    /// not compile before it is part of the key.
    pub(crate) fn write_key(&self, key: &mut Vec<u8>) {
        let Self { principal, action, resource, path: _, path_read: _, user, proof } = self;
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

impl<'a> Resource<'a> {
    pub(crate) const ROUTE: &'static str = "Route";
    pub(crate) const API: &'static str = "Api";
    /// What routes are in.
    pub(crate) const SERVICE: &'static str = "Service";

    /// Its entity type.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Route { .. } => Self::ROUTE,
            Self::Api => Self::API,
        }
    }

    /// Its name among those that one file of rules is about.
    pub(crate) const fn name(&self) -> &'a str {
        match self {
            Self::Route { template, .. } => template,
            Self::Api => API,
        }
    }

    /// Is this its id?
    pub(crate) fn is(&self, id: &str) -> bool {
        match self {
            Self::Route { service, template } => {
                id.strip_prefix(service).and_then(|rest| rest.strip_prefix(' ')) == Some(template)
            }
            Self::Api => id == API,
        }
    }

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
