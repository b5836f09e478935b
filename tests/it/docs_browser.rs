//! The pages of `/docs` in a real browser, as a newcomer meets them: `tests/browser/docs.mjs`.

use std::fs;

use tokio::process::Command;

use crate::support::{
    TestGateway,
    programs::{at, has_browser, installed, run},
    report,
};

/// The screenshots are kept, for people to look at.
const SCREENSHOTS: &str = "target/screenshots";

#[tokio::test]
async fn a_newcomer_sends_and_receives_with_nothing_typed_but_a_name() {
    if !has_browser() {
        return;
    }
    let gateway = TestGateway::start().await;
    let directory = at(SCREENSHOTS);
    fs::create_dir_all(&directory).expect("made");
    let mut node = Command::new("node");
    node.arg(at("tests/browser/docs.mjs")).arg(installed("browser"));
    node.args([&*gateway.base, "orders"]).arg(&directory);
    let said = run(node).await;
    report(&format!("screenshots: {SCREENSHOTS}/"));
    assert_eq!(said.matches("ok: ").count(), 2, "{said}");
    for queue in ["orders-wide", "orders-phone"] {
        let messages = gateway.all(queue).await;
        assert_eq!(messages.len(), 2, "{messages:?}");
        assert!(messages.iter().all(|message| message["read_ct"] == 1), "{messages:?}");
    }
}
