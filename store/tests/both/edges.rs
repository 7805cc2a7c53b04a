use std::time::Duration;

use countersign_store::edges::{BUCKETS, Edge, EdgeKey, Histogram};

use crate::ground::{Ground, NOW};

fn edge(target: &str, requests: u64, denied: u64, policy: &str, counts: &[u64]) -> Edge {
    Edge {
        key: EdgeKey {
            source: "spiffe://fleamarket.test/svc/ads".to_owned(),
            target: target.to_owned(),
            mode: "mtls".to_owned(),
            user: "internal_token".to_owned(),
        },
        policy: policy.to_owned(),
        requests,
        denied,
        latency: Histogram::from_counts(counts),
    }
}

both! {
    async fn counters_of_all_reports_add_up(ground: &Ground) {
        ground.db.add_edges(&[edge("users", 3, 1, "p1", &[0, 2, 1])], NOW).await.unwrap();
        ground.db.add_edges(&[edge("users", 4, 0, "p2", &[0, 1, 3]), edge("chat", 1, 1, "", &[])], NOW).await.unwrap();
        ground.db.add_edges(&[edge("users", 1, 1, "", &[0, 0, 1])], NOW).await.unwrap();
        let edges = ground.reopened().await.edges().await.unwrap();
        assert_eq!(edges, [edge("chat", 1, 1, "", &[]), edge("users", 8, 2, "p2", &[0, 3, 5])]);
    }

    async fn parallel_reports_in_any_order_lose_nothing(ground: &Ground) {
        let second = ground.reopened().await;
        let mut tasks = tokio::task::JoinSet::new();
        for turn in 0..20 {
            let db = if turn % 2 == 0 { ground.db.clone() } else { second.clone() };
            let mut report = vec![edge("users", 1, 0, "p", &[1]), edge("chat", 1, 0, "p", &[1])];
            if turn % 3 == 0 {
                report.reverse();
            }
            tasks.spawn(async move { db.add_edges(&report, NOW).await.unwrap() });
        }
        tasks.join_all().await;
        let edges = ground.db.edges().await.unwrap();
        assert_eq!(edges, [edge("chat", 20, 0, "p", &[20]), edge("users", 20, 0, "p", &[20])]);
    }

    async fn a_node_that_counts_without_measure_breaks_nothing(ground: &Ground) {
        const MOST: u64 = i64::MAX as u64;
        for _ in 0..2 {
            let report = [edge("users", MOST, MOST, "p", &[MOST]), edge("chat", 1, 0, "p", &[1])];
            ground.db.add_edges(&report, NOW).await.unwrap();
        }
        let edges = ground.db.edges().await.unwrap();
        assert_eq!(edges, [edge("chat", 2, 0, "p", &[2]), edge("users", MOST, MOST, "p", &[MOST])]);
    }

    async fn strangers_cannot_fill_the_table(ground: &Ground) {
        ground.db.add_edges(&[edge("users", 1, 0, "p", &[])], NOW).await.unwrap();
        ground
            .tamper(
                "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) \
                 INSERT INTO edges SELECT 'fleamarket.test', CAST(i AS TEXT), 'x', 'none', '', '', 1, 0, 0 FROM n",
            )
            .await;
        let report = [edge("users", 1, 0, "p", &[]), edge("new", 1, 0, "p", &[5])];
        assert_eq!(ground.db.add_edges(&report, NOW).await.unwrap(), 1);
        let edges = ground.db.edges().await.unwrap();
        assert_eq!(edges.len(), 10_000);
        assert!(edges.iter().all(|edge| edge.key.target != "new"));
        assert!(edges.contains(&edge("users", 2, 0, "p", &[])), "known edges go on counting");
    }
}

#[test]
fn quantiles_lie_in_the_bucket_of_their_call() {
    // 90 calls below 4 microseconds, 10 between 512 and 1024.
    let mut counts = [0; BUCKETS];
    (counts[2], counts[10]) = (90, 10);
    let histogram = Histogram::from_counts(&counts);
    assert_eq!(histogram.calls(), 100);
    let within = |share: f64, low: u64, high: u64| {
        let found = histogram.quantile(share).unwrap();
        assert!(
            (Duration::from_micros(low)..=Duration::from_micros(high)).contains(&found),
            "{share}: {found:?}"
        );
    };
    within(0.0, 2, 4);
    within(0.5, 2, 4);
    within(0.9, 2, 4);
    within(0.91, 512, 1024);
    within(0.99, 512, 1024);
    within(1.0, 512, 1024);
    assert!(histogram.quantile(0.91) < histogram.quantile(0.99), "spread within the bucket");
}

#[test]
fn no_calls_have_no_latency_and_too_long_ones_count_in_the_last_bucket() {
    assert_eq!(Histogram::default().quantile(0.5), None);
    let mut counts = vec![0; BUCKETS + 3];
    counts[BUCKETS + 2] = 1;
    counts[0] = 1;
    let histogram = Histogram::from_counts(&counts);
    assert_eq!((histogram.counts()[0], histogram.counts()[BUCKETS - 1]), (1, 1));
    assert!(histogram.quantile(1.0).unwrap() > Duration::from_secs(1000));
    assert!(histogram.quantile(0.5).unwrap() <= Duration::from_micros(1));
}
