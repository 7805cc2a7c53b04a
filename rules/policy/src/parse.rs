//! Policy files: read, named, checked against the schema, and bounded.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cedar_policy::{Policy, PolicyId, Schema, ValidationMode, Validator};
use countersign_identity::{ServiceName, SpiffeId};
use countersign_request::{RouteTable, RouteTableError, RouteTemplate};
use serde_json::Value;
use thiserror::Error;

use crate::{
    condition::Condition,
    facts::Facts,
    index::Index,
    model::{API, APPLICATION_SCHEMA, Generation, Model, administration_schema},
};

/// Largest policy file, in bytes.
pub const POLICY_FILE_BYTES_MAX: usize = 64 * 1024;
/// Most policy files: one for each service.
pub const POLICY_FILES_MAX: usize = 1024;
/// Most rules in one file. An explanation looks at every one of them, and so may a decision, where none names in
/// its head what it is about; so this bounds the time that both take.
pub const RULES_PER_FILE_MAX: usize = 256;

/// The rules of every service, each in its own file.
#[derive(Debug)]
pub struct PolicySet {
    pub(crate) model: Model,
    pub(crate) files: BTreeMap<String, PolicyFile>,
}

/// The rules about our own API.
#[derive(Debug)]
pub struct AdminPolicies {
    pub(crate) model: Model,
    pub(crate) file: PolicyFile,
}

/// One file: rules whose ids are their `@id` annotations.
#[derive(Debug)]
pub(crate) struct PolicyFile {
    pub(crate) rules: Vec<Rule>,
    index: Index,
}

/// One rule, checked.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) policy: Policy,
    /// What has to hold beside the head, if it is among what we evaluate ourselves.
    pub(crate) condition: Option<Arc<Condition>>,
}

/// Why policies were not loaded. The ones that were in force stay in force.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// Over [`POLICY_FILES_MAX`].
    #[error("there are {files} policy files: at most {POLICY_FILES_MAX} are allowed")]
    TooManyFiles {
        /// How many there are.
        files: usize,
    },
    /// Two files for the same service.
    #[error("policy file {0:?} is there twice: merge them")]
    DuplicateFile(String),
    /// The file is not named after a service.
    #[error("policy file {0:?} is not named after a service: use its short name")]
    FileName(String),
    /// Over [`POLICY_FILE_BYTES_MAX`].
    #[error("policy file {file:?} has {bytes} bytes: at most {POLICY_FILE_BYTES_MAX} are allowed")]
    TooLong {
        /// Which file.
        file: String,
        /// How long it is.
        bytes: usize,
    },
    /// Over [`RULES_PER_FILE_MAX`].
    #[error("policy file {file:?} has {rules} rules: at most {RULES_PER_FILE_MAX} are allowed")]
    TooManyRules {
        /// Which file.
        file: String,
        /// How many rules it has.
        rules: usize,
    },
    /// Not Cedar.
    #[error("policy file {file:?} cannot be read: {detail}")]
    Syntax {
        /// Which file.
        file: String,
        /// What Cedar's parser says.
        detail: String,
    },
    /// A rule without `@id("…")`.
    #[error("policy file {file:?} has a rule without a name: write @id(\"…\") above it (rule {position})")]
    Unnamed {
        /// Which file.
        file: String,
        /// Which rule, counted from 1.
        position: usize,
    },
    /// An id outside `[a-z0-9-]{1,63}`: it goes into metrics and logs.
    #[error("policy file {file:?} has a rule named {id:?}: use lower-case letters, digits and '-'")]
    RuleName {
        /// Which file.
        file: String,
        /// What it calls the rule.
        id: String,
    },
    /// Two rules with the same `@id`.
    #[error("policy file {file:?} has two rules named {id:?}: rename one")]
    DuplicateRule {
        /// Which file.
        file: String,
        /// The name that is there twice.
        id: String,
    },
    /// A template with `?principal` or `?resource`: nothing would ever fill it in.
    #[error("policy file {file:?} has a template: write a rule without ?principal and ?resource")]
    Template {
        /// Which file.
        file: String,
    },
    /// Strict validation failed: a misspelt attribute, a wrong type, an unknown action.
    #[error("policy file {file:?}, rule {id:?}: {detail}")]
    Schema {
        /// Which file.
        file: String,
        /// Which rule.
        id: String,
        /// What Cedar's validator says.
        detail: String,
    },
    /// A rule names something that cannot exist, so that it could never apply: a route of another
    /// service, a workload without its full name.
    #[error("policy file {file:?}, rule {id:?} names {entity}, which cannot exist here: {hint}")]
    Unreachable {
        /// Which file.
        file: String,
        /// Which rule.
        id: String,
        /// What it names.
        entity: String,
        /// What it should look like.
        hint: String,
    },
    /// Two names for the paths of one route: whoever asks knows it by one of them, and rules about the other would never
    /// apply.
    #[error("policy file {file:?} names one route twice, as {first} and as {second}: write it in one way")]
    TwoNames {
        /// Which file.
        file: String,
        /// One name.
        first: String,
        /// The other.
        second: String,
    },
    /// The list of actions does not make a schema.
    #[error("schema cannot be built: {0}")]
    Model(String),
}

