//! Spans of what is done for several requests at once.

use tracing::{Span, debug_span};

use crate::domain::{Call, QueueName};

/// The span of a statement that serves these requests: it belongs to none of them, and follows from each.
pub(super) fn statement<'a>(
    name: &'static str,
    queue: Option<&QueueName>,
    calls: impl Iterator<Item = &'a Call>,
) -> Span {
    let queue = queue.map(QueueName::as_str);
    let span = debug_span!(parent: None, "statement", name, queue);
    if !span.is_disabled() {
        for call in calls {
            serves(&span, call);
        }
    }
    span
}

/// Notes of a statement that it serves a request, where that is known when it has ended.
pub(super) fn serves(statement: &Span, call: &Call) {
    if !statement.is_disabled() {
        statement.follows_from(call.span());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{
        Subscriber, span,
        subscriber::{NoSubscriber, with_default},
    };
    use tracing_subscriber::{Layer, layer::Context, prelude::*, registry::LookupSpan};

    use super::*;

    /// The names of spans, and of those from which they follow.
    #[derive(Clone, Default)]
    struct Followed(Arc<Mutex<Vec<(&'static str, &'static str)>>>);

    impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Followed {
        fn on_follows_from(&self, id: &span::Id, from: &span::Id, context: Context<'_, S>) {
            let name = |id| context.span(id).expect("there").name();
            self.0.lock().expect("whole").push((name(id), name(from)));
        }
    }

    #[test]
    fn a_statement_follows_from_the_requests_that_it_serves() {
        let followed = Followed::default();
        with_default(tracing_subscriber::registry().with(followed.clone()), || {
            let [first, second] = [Call::default(), Call::default()];
            first.set_span(debug_span!("request"));
            let span = statement("send", None, [&first, &second].into_iter());
            assert!(!span.is_disabled());
        });
        assert_eq!(*followed.0.lock().expect("whole"), [("statement", "request")]);
    }

    #[test]
    fn where_nobody_listens_there_is_no_span() {
        // Set, as what other tests listen to counts for a thread that has nothing set.
        with_default(NoSubscriber::default(), || {
            let call = Call::default();
            call.set_span(debug_span!("request"));
            assert!(statement("send", None, [&call].into_iter()).is_disabled());
        });
    }
}
