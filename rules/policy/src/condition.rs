//! Conditions as most people write them, made ready to be evaluated without Cedar.
//!
//! Cedar takes tens of microseconds to build a question and evaluate one rule. Nearly all rules say the same few
//! things: a role, an axis of the proof, a path. Those are read into a [`Condition`]; whatever is said in another way is
//! not, and Cedar is asked. So is Cedar when an evaluation comes to something that is not there, for only Cedar says
//! that a rule failed. `decide/tests.rs` holds the two against each other.

use cedar_policy::pst::{BinaryOp, Clause, EntityUID, Expr, Literal, PatternElem, UnaryOp, Var};

use crate::facts::{Facts, Resource};

/// Deepest nesting that is read here.
const DEPTH_MAX: usize = 64;

/// What has to hold.
#[derive(Debug)]
pub(crate) enum Condition {
    Constant(bool),
    Not(Box<Self>),
    And(Box<[Self; 2]>),
    Or(Box<[Self; 2]>),
    HasUser,
    WorkloadPossession,
    UserPossession,
    Is { subject: Subject, kind: String, id: Option<String> },
    InService(String),
    Equal(Text, Text),
    Like(Text, Pattern),
    Contains(Texts, Text),
    ContainsAll(Texts, Texts),
    ContainsAny(Texts, Texts),
}

/// The variables that are entities.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    Principal,
    Action,
    Resource,
}

/// Something that is a string.
#[derive(Debug)]
pub(crate) enum Text {
    Literal(String),
    TrustDomain,
    Path,
    UserId,
    UserName,
    WorkloadProof,
    UserProof,
    Freshness,
}

/// Something that is a set of strings.
#[derive(Debug)]
pub(crate) enum Texts {
    Listed(Vec<Text>),
    Roles,
    Binding,
}

/// What stands between the wildcards of a `like`.
#[derive(Debug)]
pub(crate) struct Pattern {
    first: String,
    rest: Vec<String>,
}

impl Condition {
    /// All clauses of a rule as one condition; nothing if one of them is not among what is read here.
    pub(crate) fn of(clauses: &[Clause]) -> Option<Self> {
        let mut all = Self::Constant(true);
        for clause in clauses {
            let clause = match clause {
                Clause::When(body) => Self::read(body, DEPTH_MAX)?,
                Clause::Unless(body) => Self::Not(Box::new(Self::read(body, DEPTH_MAX)?)),
            };
            all = Self::And(Box::new([all, clause]));
        }
        Some(all)
    }

    fn read(body: &Expr, depth: usize) -> Option<Self> {
        let depth = depth.checked_sub(1)?;
        let inner = |body| Self::read(body, depth).map(Box::new);
        match body {
            Expr::Literal(Literal::Bool(value)) => Some(Self::Constant(*value)),
            Expr::UnaryOp { op: UnaryOp::Not, expr } => inner(expr).map(Self::Not),
            Expr::BinaryOp { op, left, right } => Self::read_pair(*op, left, right, depth),
            Expr::HasAttr { .. } if is_user(body) => Some(Self::HasUser),
            Expr::Like { expr, pattern } => Some(Self::Like(Text::read(expr)?, Pattern::read(pattern))),
            Expr::Is { expr, entity_type, in_expr: None } => {
                Some(Self::Is { subject: subject(expr)?, kind: entity_type.to_string(), id: None })
            }
            Expr::GetAttr { .. } => match name(body)?.as_str() {
                "context.proof.workload_possession" => Some(Self::WorkloadPossession),
                "context.proof.user_possession" => Some(Self::UserPossession),
                _ => None,
            },
            _ => None,
        }
    }

