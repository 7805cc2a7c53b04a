//! What policies can talk about: the two schemas, and how a caller is told to Cedar.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema,
};
use countersign_identity::Caller;
use http::Method;

use crate::facts::{Facts, PrincipalKind, Resource};

/// The schema of policies about services. A route is named by its service, a space and its
/// template: `Route::"ads /ads/{id}/buy" in Service::"ads"`.
pub const APPLICATION_SCHEMA: &str = r#"
entity Workload { trust_domain: String };
entity User;
entity Stranger;
entity Service;
entity Route in [Service];

type Person = { id: String, name: String, roles: Set<String> };
type Proof = {
    workload: String, workload_possession: Bool, binding: Set<String>,
    user: String, user_possession: Bool, freshness: String,
};

action GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS appliesTo {
    principal: [Workload, User, Stranger],
    resource: [Route],
    context: { user?: Person, proof: Proof, path: String },
};
"#;

/// The schema of policies about our own API: one action for each of `actions`, which read
/// `GET /api/v1/status`. An administrator is known by uid: `Admin::"uid:0"`.
#[must_use]
pub fn administration_schema(actions: &[&str]) -> String {
    let names: Vec<String> = actions.iter().map(|action| format!("{action:?}")).collect();
    let actions = if names.is_empty() {
        String::new()
    } else {
        format!(
            "action {} appliesTo {{
    principal: [Admin, Workload, User, Stranger],
    resource: [Api],
    context: {{ user?: Person, proof: Proof, path: String }},
}};",
            names.join(", ")
        )
    };
    format!(
        r"
entity Admin;
entity Workload {{ trust_domain: String }};
entity User;
entity Stranger;
entity Api;

type Person = {{ id: String, name: String, roles: Set<String> }};
type Proof = {{
    workload: String, workload_possession: Bool, binding: Set<String>,
    user: String, user_possession: Bool, freshness: String,
}};

{actions}
"
    )
}

/// May this caller use this route of this service?
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Who is calling.
    pub caller: &'a Caller,
    /// The short name of the service that is called, or `gateway`.
    pub target: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The template of the route, such as `/ads/{id}/buy`.
    pub route: &'a str,
    /// The canonical path.
    pub path: &'a str,
}

/// May this caller use this route of our own API?
#[derive(Clone, Copy, Debug)]
pub struct AdminAsk<'a> {
    /// Who is calling. A user whose proof is the local uid is an `Admin`.
    pub caller: &'a Caller,
    /// Method and template, such as `GET /api/v1/services/{name}`.
    pub action: &'a str,
    /// The canonical path.
    pub path: &'a str,
}

/// The one resource of [`administration_schema`].
pub(crate) const API: &str = "v1";

/// The names of entity types, parsed once.
#[derive(Debug)]
struct Types {
    principals: [EntityTypeName; 4],
    service: EntityTypeName,
    route: EntityTypeName,
    api: EntityTypeName,
    action: EntityTypeName,
}

impl Types {
    fn new() -> Result<Self, String> {
        let name = |text: &str| text.parse().map_err(|error| format!("{error}"));
        let [admin, workload, user, stranger] = PrincipalKind::ALL.map(PrincipalKind::as_str).map(name);
        Ok(Self {
            principals: [admin?, workload?, user?, stranger?],
            service: name(Resource::SERVICE)?,
            route: name(Resource::ROUTE)?,
            api: name(Resource::API)?,
            action: name("Action")?,
        })
    }
}

/// Which rules those are: each set of them that this process loads has a number of its own. Whoever remembers a
/// decision remembers it too, and asks again when it has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation(u64);

impl Generation {
    fn next() -> Self {
        static LOADED: AtomicU64 = AtomicU64::new(0);
        Self(LOADED.fetch_add(1, Ordering::Relaxed))
    }
}

/// What questions are made of, for one set of rules.
#[derive(Debug)]
pub(crate) struct Model {
    types: Types,
    pub(crate) schema: Schema,
    actions: HashSet<String>,
    pub(crate) generation: Generation,
}