impl PolicySet {
    /// Reads files of rules, each with the short name of its service (or `gateway`).
    ///
    /// # Errors
    /// Anything that would make a rule mean less, or other, than what it says.
    pub fn load<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, PolicyError> {
        let model = Model::read(APPLICATION_SCHEMA).map_err(PolicyError::Model)?;
        let mut loaded = BTreeMap::new();
        for (name, text) in files {
            if ServiceName::parse(name).is_err() {
                return Err(PolicyError::FileName(name.chars().take(64).collect()));
            }
            let file = load_file(name, text, &model.schema, &|kind, id| check_entity(name, kind, id))?;
            check_routes(name, &file)?;
            if loaded.insert(name.to_owned(), file).is_some() {
                return Err(PolicyError::DuplicateFile(name.to_owned()));
            }
            if loaded.len() > POLICY_FILES_MAX {
                return Err(PolicyError::TooManyFiles { files: loaded.len() });
            }
        }
        Ok(Self { model, files: loaded })
    }

    /// Which rules these are.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.model.generation
    }

    /// The services that have a file.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The routes that the rules of one service name, each once, in no particular order: what somebody who stands in
    /// front of that service can know of them.
    #[must_use]
    pub fn routes(&self, target: &str) -> Vec<RouteTemplate> {
        self.files.get(target).map(|file| file.routes(target)).unwrap_or_default()
    }

    /// The names of the rules of one service; nothing for a service without a file.
    pub fn rules(&self, target: &str) -> impl Iterator<Item = &str> {
        self.files.get(target).into_iter().flat_map(PolicyFile::ids)
    }
}

impl AdminPolicies {
    /// Reads the rules about our own API, whose actions read `GET /api/v1/status`.
    ///
    /// # Errors
    /// As [`PolicySet::load`].
    pub fn load(text: &str, actions: &[&str]) -> Result<Self, PolicyError> {
        let model = Model::read(&administration_schema(actions)).map_err(PolicyError::Model)?;
        let file = load_file("admin", text, &model.schema, &check_admin_entity)?;
        Ok(Self { model, file })
    }

    /// The names of the rules.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.file.ids()
    }
}

impl PolicyFile {
    pub(crate) fn of(rules: Vec<Rule>) -> Self {
        Self { index: Index::of(&rules), rules }
    }

    fn routes(&self, target: &str) -> Vec<RouteTemplate> {
        let named: BTreeSet<String> = self
            .rules
            .iter()
            .flat_map(|rule| rule.policy.entity_literals())
            .filter(|entity| entity.type_name().basename() == "Route")
            .filter_map(|entity| {
                Some(entity.id().unescaped().strip_prefix(target)?.strip_prefix(' ')?.to_owned())
            })
            .collect();
        // Each was read when the rules were loaded.
        named.iter().filter_map(|route| RouteTemplate::parse(route).ok()).collect()
    }

    fn ids(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(Rule::id)
    }

    /// The rules whose heads fit.
    pub(crate) fn candidates(&self, facts: &Facts<'_>) -> impl Iterator<Item = &Rule> {
        self.index.candidates(facts).filter_map(|place| self.rules.get(place))
    }
}

impl Rule {
    fn of(policy: Policy) -> Self {
        let condition = policy.to_pst().ok().and_then(|policy| Condition::of(policy.body().clauses()));
        Self { policy, condition: condition.map(Arc::new) }
    }

    pub(crate) fn id(&self) -> &str {
        self.policy.id().as_ref()
    }
}

fn check_routes(target: &str, file: &PolicyFile) -> Result<(), PolicyError> {
    let routes = file.routes(target).into_iter().map(|route| (route, ()));
    match RouteTable::new(routes) {
        Ok(_) => Ok(()),
        Err(RouteTableError::Ambiguous { first, second }) => {
            Err(PolicyError::TwoNames { file: target.to_owned(), first, second })
        }
    }
}

/// What an entity should look like, if it cannot exist as it is.
type EntityCheck<'a> = &'a dyn Fn(&str, &str) -> Result<(), String>;

