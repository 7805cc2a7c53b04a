//! Reports about advertisements: anybody files one, moderators see them.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use countersign_identity::UnixTime;
use countersign_sdk::clock;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    asking::{Caller, EndUser},
    fault::{Fault, no_method, no_route},
    input::{Id, Json, text},
    neighbour::{Neighbour, NeighbourError},
    services::ads::AdView,
    store::{Report, ReportStore},
};

/// What the service needs.
#[derive(Clone, Debug)]
pub struct Reports {
    /// Its own database.
    pub store: ReportStore,
    /// Knows whether an advertisement exists.
    pub ads: Neighbour,
}

/// The routes of the service.
pub fn router(reports: Reports) -> Router {
    Router::new()
        .route("/reports", get(list).post(file))
        .route("/reports/{id}/close", post(close))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(Arc::new(reports))
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportBody {
    ad: i64,
    reason: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CloseBody {
    outcome: String,
}

/// Reports, open ones first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportList {
    /// At most 200.
    pub reports: Vec<ReportView>,
}

/// A report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportView {
    /// Its number.
    pub id: i64,
    /// Which advertisement.
    pub ad: i64,
    /// Its title, if ads could be asked.
    pub ad_title: Option<String>,
    /// Who filed it.
    pub reporter: String,
    /// Why.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub created_at: UnixTime,
    /// How it ended, if it has.
    pub closed: Option<Closed>,
}

/// How a report ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Closed {
    /// When, in milliseconds since 1970.
    pub at: UnixTime,
    /// Who closed it.
    pub by: String,
    /// What was done.
    pub outcome: String,
}

async fn list(State(reports): State<Arc<Reports>>) -> Result<axum::Json<ReportList>, Fault> {
    let all = reports.store.all().await?;
    Ok(axum::Json(ReportList { reports: all.into_iter().map(view).collect() }))
}

async fn file(
    State(reports): State<Arc<Reports>>,
    caller: Caller,
    user: EndUser,
    Json(body): Json<ReportBody>,
) -> Result<(StatusCode, axum::Json<ReportView>), Fault> {
    if body.ad < 1 {
        return Err(Fault::Invalid("ad is not a number from 1".to_owned()));
    }
    let reason = text("reason", &body.reason, 500)?;
    let reporter = reports.store.db().recognise(&user).await?;
    let title = reports.title_of(&caller, body.ad).await?;
    let filed = reports.store.file(body.ad, title.as_deref(), &reporter, &reason, clock::now()).await?;
    let filed = filed.ok_or_else(|| Fault::Conflict("you have reported this ad before".to_owned()))?;
    Ok((StatusCode::CREATED, axum::Json(view(filed))))
}

async fn close(
    State(reports): State<Arc<Reports>>,
    user: EndUser,
    Id(id): Id,
    Json(body): Json<CloseBody>,
) -> Result<axum::Json<ReportView>, Fault> {
    let outcome = text("outcome", &body.outcome, 500)?;
    let moderator = reports.store.db().recognise(&user).await?;
    let closed = reports.store.close(id, &moderator, &outcome, clock::now()).await?;
    let closed = closed.ok_or_else(|| Fault::NotFound(format!("there is no open report {id}")))?;
    Ok(axum::Json(view(closed)))
}

impl Reports {
    /// A report is accepted without a title when ads does not answer: moderators would rather know.
    async fn title_of(&self, caller: &Caller, ad: i64) -> Result<Option<String>, Fault> {
        match self.ads.get::<AdView>(caller, &format!("/ads/{ad}")).await {
            Ok(view) => Ok(Some(view.title)),
            Err(NeighbourError::Refused(StatusCode::NOT_FOUND)) => {
                Err(Fault::Invalid(format!("there is no ad {ad}")))
            }
            Err(error) => {
                tracing::warn!(%error, ad, "a report was filed without the title of its ad");
                Ok(None)
            }
        }
    }
}

fn view(report: Report) -> ReportView {
    let Report { id, ad, ad_title, reporter, reason, created_at, closed } = report;
    let closed = closed.map(|(at, by, outcome)| Closed { at, by, outcome });
    ReportView { id, ad, ad_title, reporter, reason, created_at, closed }
}
