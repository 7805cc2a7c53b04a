//! What policies can talk about: the two schemas, and how a caller is told to Cedar.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema,
};
use countersign_identity::{Caller, Possession, UserProof};
use http::Method;

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

action GET, HEAD, POST, PUT, PATCH, DELETE appliesTo {
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
pub(crate) struct Types {
    admin: EntityTypeName,
    workload: EntityTypeName,
    user: EntityTypeName,
    stranger: EntityTypeName,
    service: EntityTypeName,
    route: EntityTypeName,
    api: EntityTypeName,
    action: EntityTypeName,
}

impl Types {
    pub(crate) fn new() -> Result<Self, String> {
        let name = |text: &str| text.parse().map_err(|error| format!("{error}"));
        Ok(Self {
            admin: name("Admin")?,
            workload: name("Workload")?,
            user: name("User")?,
            stranger: name("Stranger")?,
            service: name("Service")?,
            route: name("Route")?,
            api: name("Api")?,
            action: name("Action")?,
        })
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

pub(crate) fn application_question(
    types: &Types,
    schema: &Schema,
    ask: &Ask<'_>,
) -> Result<Question, Unaskable> {
    let principal = principal(types, ask.caller)?;
    let service = uid(&types.service, ask.target);
    let route = uid(&types.route, &format!("{} {}", ask.target, ask.route));
    let resource = Entity::new_no_attrs(route, HashSet::from([service.clone()]));
    let action = uid(&types.action, ask.method.as_str());
    question(schema, ask.caller, ask.path, principal, action, vec![resource, Entity::with_uid(service)])
}

pub(crate) fn admin_question(
    types: &Types,
    schema: &Schema,
    ask: &AdminAsk<'_>,
) -> Result<Question, Unaskable> {
    let principal = match ask.caller.user() {
        Some(user) if ask.caller.proof().user == UserProof::LocalUid => {
            Entity::with_uid(uid(&types.admin, &user.id))
        }
        _ => principal(types, ask.caller)?,
    };
    let resource = Entity::with_uid(uid(&types.api, API));
    let action = uid(&types.action, ask.action);
    question(schema, ask.caller, ask.path, principal, action, vec![resource])
}

fn question(
    schema: &Schema,
    caller: &Caller,
    path: &str,
    principal: Entity,
    action: EntityUid,
    resource_and_parents: Vec<Entity>,
) -> Result<Question, Unaskable> {
    let resource = resource_and_parents.first().map(Entity::uid).ok_or_else(|| unaskable("no resource"))?;
    let context = context(caller, path).map_err(unaskable)?;
    let principal_uid = principal.uid();
    let request =
        Request::new(principal_uid.clone(), action.clone(), resource.clone(), context, Some(schema))
            .map_err(unaskable)?;
    let entities = std::iter::once(principal).chain(resource_and_parents);
    let entities = Entities::from_entities(entities, None).map_err(unaskable)?;
    Ok(Question { request, entities, principal: principal_uid, action, resource })
}

/// The workload if there is one, else the user, else a stranger: never anything that was not proven.
fn principal(types: &Types, caller: &Caller) -> Result<Entity, Unaskable> {
    if let Some(workload) = caller.workload() {
        let trust_domain = string(workload.id.trust_domain().as_str());
        let attributes = HashMap::from([("trust_domain".to_owned(), trust_domain)]);
        let name = uid(&types.workload, workload.id.as_str());
        return Entity::new(name, attributes, HashSet::new()).map_err(unaskable);
    }
    Ok(Entity::with_uid(match caller.user() {
        Some(user) => uid(&types.user, &user.id),
        None => uid(&types.stranger, "stranger"),
    }))
}

fn context(caller: &Caller, path: &str) -> Result<Context, String> {
    let proof = caller.proof();
    let proof = record([
        ("workload", string(proof.workload.as_str())),
        ("workload_possession", bool(proof.workload.possession() == Possession::Key)),
        ("binding", RestrictedExpression::new_set(proof.binding.iter().map(|bound| string(bound.as_str())))),
        ("user", string(proof.user.as_str())),
        ("user_possession", bool(proof.user_possession == Possession::Key)),
        ("freshness", string(proof.freshness.as_str())),
    ])?;
    let mut pairs = vec![("proof".to_owned(), proof), ("path".to_owned(), string(path))];
    if let Some(user) = caller.user() {
        let person = record([
            ("id", string(&user.id)),
            ("name", string(&user.name)),
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
