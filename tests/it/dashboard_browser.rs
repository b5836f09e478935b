//! The dashboard as a person has it: in a real browser, in both themes, at three widths: `tests/browser`.

use tokio::process::Command;

use super::auth::{ADMIN, key, with_admin};
use crate::support::{
    TestGateway,
    programs::{at, has_browser, installed, run},
    report,
};

const FEW: &str = "the-key-of-one-who-receives";

#[tokio::test]
async fn every_page_and_action_works_in_a_browser() {
    if !has_browser() {
        return;
    }
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys = vec![key("few", FEW, &["receive:emails"])];
        settings.metrics.queue_interval_seconds = 1;
    })
    .await;
    let mut node = Command::new("node");
    node.arg(at("tests/browser/dashboard.mjs")).arg(installed("browser"));
    node.args([&gateway.base, ADMIN, FEW]);
    let said = run(node).await;
    report(&said);
    assert_eq!(said.matches("ok: ").count(), 8, "{said}");
}