fn load_file(
    name: &str,
    text: &str,
    schema: &Schema,
    entity: EntityCheck<'_>,
) -> Result<PolicyFile, PolicyError> {
    let file = || name.to_owned();
    if text.len() > POLICY_FILE_BYTES_MAX {
        return Err(PolicyError::TooLong { file: file(), bytes: text.len() });
    }
    let parsed: cedar_policy::PolicySet = text.parse().map_err(|error: cedar_policy::ParseErrors| {
        PolicyError::Syntax { file: file(), detail: error.to_string() }
    })?;
    if parsed.num_of_templates() > 0 {
        return Err(PolicyError::Template { file: file() });
    }
    let rules = parsed.num_of_policies();
    if rules > RULES_PER_FILE_MAX {
        return Err(PolicyError::TooManyRules { file: file(), rules });
    }
    let rules = rename(name, &parsed)?;
    validate(name, &rules, schema)?;
    for rule in rules.policies() {
        check_entities(name, rule, entity)?;
    }
    Ok(PolicyFile::of(rules.policies().cloned().map(Rule::of).collect()))
}

/// Gives each rule the id of its annotation. Cedar calls them `policy0`, `policy1`, … whatever
/// `@id` says, and every log line would be useless.
fn rename(file: &str, parsed: &cedar_policy::PolicySet) -> Result<cedar_policy::PolicySet, PolicyError> {
    let mut seen = BTreeSet::new();
    let mut named = cedar_policy::PolicySet::new();
    for rule in parsed.policies() {
        let Some(id) = rule.annotation("id").filter(|id| !id.is_empty()) else {
            return Err(PolicyError::Unnamed { file: file.to_owned(), position: position(rule) });
        };
        if ServiceName::parse(id).is_err() {
            let id = id.chars().take(64).collect();
            return Err(PolicyError::RuleName { file: file.to_owned(), id });
        }
        if !seen.insert(id.to_owned()) {
            return Err(PolicyError::DuplicateRule { file: file.to_owned(), id: id.to_owned() });
        }
        named
            .add(rule.new_id(PolicyId::new(id)))
            .map_err(|error| PolicyError::Syntax { file: file.to_owned(), detail: error.to_string() })?;
    }
    Ok(named)
}

/// Where a rule stands in its file, from Cedar's own name for it.
fn position(rule: &Policy) -> usize {
    let id: &str = rule.id().as_ref();
    let number: Option<usize> = id.strip_prefix("policy").and_then(|number| number.parse().ok());
    number.map_or(1, |number| number.saturating_add(1))
}

fn validate(file: &str, rules: &cedar_policy::PolicySet, schema: &Schema) -> Result<(), PolicyError> {
    let result = Validator::new(schema.clone()).validate(rules, ValidationMode::Strict);
    match result.validation_errors().next() {
        None => Ok(()),
        Some(error) => Err(PolicyError::Schema {
            file: file.to_owned(),
            id: error.policy_id().to_string(),
            detail: error.to_string(),
        }),
    }
}

fn check_entities(file: &str, rule: &Policy, check: EntityCheck<'_>) -> Result<(), PolicyError> {
    let json = rule
        .to_json()
        .map_err(|error| PolicyError::Syntax { file: file.to_owned(), detail: error.to_string() })?;
    let mut waiting = vec![&json];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Array(items) => waiting.extend(items),
            Value::Object(fields) => {
                waiting.extend(fields.values());
                let text = |name: &str| fields.get(name).and_then(Value::as_str);
                if let (Some(kind), Some(id)) = (text("type"), text("id")) {
                    check(kind, id).map_err(|hint| PolicyError::Unreachable {
                        file: file.to_owned(),
                        id: rule.id().to_string(),
                        entity: format!("{kind}::{id:?}"),
                        hint,
                    })?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_entity(target: &str, kind: &str, id: &str) -> Result<(), String> {
    match kind {
        "Route" => {
            let template = id.strip_prefix(target).and_then(|rest| rest.strip_prefix(' '));
            match template.map(RouteTemplate::parse) {
                Some(Ok(_)) => Ok(()),
                Some(Err(error)) => Err(error.to_string()),
                None => Err(format!("a route of this file begins with {target:?} and a space")),
            }
        }
        "Service" if id != target => Err(format!("this file is asked about {target:?} only")),
        _ => check_person_or_program(kind, id),
    }
}

fn check_admin_entity(kind: &str, id: &str) -> Result<(), String> {
    let is_uid = |id: &str| id.strip_prefix("uid:").is_some_and(|uid| uid.parse::<u32>().is_ok());
    match kind {
        "Admin" if !is_uid(id) => Err("administrators are named by uid, such as uid:0".to_owned()),
        "Api" if id != API => Err(format!("there is only Api::{API:?}")),
        _ => check_person_or_program(kind, id),
    }
}

fn check_person_or_program(kind: &str, id: &str) -> Result<(), String> {
    match kind {
        "Workload" => match SpiffeId::parse(id) {
            Ok(parsed) if parsed.as_str() == id => Ok(()),
            Ok(parsed) => Err(format!("write it as {parsed}")),
            Err(error) => Err(error.to_string()),
        },
        "Stranger" if id != "stranger" => Err("there is only Stranger::\"stranger\"".to_owned()),
        _ => Ok(()),
    }
}
