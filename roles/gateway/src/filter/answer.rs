//! What a filter answers, read in one way: anything that is not plainly yes is no.

use bytes::Bytes;
use countersign_identity::DecisionId;
use countersign_request::is_hop_by_hop;
use countersign_wire::ext_authz::check_response::HttpResponse;
use countersign_wire::ext_authz::header_value_option::HeaderAppendAction;
use countersign_wire::ext_authz::{CheckResponse, DeniedHttpResponse, HeaderValueOption, OkHttpResponse};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full};

use crate::forward::EdgeBody;
use crate::headers::{NamePattern, settable};
use crate::sidecar::headers::DECISION;

/// A filter's word on one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Go(Changes),
    Stop(Stopped),
}

/// What filters change of a request's headers, in the order in which they said it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    steps: Vec<Change>,
    /// Of what they wanted besides.
    pub(super) ignored: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Remove(HeaderName),
    /// In place of what is there.
    Replace(HeaderName, HeaderValue),
    /// One more value of a name that the same filter has set.
    Add(HeaderName, HeaderValue),
    OnlyIfAbsent(HeaderName, HeaderValue),
    OnlyIfThere(HeaderName, HeaderValue),
}

/// What the client gets of a filter that refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stopped {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Said {
    /// # Errors
    /// The filter itself says that it failed, or nothing that can be read.
    pub(super) fn of(answer: CheckResponse, may: &[NamePattern]) -> Result<Self, &'static str> {
        let status = answer.status.ok_or("its answer has no status")?;
        match (status.code, answer.http_response) {
            (_, Some(HttpResponse::ErrorResponse(_))) => Err("it says that it failed itself"),
            (OK, None) => Ok(Self::Go(Changes::default())),
            (OK, Some(HttpResponse::OkResponse(ok))) => Ok(Self::Go(Changes::of(ok, may))),
            (OK, Some(HttpResponse::DeniedResponse(_))) => Err("it says yes and no"),
            (_, Some(HttpResponse::DeniedResponse(denied))) => Ok(Self::Stop(Stopped::of(denied))),
            (_, None | Some(HttpResponse::OkResponse(_))) => {
                Ok(Self::Stop(Stopped::of(DeniedHttpResponse::default())))
            }
        }
    }
}

impl Changes {
    fn of(ok: OkHttpResponse, may: &[NamePattern]) -> Self {
        let mut changes = Self::default();
        for name in &ok.headers_to_remove {
            match allowed(name, may) {
                Some(name) => changes.steps.push(Change::Remove(name)),
                None => changes.ignored += 1,
            }
        }
        for option in &ok.headers {
            match changes.one(option, may) {
                Some(change) => changes.steps.push(change),
                None => changes.ignored += 1,
            }
        }
        changes
    }

    fn one(&self, option: &HeaderValueOption, may: &[NamePattern]) -> Option<Change> {
        let (name, value) = read(option)?;
        let name = allowed(&name, may)?;
        let again = |step: &Change| matches!(step, Change::Replace(set, _) if *set == name);
        Some(match HeaderAppendAction::try_from(option.append_action).ok()? {
            // Envoy too reads the absence of an action as this, in this message.
            HeaderAppendAction::AppendIfExistsOrAdd if self.steps.iter().any(again) => {
                Change::Add(name, value)
            }
            HeaderAppendAction::AppendIfExistsOrAdd | HeaderAppendAction::OverwriteIfExistsOrAdd => {
                Change::Replace(name, value)
            }
            HeaderAppendAction::AddIfAbsent => Change::OnlyIfAbsent(name, value),
            HeaderAppendAction::OverwriteIfExists => Change::OnlyIfThere(name, value),
        })
    }

    /// What the next filter says comes after.
    pub(super) fn then(&mut self, next: Self) {
        self.steps.extend(next.steps);
        self.ignored += next.ignored;
    }

    pub(super) fn count(&self) -> usize {
        self.steps.len()
    }

    /// Makes them.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for step in &self.steps {
            match step {
                Change::Remove(name) => drop(headers.remove(name)),
                Change::Replace(name, value) => drop(headers.insert(name, value.clone())),
                Change::Add(name, value) => drop(headers.append(name, value.clone())),
                Change::OnlyIfAbsent(name, _) if headers.contains_key(name) => {}
                Change::OnlyIfThere(name, _) if !headers.contains_key(name) => {}
                Change::OnlyIfAbsent(name, value) | Change::OnlyIfThere(name, value) => {
                    headers.insert(name, value.clone());
                }
            }
        }
    }
}

impl Stopped {
    pub(super) fn of(denied: DeniedHttpResponse) -> Self {
        let status = denied.status.and_then(|status| StatusCode::from_u16(status.code.try_into().ok()?).ok());
        // A refusal never looks like a success, and never begins another protocol.
        let status =
            status.filter(|status| (300..600).contains(&status.as_u16())).unwrap_or(StatusCode::FORBIDDEN);
        let mut headers = HeaderMap::new();
        for (name, value) in denied.headers.iter().filter_map(read) {
            if let Some(name) = unreserved(&name) {
                headers.append(name, value);
            }
        }
        if !denied.body.is_empty() && !headers.contains_key(header::CONTENT_TYPE) {
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            headers.insert(header::CONTENT_TYPE, text);
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Self { status, headers, body: Bytes::from(denied.body) }
    }

    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// The filter's own answer; where it only says no, `ours`.
    pub(crate) fn response(&self, ours: Response<Full<Bytes>>, decision: DecisionId) -> Response<EdgeBody> {
        let only_says_no = self.body.is_empty() && self.status == StatusCode::FORBIDDEN;
        let mut answer = if only_says_no { ours } else { Response::new(Full::from(self.body.clone())) };
        *answer.status_mut() = self.status;
        answer.headers_mut().extend(self.headers.clone());
        if let Ok(decision) = HeaderValue::from_str(&decision.to_string()) {
            answer.headers_mut().insert(DECISION, decision);
        }
        answer.map(|body| body.map_err(|never| match never {}).boxed_unsync())
    }
}

fn read(option: &HeaderValueOption) -> Option<(String, HeaderValue)> {
    let header = option.header.as_ref()?;
    let value = match header.raw_value.as_slice() {
        [] => header.value.as_bytes(),
        raw => raw,
    };
    Some((header.key.clone(), HeaderValue::from_bytes(value).ok()?))
}

/// A header that the settings give to the filter.
fn allowed(name: &str, may: &[NamePattern]) -> Option<HeaderName> {
    unreserved(name).filter(|name| may.iter().any(|pattern| pattern.takes(name)))
}

/// No header that frames the message, names its target or a caller, or is about the connection; no pseudo-header.
fn unreserved(name: &str) -> Option<HeaderName> {
    settable(name).ok().filter(|name| !is_hop_by_hop(name))
}

const OK: i32 = 0;
