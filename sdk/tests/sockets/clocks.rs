//! Clocks that disagree are seen before they are refused.

use std::time::Duration;

use countersign_identity::Mode;
use countersign_sdk::{clock, signing_chains::write_chain};
use countersign_token::ServiceToken;
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::{
    deployment::Deployment,
    modes::{Line, bearer, callee, get_with, signer, thumbprint, token},
};

/// P18: an alert on the gauge comes while the caller is still believed, and ends when its clock was set right.
#[tokio::test]
async fn the_gauge_of_a_callers_clock_rises_while_it_is_ahead_and_falls_when_it_is_set_right() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    // The whole deployment runs on the thread of this test.
    let _recording = metrics::set_default_local_recorder(&recorder);
    let deployment = Deployment::new();
    let users = callee(&deployment, &[Mode::Jwt]).await;
    let line = Line::open(&deployment, &users, None).await;
    let ads = signer(&deployment, "ads");
    let chain = write_chain(&ads.chain);
    let ask = async |ahead: u64| {
        let issued_at = clock::now().saturating_add(Duration::from_secs(ahead));
        let expires = issued_at.saturating_add(Duration::from_secs(30));
        let minted = ServiceToken { issued_at, expires, ..token(&deployment, &line) };
        let minted = bearer(&minted.mint(&ads.key, Some(&thumbprint(&ads))).unwrap());
        let headers = [("authorization", minted.as_str()), ("countersign-signing-chain", chain.as_str())];
        line.said(get_with(&headers)).await.0
    };
    let gauge = || {
        let text = metrics.render();
        let line = text.lines().find(|line| line.starts_with("countersign_peer_clock_ahead_seconds{"))?;
        assert!(line.contains(deployment.id("ads").as_str()), "{line}");
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    assert_eq!((ask(0).await, gauge()), (200, None), "nobody is ahead");
    // Seconds may pass between signing and judging.
    for ahead in [20_u32, 10] {
        assert_eq!(ask(ahead.into()).await, 200, "still believed");
        let seen = gauge().unwrap();
        assert!(seen > 0.0 && seen <= f64::from(ahead), "{seen} after {ahead}");
    }
    assert_eq!((ask(0).await, gauge()), (200, Some(0.0)), "its clock was set right");
    // Whoever is refused moves nothing: anybody could.
    assert_eq!(ask(600).await, 401);
    assert_eq!(gauge(), Some(0.0));
}