    fn read_pair(op: BinaryOp, left: &Expr, right: &Expr, depth: usize) -> Option<Self> {
        let both = || Some(Box::new([Self::read(left, depth)?, Self::read(right, depth)?]));
        match op {
            BinaryOp::And => both().map(Self::And),
            BinaryOp::Or => both().map(Self::Or),
            BinaryOp::Eq => Self::equal(left, right),
            BinaryOp::NotEq => Some(Self::Not(Box::new(Self::equal(left, right)?))),
            BinaryOp::In => Self::within(subject(left)?, right),
            BinaryOp::Contains => Some(Self::Contains(Texts::read(left)?, Text::read(right)?)),
            BinaryOp::ContainsAll => Some(Self::ContainsAll(Texts::read(left)?, Texts::read(right)?)),
            BinaryOp::ContainsAny => Some(Self::ContainsAny(Texts::read(left)?, Texts::read(right)?)),
            _ => None,
        }
    }

    fn equal(left: &Expr, right: &Expr) -> Option<Self> {
        match (subject(left), entity(right)) {
            (Some(subject), Some(entity)) => Some(Self::is(subject, entity)),
            _ => Some(Self::Equal(Text::read(left)?, Text::read(right)?)),
        }
    }

    /// Nothing has parents but a route, whose parent is its service.
    fn within(subject: Subject, place: &Expr) -> Option<Self> {
        match place {
            Expr::Set(places) => places.iter().try_fold(Self::Constant(false), |any, place| {
                Some(Self::Or(Box::new([any, Self::within(subject, place)?])))
            }),
            _ => {
                let entity = entity(place)?;
                Some(match (subject, entity.ty.to_string().as_str()) {
                    (Subject::Resource, Resource::SERVICE) => Self::InService(entity.eid.to_string()),
                    _ => Self::is(subject, entity),
                })
            }
        }
    }

    fn is(subject: Subject, entity: &EntityUID) -> Self {
        Self::Is { subject, kind: entity.ty.to_string(), id: Some(entity.eid.to_string()) }
    }

    /// Whether it holds; nothing if Cedar has to say.
    pub(crate) fn holds(&self, facts: &Facts<'_>) -> Option<bool> {
        Some(match self {
            Self::Constant(value) => *value,
            Self::Not(inner) => !inner.holds(facts)?,
            Self::And(both) => {
                let [left, right] = &**both;
                left.holds(facts)? && right.holds(facts)?
            }
            Self::Or(both) => {
                let [left, right] = &**both;
                left.holds(facts)? || right.holds(facts)?
            }
            Self::HasUser => facts.user.is_some(),
            Self::WorkloadPossession => facts.workload_possession(),
            Self::UserPossession => facts.user_possession(),
            Self::Is { subject, kind, id } => subject.is(facts, kind, id.as_deref()),
            Self::InService(name) => {
                matches!(facts.resource, Resource::Route { service, .. } if service == name)
            }
            Self::Equal(left, right) => left.of(facts)? == right.of(facts)?,
            Self::Like(text, pattern) => pattern.matches(text.of(facts)?),
            Self::Contains(set, one) => set.has(facts, one.of(facts)?)?,
            Self::ContainsAll(set, others) => {
                let set = set.of(facts)?;
                others.of(facts)?.iter().all(|other| set.contains(other))
            }
            Self::ContainsAny(set, others) => {
                let set = set.of(facts)?;
                others.of(facts)?.iter().any(|other| set.contains(other))
            }
        })
    }
}

impl Subject {
    fn is(self, facts: &Facts<'_>, kind: &str, id: Option<&str>) -> bool {
        match self {
            Self::Principal => {
                facts.principal.kind.as_str() == kind && id.is_none_or(|id| facts.principal.id == id)
            }
            Self::Action => kind == "Action" && id.is_none_or(|id| facts.action == id),
            Self::Resource => facts.resource.kind() == kind && id.is_none_or(|id| facts.resource.is(id)),
        }
    }
}

impl Text {
    fn read(body: &Expr) -> Option<Self> {
        if let Expr::Literal(Literal::String(text)) = body {
            return Some(Self::Literal(text.to_string()));
        }
        Some(match name(body)?.as_str() {
            "principal.trust_domain" => Self::TrustDomain,
            "context.path" => Self::Path,
            "context.user.id" => Self::UserId,
            "context.user.name" => Self::UserName,
            "context.proof.workload" => Self::WorkloadProof,
            "context.proof.user" => Self::UserProof,
            "context.proof.freshness" => Self::Freshness,
            _ => return None,
        })
    }