impl Model {
    /// Reads a schema; the error is the reason.
    pub(crate) fn read(schema: &str) -> Result<Self, String> {
        let (schema, _warnings) = Schema::from_cedarschema_str(schema).map_err(|error| error.to_string())?;
        let actions = schema.actions().map(|action| action.id().unescaped().to_owned()).collect();
        Ok(Self { types: Types::new()?, schema, actions, generation: Generation::next() })
    }

    /// Does the schema have this action? Nothing else of a question can be at odds with it.
    pub(crate) fn has_action(&self, action: &str) -> bool {
        self.actions.contains(action)
    }

    /// Says it in Cedar's form.
    pub(crate) fn question(&self, facts: &Facts<'_>) -> Result<Question, Unaskable> {
        question(&self.types, &self.schema, facts)
    }
}

/// A question as Cedar reads it, with the words that a permit and a refusal repeat.
pub(crate) struct Question {
    pub(crate) request: Request,
    pub(crate) entities: Entities,
    pub(crate) principal: EntityUid,
    pub(crate) action: EntityUid,
    pub(crate) resource: EntityUid,
}

/// The question does not fit the schema; in practice: there is no such action.
pub(crate) struct Unaskable {
    pub(crate) detail: String,
}

fn question(types: &Types, schema: &Schema, facts: &Facts<'_>) -> Result<Question, Unaskable> {
    let principal = principal(types, facts)?;
    let principal_uid = principal.uid();
    let action = uid(&types.action, facts.action);
    let (resource, parents) = match facts.resource {
        Resource::Route { service, .. } => {
            let service = uid(&types.service, service);
            (uid(&types.route, &facts.resource.id()), vec![service])
        }
        Resource::Api => (uid(&types.api, &facts.resource.id()), Vec::new()),
    };
    let context = context(facts).map_err(unaskable)?;
    let request =
        Request::new(principal_uid.clone(), action.clone(), resource.clone(), context, Some(schema))
            .map_err(unaskable)?;
    let entities = [principal, Entity::new_no_attrs(resource.clone(), parents.iter().cloned().collect())];
    let entities = entities.into_iter().chain(parents.into_iter().map(Entity::with_uid));
    let entities = Entities::from_entities(entities, None).map_err(unaskable)?;
    Ok(Question { request, entities, principal: principal_uid, action, resource })
}

fn principal(types: &Types, facts: &Facts<'_>) -> Result<Entity, Unaskable> {
    let [admin, workload, user, stranger] = &types.principals;
    let kind = match facts.principal.kind {
        PrincipalKind::Admin => admin,
        PrincipalKind::Workload => workload,
        PrincipalKind::User => user,
        PrincipalKind::Stranger => stranger,
    };
    let name = uid(kind, facts.principal.id);
    let attributes = facts.principal.trust_domain.map(|name| ("trust_domain".to_owned(), string(name)));
    Entity::new(name, attributes.into_iter().collect(), HashSet::new()).map_err(unaskable)
}

fn context(facts: &Facts<'_>) -> Result<Context, String> {
    let proof = facts.proof;
    let proof = record([
        ("workload", string(proof.workload.as_str())),
        ("workload_possession", bool(facts.workload_possession())),
        ("binding", RestrictedExpression::new_set(proof.binding.iter().map(|bound| string(bound.as_str())))),
        ("user", string(proof.user.as_str())),
        ("user_possession", bool(facts.user_possession())),
        ("freshness", string(proof.freshness.as_str())),
    ])?;
    let mut pairs = vec![("proof".to_owned(), proof), ("path".to_owned(), string(facts.path()))];
    if let Some(user) = facts.user {
        let person = record([
            ("id", string(user.id)),
            ("name", string(user.name)),
            ("roles", RestrictedExpression::new_set(user.roles.iter().map(|role| string(role)))),
        ])?;
        pairs.push(("user".to_owned(), person));
    }
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}

fn record<const N: usize>(fields: [(&str, RestrictedExpression); N]) -> Result<RestrictedExpression, String> {
    RestrictedExpression::new_record(fields.map(|(name, value)| (name.to_owned(), value)))
        .map_err(|error| error.to_string())
}

fn string(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

fn bool(value: bool) -> RestrictedExpression {
    RestrictedExpression::new_bool(value)
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn unaskable(error: impl ToString) -> Unaskable {
    Unaskable { detail: error.to_string() }
}
