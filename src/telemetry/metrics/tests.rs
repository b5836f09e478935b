use super::*;

const SENT: &str = "pgmq_gateway_messages_sent_total";

const EVERYTHING_DONE: [MessageEvent; 6] = [
    MessageEvent::Sent,
    MessageEvent::Received,
    MessageEvent::Deleted,
    MessageEvent::Archived,
    MessageEvent::Quarantined,
    MessageEvent::DeadLettered,
];

fn figures(length: i64, visible: i64, oldest_age_seconds: f64) -> QueueFigures {
    let (backlog, oldest_visible_age_seconds) = (visible + 1, oldest_age_seconds / 2.0);
    QueueFigures { length, visible, backlog, oldest_age_seconds, oldest_visible_age_seconds }
}

#[track_caller]
fn assert_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "`{line}` is missing in:\n{text}");
    }
}

/// Something of everything.
fn full() -> Metrics {
    let metrics = Metrics::new();
    for (count, done) in (3..).zip(EVERYTHING_DONE) {
        metrics.messages("orders", done, count);
    }
    metrics.maintenance_failed(Some("orders"));
    metrics.maintenance_failed(None);
    metrics.set_queue_figures("orders", figures(7, 5, 1.5));
    let request = Request {
        method: "GET",
        route: "/queues",
        status: 200,
        worked: Duration::from_millis(3),
        waited: Duration::ZERO,
    };
    metrics.request(&request);
    metrics.request(&Request { waited: Duration::from_secs(2), ..request });
    for _ in 0..2 {
        metrics.refused("connections");
        metrics.connection_opened();
    }
    metrics.connection_closed();
    metrics.statement_cancelled();
    metrics.in_flight(2, 4096);
    metrics.pool("shared", 5, 2);
    metrics.waiters(8);
    metrics.queues_in_use(3);
    metrics.scan_floors(1);
    metrics.process();
    metrics
}

