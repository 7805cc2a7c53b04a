//! Active checks: each endpoint is asked from time to time whether it is well, over the same TLS as requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_sdk::outbound::empty;
use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, Uri, Version};
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::body::{Progress, Watched};
use super::cluster::Cluster;
use super::endpoint::Endpoint;
use super::pool::{Http1, Http2};
use super::settings::Health;

/// Checks the endpoints of one upstream until `shutdown`.
pub(super) async fn check(cluster: Arc<Cluster>, settings: Health, shutdown: CancellationToken) {
    let settings = Arc::new(settings);
    let mut streaks: HashMap<u32, Streak> = HashMap::new();
    loop {
        let round = round(&cluster, &settings);
        let Some(verdicts) = shutdown.run_until_cancelled(round).await else { return };
        streaks.retain(|id, _| verdicts.iter().any(|(endpoint, _)| endpoint.id() == *id));
        for (endpoint, verdict) in verdicts {
            cluster.meter.checked(verdict.is_ok());
            let streak = streaks.entry(endpoint.id()).or_default();
            let Some(well) = streak.note(verdict.is_ok(), &settings) else { continue };
            if let Err(why) = verdict {
                let what = format!("health check of {} ({}): {why}", endpoint.place(), settings.path);
                tracing::warn!(upstream = cluster.name(), what, "an endpoint is not well");
                cluster.note_trouble(what);
            } else {
                tracing::info!(upstream = cluster.name(), endpoint = %endpoint.place(), "an endpoint is well");
            }
            cluster.set_well(&endpoint, well);
        }
        // Whoever has just been found is not left unasked for a whole pause.
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = cluster.changed.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(settings.every_ms)) => {}
        }
    }
}

/// Checks in a row that agree.
#[derive(Debug, Default)]
struct Streak {
    good: u32,
    bad: u32,
    /// What was last said of the endpoint.
    well: Option<bool>,
}

impl Streak {
    /// What is to be said of the endpoint, if that is news. The first check decides at once.
    fn note(&mut self, good: bool, settings: &Health) -> Option<bool> {
        (self.good, self.bad) = if good { (self.good + 1, 0) } else { (0, self.bad + 1) };
        let enough = match (self.well, good) {
            (None, _) => true,
            (Some(well), good) if well == good => false,
            (_, true) => self.good >= settings.healthy_after.get(),
            (_, false) => self.bad >= settings.unhealthy_after.get(),
        };
        enough.then(|| {
            self.well = Some(good);
            good
        })
    }
}

type Verdicts = Vec<(Arc<Endpoint>, Result<(), String>)>;

/// Asks all endpoints, a few at a time.
async fn round(cluster: &Arc<Cluster>, settings: &Arc<Health>) -> Verdicts {
    let few = Arc::new(Semaphore::new(CHECKS_MAX));
    let mut checks = JoinSet::new();
    for endpoint in cluster.endpoints() {
        let (cluster, settings, few) = (Arc::clone(cluster), Arc::clone(settings), Arc::clone(&few));
        checks.spawn(async move {
            let _turn = few.acquire().await;
            let limit = Duration::from_millis(settings.timeout_ms);
            let asked = tokio::time::timeout(limit, ask(&cluster, &endpoint, &settings.path)).await;
            let late = || Err(format!("no answer within health.timeout_ms = {}", settings.timeout_ms));
            (endpoint, asked.unwrap_or_else(|_| late()))
        });
    }
    checks.join_all().await
}

async fn ask(cluster: &Cluster, endpoint: &Endpoint, path: &str) -> Result<(), String> {
    let dialed = cluster.dialer.dial(endpoint, None).await.map_err(|error| error.to_string())?;
    let told = |error: hyper::Error| error.to_string();
    let request = question(cluster, endpoint, path)?;
    let answer = if cluster.dialer.speaks_http2() {
        let mut line = Http2::open(dialed, &cluster.answer_head).await.map_err(told)?;
        line.send.send_request(request).await
    } else {
        let mut line = Http1::open(dialed, &cluster.answer_head).await.map_err(told)?;
        line.send.send_request(request).await
    };
    let answer = answer.map_err(told)?;
    let status = answer.status();
    // Read as far as it came with the head: a server that notes broken connections should not have to.
    let _ = answer.into_body().frame().await;
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(format!("it answered {status}")) }
}

fn question(cluster: &Cluster, endpoint: &Endpoint, path: &str) -> Result<Request<Watched>, String> {
    let place = || HeaderValue::from_str(&endpoint.place().to_string()).ok();
    let host = cluster.host.clone().or_else(place).ok_or("the place is no host")?;
    let mut request = Request::new(Watched::new(empty(), &Progress::new()));
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("countersign-health"));
    if cluster.dialer.speaks_http2() {
        let scheme = if cluster.dialer.is_plain() { "http" } else { "https" };
        let uri = Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(path);
        *request.uri_mut() = uri.build().map_err(|error| error.to_string())?;
        *request.version_mut() = Version::HTTP_2;
    } else {
        *request.uri_mut() = path.parse().map_err(|_| "health.path is no path".to_owned())?;
        request.headers_mut().insert(HOST, host);
    }
    Ok(request)
}

/// Checks of one upstream at one time.
const CHECKS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn the_first_check_decides_and_later_ones_only_in_a_row() {
        let n = |n| NonZeroU32::new(n).unwrap();
        let settings = Health {
            path: "/".into(),
            every_ms: 1,
            timeout_ms: 1,
            unhealthy_after: n(3),
            healthy_after: n(2),
        };
        let mut streak = Streak::default();
        let mut note = |good| streak.note(good, &settings);
        assert_eq!(note(true), Some(true));
        assert_eq!([note(false), note(false), note(true)], [None; 3], "two are not three in a row");
        assert_eq!([note(false), note(false), note(false)], [None, None, Some(false)]);
        assert_eq!([note(false), note(true), note(false)], [None; 3], "one is not two in a row");
        assert_eq!([note(true), note(true)], [None, Some(true)]);
        let mut down = Streak::default();
        assert_eq!(down.note(false, &settings), Some(false));
    }
}
