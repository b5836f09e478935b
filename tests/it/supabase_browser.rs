//! supabase-js in pages of a real browser, from other origins than the gateway's: `tests/browser/supabase.mjs`.

use axum::{
    Router,
    http::header,
    response::{Html, IntoResponse},
    routing::get,
};
use serde_json::json;
use tokio::{net::TcpListener, process::Command};

use super::auth::{ADMIN, with_admin};
use crate::support::{
    TestGateway,
    programs::{at, has_browser, installed, run},
    report,
};

const PAGE: &str = "<!doctype html><title>A page</title><script src=/supabase.js></script>";

/// A web site with a page that has supabase-js; returns its port.
async fn site() -> u16 {
    let bundle = installed("supabase-js/node_modules/@supabase/supabase-js/dist/umd/supabase.js");
    let script = std::fs::read(bundle).expect("read");
    let script =
        async move || ([(header::CONTENT_TYPE, "text/javascript")], script).into_response();
    let site = Router::new().route("/", get(Html(PAGE))).route("/supabase.js", get(script));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move { axum::serve(listener, site).await });
    port
}

/// The sites have names of their own, as pages of one host with two ports count as one site to browsers.
#[tokio::test]
async fn a_page_of_an_allowed_site_sends_and_reads_and_one_of_another_site_is_refused() {
    if !has_browser() {
        return;
    }
    let ours = format!("http://app.example:{}", site().await);
    let others = format!("http://evil.example:{}", site().await);
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.http.cors_origins = vec![ours.clone()];
    })
    .await;
    gateway.with_key(ADMIN).create("web").await;
    let open = TestGateway::with(|settings| settings.http.cors_origins = vec![ours.clone()]).await;
    open.create("web").await;
    open.send("web", r#"{"message":"kept"}"#).await;

    let mut node = Command::new("node");
    node.arg(at("tests/browser/supabase.mjs")).arg(installed("browser"));
    node.args([&ours, &others, &gateway.base, ADMIN, &open.base]);
    let said = run(node).await;
    report(&said);
    assert_eq!(said.matches("ok: ").count(), 5, "{said}");

    let left = gateway.with_key(ADMIN).all("web").await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["message"], json!("three"));
    // What the other site tried has left nothing, and has taken nothing.
    let kept = open.all("web").await;
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(kept[0]["message"], json!("kept"));
    assert_eq!(kept[0]["read_ct"], 0);
}
