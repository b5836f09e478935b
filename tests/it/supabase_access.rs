//! Who may call the functions of Supabase Queues: keys, tokens of users, and pages of other sites.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::Utc;
use jsonwebtoken::Algorithm;
use pgmq_gateway::config::RoleGrants;
use serde_json::json;
use tempfile::TempDir;

use super::{
    auth::{ADMIN, key, with_admin},
    jwt::{Signer, file, set, trust},
    supabase::{call, failure, request},
};
use crate::support::{Answer, TestGateway};

#[tokio::test]
async fn a_key_is_shown_as_api_key_or_as_bearer() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys = vec![key("sender", "a-key-that-only-sends", &["send:q"])];
    })
    .await;
    gateway.with_key(ADMIN).create("q").await;
    let send = json!({"queue_name": "q", "message": 1});
    let with =
        async |function: &str, body: &serde_json::Value, headers: &[(&'static str, String)]| {
            let mut request = request(&gateway, function, body);
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            Answer::of(request).await
        };
    let bearer = |key: &str| ("authorization", format!("Bearer {key}"));
    let api_key = |key: &str| ("apikey", key.to_owned());
    for headers in [
        vec![bearer(ADMIN)],
        vec![api_key(ADMIN)],
        vec![api_key("anything"), bearer(ADMIN)],
        vec![api_key("a-key-that-only-sends")],
    ] {
        with("send", &send, &headers).await.expect(200);
    }
    let nothing = with("send", &send, &[]).await;
    let body = failure(&nothing, 401, "PGRST301", "No API key found in request");
    assert!(body["hint"].as_str().expect("a hint").contains("apikey"));
    let wrong = with("send", &send, &[api_key(ADMIN), bearer("nobody")]).await;
    failure(&wrong, 401, "PGRST301", "Invalid API key");
    // What Supabase's older keys are.
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let secret = with("send", &send, &[api_key(&format!("{header}.e30.c2ln"))]).await;
    let body = failure(&secret, 401, "PGRST301", "Invalid API key");
    assert!(body["hint"].as_str().expect("a hint").contains("HS256"), "{body}");
    let pop = json!({"queue_name": "q"});
    let sender = [api_key("a-key-that-only-sends")];
    failure(&with("pop", &pop, &sender).await, 403, "42501", "`receive` on queue `q`");
    // Nobody is told which queues there are.
    let other = json!({"queue_name": "other", "message": 1});
    failure(&with("send", &other, &sender).await, 403, "42501", "other");
    let stored: i64 = gateway.database.value("SELECT count(*) FROM pgmq.q_q").await;
    assert_eq!(stored, 4);
}

#[tokio::test]
async fn a_role_of_a_token_has_its_grants() {
    let signer = Signer::new("one", Algorithm::ES256);
    let directory = TempDir::new().expect("a directory");
    let jwks = file(&directory, &set(&[&signer]));
    let gateway = TestGateway::with(|settings| {
        trust(jwks)(settings);
        with_admin(settings);
        let grants = vec!["send,receive:q".parse().expect("a grant")];
        settings.jwt.roles = vec![RoleGrants { role: "authenticated".to_owned(), grants }];
    })
    .await;
    gateway.with_key(ADMIN).create("q").await;
    let token = |role: &str| {
        signer.token(&json!({
            "iss": "https://login.example/", "aud": "queues", "sub": "a user", "role": role,
            "exp": Utc::now().timestamp() + 600,
        }))
    };
    let send = json!({"queue_name": "q", "message": 1});
    let user = gateway.with_key(&token("authenticated"));
    call(&user, "send", send.clone()).await.expect(200);
    user.receive_one("q", "").await;
    user.get("/queues/other").await.problem(403, "forbidden");
    let stranger = gateway.with_key(&token("anon"));
    failure(&call(&stranger, "send", send).await, 403, "42501", "send");
}

#[tokio::test]
async fn only_pages_of_sites_that_are_allowed_may_call() {
    let gateway = TestGateway::with(|settings| {
        settings.http.cors_origins = vec!["https://app.example".to_owned()];
    })
    .await;
    gateway.create("q").await;
    let preflight = async |origin: &'static str| {
        let request = gateway.request("OPTIONS", "/rest/v1/rpc/send").header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        Answer::of(request.header("access-control-request-headers", "apikey,content-profile")).await
    };
    let allowed = preflight("https://app.example").await.expect(200);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example");
    let names = allowed.header("access-control-allow-headers");
    for name in ["apikey", "authorization", "content-profile", "x-client-info", "prefer", "baggage"]
    {
        assert!(names.split(',').any(|allowed| allowed == name), "{name}: {names}");
    }
    let refused = preflight("https://evil.example").await;
    assert_eq!(refused.header("access-control-allow-origin"), "");
    let body = json!({"queue_name": "q", "message": 1});
    let page = request(&gateway, "send", &body).header("origin", "https://app.example");
    let page = Answer::of(page).await.expect(200);
    assert_eq!(page.header("access-control-expose-headers"), "content-range,content-profile");
    // A form, which browsers send without asking.
    let form =
        gateway.request("POST", "/rest/v1/rpc/send").header("origin", "https://evil.example");
    let form = Answer::of(form.header("content-type", "text/plain").body(body.to_string())).await;
    failure(&form, 415, "PGRST102", "application/json");
    let stored: i64 = gateway.database.value("SELECT count(*) FROM pgmq.q_q").await;
    assert_eq!(stored, 1);
}
