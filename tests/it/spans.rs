//! Spans of statements, and of the requests that they serve.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    process::Command,
    sync::{Arc, Mutex},
};

use tracing::{
    Subscriber,
    field::{Field, Visit},
    span,
    subscriber::set_default,
};
use tracing_subscriber::{Layer, layer::Context, prelude::*, registry::LookupSpan};

use crate::support::TestGateway;

/// The names of statements, and of the spans from which they follow.
#[derive(Clone, Default)]
struct Followed(Arc<Mutex<BTreeSet<(String, &'static str)>>>);

/// What a span says of its name.
#[derive(Default)]
struct Name(String);

impl Visit for Name {
    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "name" {
            value.clone_into(&mut self.0);
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Followed {
    fn on_new_span(
        &self,
        attributes: &span::Attributes<'_>,
        id: &span::Id,
        context: Context<'_, S>,
    ) {
        let mut name = Name::default();
        attributes.record(&mut name);
        context.span(id).expect("there").extensions_mut().insert(name);
    }

    fn on_follows_from(&self, id: &span::Id, from: &span::Id, context: Context<'_, S>) {
        let statement = context.span(id).expect("there");
        let name =
            statement.extensions().get::<Name>().map_or_else(String::new, |name| name.0.clone());
        let from = context.span(from).expect("there").name();
        self.0.lock().expect("whole").insert((name, from));
    }
}

/// In a process of its own: what others listen to counts for all threads.
#[test]
fn statements_follow_from_the_requests_that_they_serve() {
    let test = "spans::in_this_process_statements_follow_from_requests";
    let this = std::env::current_exe().expect("known");
    let ran = Command::new(this).args(["--exact", test, "--ignored"]).output().expect("run");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "run by the test above"]
async fn in_this_process_statements_follow_from_requests() {
    let followed = Followed::default();
    let _listening = set_default(tracing_subscriber::registry().with(followed.clone()));
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let (received, id) =
        tokio::join!(gateway.receive("q", "wait=20"), gateway.send("q", r#"{"message":1}"#));
    assert_eq!(received[0]["msg_id"], id);
    gateway.delete(&format!("/queues/q/messages/{id}")).await.expect(204);
    let followed = followed.0.lock().expect("whole");
    for name in ["send", "receive", "end"] {
        assert!(followed.contains(&(name.to_owned(), "request")), "{name}: {followed:?}");
    }
}