    fn of<'a>(&'a self, facts: &Facts<'a>) -> Option<&'a str> {
        Some(match self {
            Self::Literal(text) => text,
            Self::TrustDomain => facts.principal.trust_domain?,
            Self::Path => facts.path(),
            Self::UserId => facts.user?.id,
            Self::UserName => facts.user?.name,
            Self::WorkloadProof => facts.proof.workload.as_str(),
            Self::UserProof => facts.proof.user.as_str(),
            Self::Freshness => facts.proof.freshness.as_str(),
        })
    }
}

impl Texts {
    fn read(body: &Expr) -> Option<Self> {
        if let Expr::Set(items) = body {
            return items.iter().map(|item| Text::read(item)).collect::<Option<_>>().map(Self::Listed);
        }
        match name(body)?.as_str() {
            "context.user.roles" => Some(Self::Roles),
            "context.proof.binding" => Some(Self::Binding),
            _ => None,
        }
    }

    /// As `of(facts)?.contains(one)`, which is what most rules ask, without a list made for it.
    fn has(&self, facts: &Facts<'_>, one: &str) -> Option<bool> {
        Some(match self {
            Self::Listed(_) => self.of(facts)?.contains(&one),
            Self::Roles => facts.user?.roles.iter().any(|role| role == one),
            Self::Binding => facts.proof.binding.iter().any(|bound| bound.as_str() == one),
        })
    }

    fn of<'a>(&'a self, facts: &Facts<'a>) -> Option<Vec<&'a str>> {
        match self {
            Self::Listed(items) => items.iter().map(|item| item.of(facts)).collect(),
            Self::Roles => Some(facts.user?.roles.iter().map(String::as_str).collect()),
            Self::Binding => Some(facts.proof.binding.iter().map(|bound| bound.as_str()).collect()),
        }
    }
}

impl Pattern {
    fn read(elements: &[PatternElem]) -> Self {
        let mut parts = elements.split(|element| *element == PatternElem::Wildcard).map(|part| {
            let literal = |element: &PatternElem| match element {
                PatternElem::Char(letter) => Some(*letter),
                PatternElem::Wildcard => None,
            };
            part.iter().filter_map(literal).collect()
        });
        Self { first: parts.next().unwrap_or_default(), rest: parts.collect() }
    }

    fn matches(&self, text: &str) -> bool {
        let Some(mut left) = text.strip_prefix(self.first.as_str()) else { return false };
        let Some((last, between)) = self.rest.split_last() else { return left.is_empty() };
        for part in between {
            let Some((_, after)) = left.split_once(part.as_str()) else { return false };
            left = after;
        }
        left.ends_with(last.as_str())
    }
}

fn subject(body: &Expr) -> Option<Subject> {
    match body {
        Expr::Var(Var::Principal) => Some(Subject::Principal),
        Expr::Var(Var::Action) => Some(Subject::Action),
        Expr::Var(Var::Resource) => Some(Subject::Resource),
        _ => None,
    }
}

fn entity(body: &Expr) -> Option<&EntityUID> {
    match body {
        Expr::Literal(Literal::EntityUID(entity)) => Some(entity),
        _ => None,
    }
}

/// `context has user`.
fn is_user(body: &Expr) -> bool {
    matches!(body, Expr::HasAttr { expr, attrs }
        if **expr == Expr::Var(Var::Context) && attrs.iter().eq(["user"]))
}

/// An attribute with the way to it, such as `context.user.id`. The schema has no attribute with a point in its name.
fn name(body: &Expr) -> Option<String> {
    match body {
        Expr::Var(Var::Principal) => Some("principal".to_owned()),
        Expr::Var(Var::Context) => Some("context".to_owned()),
        Expr::GetAttr { expr, attr } => Some(format!("{}.{attr}", name(expr)?)),
        _ => None,
    }
}