#[test]
fn what_was_counted_is_rendered() {
    let text = full().render();
    assert_lines(
        &text,
        &[
            "pgmq_gateway_messages_sent_total{queue=\"orders\"} 3",
            "pgmq_gateway_messages_received_total{queue=\"orders\"} 4",
            "pgmq_gateway_messages_deleted_total{queue=\"orders\"} 5",
            "pgmq_gateway_messages_archived_total{queue=\"orders\"} 6",
            "pgmq_gateway_messages_quarantined_total{queue=\"orders\"} 7",
            "pgmq_gateway_messages_dead_lettered_total{queue=\"orders\"} 8",
            "pgmq_gateway_maintenance_failures_total{queue=\"orders\"} 1",
            "pgmq_gateway_maintenance_failures_total{queue=\"\"} 1",
            "pgmq_gateway_queue_length{queue=\"orders\"} 7",
            "pgmq_gateway_queue_visible{queue=\"orders\"} 5",
            "pgmq_gateway_queue_backlog{queue=\"orders\"} 6",
            "pgmq_gateway_queue_oldest_visible_message_age_seconds{queue=\"orders\"} 0.75",
            "pgmq_gateway_queue_oldest_message_age_seconds{queue=\"orders\"} 1.5",
            "pgmq_gateway_http_requests_total{method=\"GET\",route=\"/queues\",status=\"200\"} 2",
            "pgmq_gateway_refused_total{limit=\"connections\"} 2",
            "pgmq_gateway_database_statements_cancelled_total 1",
            "pgmq_gateway_database_connections{pool=\"shared\",state=\"busy\"} 3",
            "pgmq_gateway_database_connections{pool=\"shared\",state=\"idle\"} 2",
            "pgmq_gateway_connections 1",
            "pgmq_gateway_requests_in_flight 2",
            "pgmq_gateway_in_flight_bytes 4096",
            "pgmq_gateway_long_poll_waiters 8",
            "pgmq_gateway_queues_in_use 3",
            "pgmq_gateway_scan_floors 1",
            "pgmq_gateway_long_poll_wait_seconds_bucket{le=\"1\"} 0",
            "pgmq_gateway_long_poll_wait_seconds_bucket{le=\"2.5\"} 1",
            "pgmq_gateway_long_poll_wait_seconds_count 1",
            concat!("pgmq_gateway_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ],
    );
}

/// Dashboards and alerts are written against these.
#[test]
fn names_kinds_and_help_texts_stay() {
    let text = full().render();
    let mut described: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| cfg!(target_os = "linux") || !line.contains(" process_"))
        .collect();
    described.sort_unstable();
    let mut expected: Vec<_> = include_str!("described.txt")
        .lines()
        .filter(|line| cfg!(target_os = "linux") || !line.contains(" process_"))
        .collect();
    expected.sort_unstable();
    assert_eq!(described, expected);
    for line in expected {
        let (kind, rest) = line.split_once(' ').expect("a kind");
        let (name, value) = rest.split_once(' ').expect("a name");
        let series = text.lines().any(|line| line.starts_with(name));
        assert!(series, "{name} has no series");
        assert_eq!(
            kind == "TYPE" && value == "counter",
            kind == "TYPE" && name.ends_with("_total")
        );
    }
}

#[test]
fn buckets_stay() {
    let text = full().render();
    for name in
        ["pgmq_gateway_http_request_duration_seconds", "pgmq_gateway_long_poll_wait_seconds"]
    {
        let bounds: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with(&format!("{name}_bucket{{")))
            .filter_map(|line| line.split_once("le=\"")?.1.split_once('"'))
            .map(|(bound, _)| bound)
            .collect();
        let expected =
            "0.0005 0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 20 +Inf".split(' ');
        assert_eq!(bounds, expected.collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn names_of_queues_are_escaped() {
    let metrics = Metrics::new();
    metrics.messages("a\"b\\c\nd", MessageEvent::Sent, 1);
    assert_lines(&metrics.render(), &[r#"pgmq_gateway_messages_sent_total{queue="a\"b\\c\nd"} 1"#]);
}

#[test]
fn nothing_is_left_of_a_queue_that_is_gone() {
    let metrics = full();
    metrics.messages("other", MessageEvent::Sent, 1);
    metrics.forget_queue("orders");
    let text = metrics.render();
    assert!(!text.contains("queue=\"orders\""), "{text}");
    assert_lines(&text, &["pgmq_gateway_messages_sent_total{queue=\"other\"} 1"]);
    assert_eq!(metrics.known_queues(), HashSet::from(["other".into()]));

    metrics.messages("orders", MessageEvent::Sent, 2);
    assert_lines(&metrics.render(), &["pgmq_gateway_messages_sent_total{queue=\"orders\"} 2"]);
}

#[test]
fn figures_go_without_the_counters() {
    let metrics = full();
    metrics.forget_queue_figures("orders");
    assert!(!metrics.render().contains("pgmq_gateway_queue_"));
    metrics.set_queue_figures("orders", figures(1, 1, 0.0));
    metrics.set_queue_figures("more", figures(1, 1, 0.0));
    metrics.forget_all_figures();
    let text = metrics.render();
    assert!(!text.contains("pgmq_gateway_queue_"), "{text}");
    assert_lines(&text, &["pgmq_gateway_messages_sent_total{queue=\"orders\"} 3"]);
}

#[test]
fn counters_of_a_known_queue_begin_at_zero() {
    let metrics = Metrics::new();
    metrics.know_queue("orders");
    let text = metrics.render();
    for done in ["sent", "received", "deleted", "archived", "quarantined", "dead_lettered"] {
        assert_lines(
            &text,
            &[&format!("pgmq_gateway_messages_{done}_total{{queue=\"orders\"}} 0")],
        );
    }
    assert!(!text.contains("(other)") && !text.contains("queue=\"\""), "{text}");
    metrics.messages("orders", MessageEvent::DeadLettered, 2);
    metrics.know_queue("orders");
    assert_lines(
        &metrics.render(),
        &["pgmq_gateway_messages_dead_lettered_total{queue=\"orders\"} 2"],
    );
}

#[test]
fn nothing_done_makes_no_series() {
    let metrics = Metrics::new();
    metrics.messages("made-up", MessageEvent::Received, 0);
    assert!(metrics.known_queues().is_empty());
}

#[test]
fn as_many_queues_as_may_be_are_counted_by_name() {
    let metrics = Metrics::new();
    for number in 0..MAX_NAMED + 5 {
        metrics.messages(&format!("q{number}"), MessageEvent::Sent, 1);
    }
    metrics.messages("q7", MessageEvent::Deleted, 1);
    metrics.messages("late", MessageEvent::Deleted, 3);
    metrics.maintenance_failed(Some("late"));
    let text = metrics.render();
    let series = text.lines().filter(|line| line.starts_with(SENT)).count();
    assert_eq!(series, MAX_NAMED + 1);
    assert_lines(
        &text,
        &[
            "pgmq_gateway_messages_sent_total{queue=\"(other)\"} 5",
            "pgmq_gateway_messages_sent_total{queue=\"q7\"} 1",
            "pgmq_gateway_messages_deleted_total{queue=\"q7\"} 1",
            "pgmq_gateway_messages_deleted_total{queue=\"(other)\"} 3",
            "pgmq_gateway_maintenance_failures_total{queue=\"(other)\"} 1",
        ],
    );
    assert_eq!(metrics.known_queues().len(), MAX_NAMED);

    // One that goes makes room.
    metrics.forget_queue("q7");
    metrics.messages("late", MessageEvent::Sent, 2);
    assert_lines(&metrics.render(), &["pgmq_gateway_messages_sent_total{queue=\"late\"} 2"]);
    assert_eq!(metrics.known_queues().len(), MAX_NAMED);
}
