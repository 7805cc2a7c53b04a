//! One route: which requests it takes, and where they go.

use countersign_request::{Head, RouteTemplate, is_identity_header};
use http::{HeaderName, Method, header};

use super::error::RouteError;
use super::lead::{Lead, Target};
use super::rewrite::Rewrite;
use crate::guard::RouteGuard;
use crate::guard::limits::Counted;
use crate::headers::Rules;
use crate::settings::{RouteSettings, Upgrade, UserNeed};
use crate::upstream::Upstreams;

/// One compiled route.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) template: RouteTemplate,
    pub(crate) lead: Lead,
    pub(crate) user: UserNeed,
    pub(crate) headers: Rules,
    pub(crate) guard: RouteGuard,
    /// Names of the filters that are asked; all without it.
    pub(crate) filters: Option<Vec<String>>,
    /// What the upstream sees in place of the path, once the decision is taken.
    pub(crate) rewrite: Option<Rewrite>,
    /// May a request leave HTTP?
    pub(crate) upgrades: bool,
    /// None named means all.
    methods: Vec<Method>,
    /// All must hold; sorted by name.
    conditions: Vec<Condition>,
}

/// One header that a request must have exactly once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    name: HeaderName,
    /// This value; none is any.
    value: Option<String>,
}

impl Route {
    pub(super) fn compile(
        settings: &RouteSettings,
        upstreams: &Upstreams,
        counted: &mut Counted,
    ) -> Result<Self, RouteError> {
        let path = || settings.path.clone();
        let template = RouteTemplate::parse(&settings.path)
            .map_err(|source| RouteError::Path { path: path(), source })?;
        let headers = Rules::compile(&settings.headers)
            .map_err(|source| RouteError::Header { path: path(), source })?;
        let methods =
            settings.methods.iter().map(|text| method(text, &settings.path)).collect::<Result<_, _>>()?;
        let prefix = settings.rewrite_prefix.as_deref();
        let rewrite = prefix.map(|prefix| Rewrite::new(&template, prefix)).transpose()?;
        let (lead, upgrades) =
            (Lead::compile(settings, upstreams)?, settings.upgrade.contains(&Upgrade::Websocket));
        if upgrades && lead.targets().any(Target::speaks_http2) {
            return Err(RouteError::UpgradeOverHttp2 { path: path() });
        }
        Ok(Route {
            lead,
            upgrades,
            user: settings.user,
            guard: RouteGuard::compile(settings, counted)
                .map_err(|source| RouteError::Guard { path: path(), source })?,
            conditions: conditions(settings)?,
            filters: settings.filters.clone(),
            template,
            headers,
            rewrite,
            methods,
        })
    }

    /// `HEAD` is `GET` without the body; policy still sees which of them it was.
    pub(super) fn takes(&self, wanted: &Method) -> bool {
        let named = |method: &Method| self.methods.contains(method);
        self.methods.is_empty() || named(wanted) || (wanted == Method::HEAD && named(&Method::GET))
    }

    pub(super) fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// Does the request have all the headers that this route asks for?
    pub(super) fn is_meant_by(&self, request: &impl Head) -> bool {
        self.conditions.iter().all(|condition| condition.holds(request))
    }

    /// How much it asks for: of two routes that take a request, the one that asks for more is the more exact.
    pub(super) fn exactness(&self) -> usize {
        self.conditions.len()
    }

    /// Could a request be meant for both, and neither be the more exact one?
    pub(super) fn is_confused_with(&self, other: &Route) -> bool {
        self.shares_a_method_with(other)
            && !self.contradicts(other)
            && !self.asks_for_more_than(other)
            && !other.asks_for_more_than(self)
    }

    fn shares_a_method_with(&self, other: &Route) -> bool {
        self.methods.is_empty()
            || other.methods.is_empty()
            || self.methods.iter().any(|method| other.methods.contains(method))
    }

    /// No request can have both values of one header.
    fn contradicts(&self, other: &Route) -> bool {
        let differs = |one: &Condition, two: &Condition| {
            one.name == two.name && one.value.is_some() && two.value.is_some() && one.value != two.value
        };
        self.conditions.iter().any(|one| other.conditions.iter().any(|two| differs(one, two)))
    }

    /// Whatever this route takes, the other one would too, but not the other way round.
    fn asks_for_more_than(&self, other: &Route) -> bool {
        self.conditions.len() > other.conditions.len()
            && other.conditions.iter().all(|condition| self.conditions.contains(condition))
    }
}

impl Condition {
    fn holds(&self, request: &impl Head) -> bool {
        let mut values = request.header_values(&self.name);
        // Twice is no answer: the upstream could take the other one.
        match (values.next(), values.next(), &self.value) {
            (Some(_), None, None) => true,
            (Some(value), None, Some(wanted)) => value == wanted.as_bytes(),
            _ => false,
        }
    }
}

fn conditions(settings: &RouteSettings) -> Result<Vec<Condition>, RouteError> {
    let mut conditions: Vec<Condition> = settings
        .match_headers
        .iter()
        .map(|(name, value)| condition(name, value, settings))
        .collect::<Result<_, _>>()?;
    conditions.sort_by(|one, two| one.name.as_str().cmp(two.name.as_str()));
    if conditions.iter().zip(conditions.iter().skip(1)).any(|(one, next)| one.name == next.name) {
        return Err(RouteError::MatchHeader {
            path: settings.path.clone(),
            name: settings.match_headers.keys().cloned().collect::<Vec<_>>().join(", "),
            why: "the same header twice, in two spellings",
        });
    }
    Ok(conditions)
}

fn condition(name: &str, value: &str, settings: &RouteSettings) -> Result<Condition, RouteError> {
    let refused = |why| RouteError::MatchHeader { path: settings.path.clone(), name: name.to_owned(), why };
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused("it is not a header name"))?;
    if is_identity_header(parsed.as_str()) || parsed == header::AUTHORIZATION || parsed == header::COOKIE {
        return Err(refused("what claims an identity is judged, it does not choose a route"));
    }
    if parsed == header::HOST {
        return Err(refused("write host = \"…\" instead"));
    }
    let value = (value != ANY).then(|| value.to_owned());
    Ok(Condition { name: parsed, value })
}

fn method(text: &str, path: &str) -> Result<Method, RouteError> {
    ROUTABLE
        .iter()
        .find(|method| method.as_str() == text)
        .cloned()
        .ok_or_else(|| RouteError::Method { path: path.to_owned(), method: text.to_owned() })
}

/// Any value, as long as there is one.
const ANY: &str = "*";
const ROUTABLE: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
