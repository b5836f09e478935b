//! Logging in to the dashboard, and what that is worth.

use jsonwebtoken::Algorithm;
use pgmq_gateway::config::Settings;

use super::{
    auth::{ADMIN, key, with_admin},
    jwt::{Signer, claims, file, set, trust},
};
use crate::support::{Answer, Browser, TestDatabase, TestGateway, eventually, process::program};

fn keys(database: &TestDatabase, arguments: &[&str]) -> String {
    let url = database.url();
    let arguments: Vec<&str> = std::iter::once("keys").chain(arguments.iter().copied()).collect();
    let output = program(&arguments, &[("DATABASE_URL", &url)]).output().expect("ran");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

fn id_of(key: &str) -> &str {
    key.split('_').nth(1).expect("an id")
}

#[tokio::test]
async fn without_keys_nobody_logs_in() {
    let gateway = TestGateway::start().await;
    let browser = Browser::new(&gateway.base);
    let page = browser.get("/ui").await.expect(200);
    assert!(!page.text.contains("Log out"), "{}", page.text);
    let login = browser.get("/ui/login").await.expect(303);
    assert_eq!(login.header("location"), "/ui");
}

#[tokio::test]
async fn a_log_in_is_a_cookie_that_holds_no_key() {
    let gateway = TestGateway::with(with_admin).await;
    let stranger = Browser::new(&gateway.base);
    let led = stranger.get("/ui/queues/a%2Fb?x=y").await.expect(303);
    assert_eq!(led.header("location"), "/ui/login?next=%2Fui%2Fqueues%2Fa%252Fb%3Fx%3Dy");
    stranger.get("/ui/login").await.expect(200);
    for wrong in ["", "wrong", "pgk_a_b", "a.b.c"] {
        let refused = stranger.post("/ui/login", &[("key", wrong)]).await.expect(401);
        assert_eq!(refused.header("set-cookie"), "");
        assert!(refused.text.contains("role=\"alert\""), "{}", refused.text);
    }
    let form = [("key", ADMIN), ("next", "/ui/queues/q?list=dead")];
    let answer = stranger.post("/ui/login", &form).await.expect(303);
    assert_eq!(answer.header("location"), "/ui/queues/q?list=dead");
    let cookie = answer.header("set-cookie").to_owned();
    for flag in ["; Path=/ui;", "; HttpOnly", "; SameSite=Strict", "; Max-Age=43"] {
        assert!(cookie.contains(flag), "{flag}: {cookie}");
    }
    assert!(!cookie.contains("Secure") && !cookie.contains(ADMIN), "{cookie}");
    let browser = Browser::logged_in(&gateway.base, ADMIN).await;
    let page = browser.get("/ui").await.expect(200);
    assert!(page.text.contains("Log out") && page.text.contains("admin_key"), "{}", page.text);
    // One character more or less makes it nobody's.
    let cookie = browser.cookie().to_owned();
    for forged in [format!("{cookie}A"), cookie[..cookie.len() - 2].to_owned()] {
        browser.with_cookie(&forged).get("/ui").await.expect(303);
    }
    // It is none of the API's.
    Answer::of(browser.request("GET", "/queues")).await.problem(401, "unauthenticated");
    let gone = browser.post("/ui/logout", &[]).await.expect(303);
    assert!(gone.header("set-cookie").contains("Max-Age=0"), "{:?}", gone.headers);
}

#[tokio::test]
async fn the_cookie_is_for_tls_alone_where_that_is_in_front() {
    let gateway = TestGateway::with(|settings: &mut Settings| {
        with_admin(settings);
        settings.http.path_prefix = "/queues-of-ours".to_owned();
    })
    .await;
    let browser = Browser::new(&gateway.base);
    let log_in = |proto: &'static str| {
        let request = browser.request("POST", "/ui/login").body(format!("key={ADMIN}"));
        let request = request.header("x-forwarded-proto", proto);
        Answer::of(request.header("sec-fetch-site", "same-origin"))
    };
    let cookie = log_in("https").await.expect(303).header("set-cookie").to_owned();
    assert!(
        cookie.contains("; Secure") && cookie.contains("; Path=/queues-of-ours/ui;"),
        "{cookie}"
    );
    let plain = log_in("http").await.expect(303);
    assert!(!plain.header("set-cookie").contains("Secure"));
    assert_eq!(plain.header("location"), "/queues-of-ours/ui");
}

#[tokio::test]
async fn a_log_in_is_good_at_every_gateway_until_its_key_is_revoked() {
    let database = TestDatabase::new().await;
    let key = keys(&database, &["create", "--name", "ann", "--grant", "admin"]);
    let gateways =
        [TestGateway::on(&database, |_| {}).await, TestGateway::on(&database, |_| {}).await];
    let browser = Browser::logged_in(&gateways[0].base, &key).await;
    let secret = key.rsplit('_').next().expect("a secret");
    assert!(!browser.cookie().contains(secret));
    for gateway in &gateways {
        let page = browser.at(&gateway.base).get("/ui").await.expect(200);
        assert!(page.text.contains("ann"), "{}", page.text);
    }
    // The secret before the last rotation is good for as long as it is said, and so is a log-in with it.
    let rotated = keys(&database, &["rotate", id_of(&key), "--overlap", "1h"]);
    let again = eventually("the new secret is known", async || {
        let answer = Browser::new(&gateways[1].base).post("/ui/login", &[("key", &rotated)]).await;
        (answer.status == 303).then_some(answer)
    })
    .await;
    assert_ne!(again.header("set-cookie").split(';').next(), Some(browser.cookie()));
    browser.get("/ui").await.expect(200);
    keys(&database, &["revoke", id_of(&key)]);
    for gateway in &gateways {
        let browser = browser.at(&gateway.base);
        eventually("the log-in is void", async || {
            (browser.get("/ui").await.status == 303).then_some(())
        })
        .await;
        browser.post("/ui/logout", &[]).await.expect(303);
    }
}

#[tokio::test]
async fn a_log_in_ends_with_its_secret() {
    let database = TestDatabase::new().await;
    let old = keys(&database, &["create", "--name", "ann", "--grant", "admin"]);
    let gateway = TestGateway::on(&database, |_| {}).await;
    let browser = Browser::logged_in(&gateway.base, &old).await;
    browser.get("/ui").await.expect(200);
    let new = keys(&database, &["rotate", id_of(&old), "--overlap", "0s"]);
    eventually("the old log-in is void", async || {
        (browser.get("/ui").await.status == 303).then_some(())
    })
    .await;
    Browser::logged_in(&gateway.base, &new).await.get("/ui").await.expect(200);
}

#[tokio::test]
async fn keys_of_the_configuration_are_told_apart_by_what_they_are() {
    let database = TestDatabase::new().await;
    let with = |secret: &'static str| {
        move |settings: &mut Settings| settings.auth.keys = vec![key("shop", secret, &["send:q"])]
    };
    let one = TestGateway::on(&database, with("a-secret-of-the-shop")).await;
    let same = TestGateway::on(&database, with("a-secret-of-the-shop")).await;
    let other = TestGateway::on(&database, with("another-secret-of-it")).await;
    let browser = Browser::logged_in(&one.base, "a-secret-of-the-shop").await;
    browser.at(&same.base).get("/ui").await.expect(200);
    // It is called the same there, and is another.
    browser.at(&other.base).get("/ui").await.expect(303);
}

#[tokio::test]
async fn nothing_is_done_for_a_page_of_another_site() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        // Whose pages may use the API: not the dashboard.
        settings.http.cors_origins = vec!["http://app.example".to_owned()];
    })
    .await;
    let browser = Browser::logged_in(&gateway.base, ADMIN).await;
    let logout = |headers: &[(&'static str, &str)]| {
        let mut request = browser.request("POST", "/ui/logout");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request)
    };
    let origin = gateway.base.clone();
    for refused in [
        &[][..],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "http://app.example")],
        &[("origin", "null")],
        &[("origin", "http://127.0.0.1:1")],
        &[("sec-fetch-site", "cross-site"), ("origin", &origin)],
    ] {
        let answer = logout(refused).await.expect(403);
        assert!(answer.header("set-cookie").is_empty(), "{refused:?}");
        assert!(answer.header("access-control-allow-origin").is_empty(), "{refused:?}");
    }
    logout(&[("origin", &origin)]).await.expect(303);
    logout(&[("sec-fetch-site", "same-origin")]).await.expect(303);
    // Nor is anybody logged in by one: they would do things in somebody else's name.
    let login = browser.request("POST", "/ui/login").header("origin", "http://evil.example");
    let refused = Answer::of(login.body(format!("key={ADMIN}"))).await.expect(403);
    // No other content type would do.
    assert!(!refused.text.contains("application/json"), "{}", refused.text);
    assert!(refused.text.contains("a page of another site"), "{}", refused.text);
}

/// A token is no more kept than a key is; what it grants is, and for as long as it and its signer's key are good.
#[tokio::test]
async fn a_token_logs_in_until_it_ends_or_its_signer_does() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let signers = [Signer::new("one", Algorithm::ES256), Signer::new("two", Algorithm::ES256)];
    let published = file(&directory, &set(&[&signers[0]]));
    let database = TestDatabase::new().await;
    let with = |published: &str| {
        let trusting = trust(published.to_owned());
        |settings: &mut Settings| {
            trusting(settings);
            settings.jwt.refresh_interval_seconds = 1;
        }
    };
    let one = TestGateway::on(&database, with(&published)).await;
    let two = TestGateway::on(&database, with(&published)).await;
    let token = signers[0].token(&claims("openid manage:q receive:q"));
    let browser = Browser::logged_in(&one.base, &token).await;
    one.with_key(&token).create("q").await;
    // The other one never saw the token.
    let browser = browser.at(&two.base);
    let page = browser.get("/ui/queues/q").await.expect(200).text;
    assert!(page.contains("jwt:somebody") && !page.contains("/q/send\""), "{page}");
    let signature = token.rsplit('.').next().expect("a signature");
    assert!(!browser.cookie().contains(signature));
    browser.get("/ui/queues/other").await.expect(403);
    let soon = claims("receive:q");
    let soon = super::jwt::with(soon, "exp", (chrono::Utc::now().timestamp() + 2).into());
    let short = Browser::logged_in(&one.base, &signers[0].token(&soon)).await;
    eventually("it ends with the token", async || {
        (short.get("/ui").await.status == 303).then_some(())
    })
    .await;
    browser.get("/ui").await.expect(200);
    let long = claims(&"receive:a-queue-with-a-long-name ".repeat(200));
    let long = signers[0].token(&long);
    let refused = Browser::new(&one.base).post("/ui/login", &[("key", &*long)]).await.expect(401);
    assert!(refused.text.contains("fewer grants"), "{}", refused.text);
    // The signer withdraws the key.
    std::fs::write(&published, set(&[&signers[1]])).expect("written");
    eventually("it ends with the signer's key", async || {
        (browser.get("/ui").await.status == 303).then_some(())
    })
    .await;
}

/// What a token's key is called says nothing: a log-in ends with the key itself, and makes no token good again.
#[tokio::test]
async fn a_token_s_log_in_ends_with_a_key_that_another_takes_the_name_of() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let [old, new] = ["k", "k"].map(|id| Signer::new(id, Algorithm::ES256));
    let published = file(&directory, &set(&[&old]));
    let trusting = trust(published.clone());
    let gateway = TestGateway::with(|settings: &mut Settings| {
        trusting(settings);
        settings.jwt.refresh_interval_seconds = 1;
    })
    .await;
    let token = old.token(&claims("admin:*"));
    let browser = Browser::logged_in(&gateway.base, &token).await;
    browser.get("/ui").await.expect(200);
    gateway.with_key(&token).get("/queues").await.expect(200);
    std::fs::write(&published, set(&[&new])).expect("written");
    let by_new = gateway.with_key(&new.token(&claims("admin:*")));
    eventually("the new key is known", async || {
        (by_new.get("/queues").await.status == 200).then_some(())
    })
    .await;
    browser.get("/ui").await.expect(303);
    gateway.with_key(&token).get("/queues").await.problem(401, "unauthenticated");
}

/// A log-in is for what the token grants by the claim that was read then.
#[tokio::test]
async fn a_token_s_log_in_is_not_taken_where_another_claim_grants() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let signer = Signer::new("k", Algorithm::ES256);
    let published = file(&directory, &set(&[&signer]));
    let database = TestDatabase::new().await;
    let by_claim = |claim: &'static str| {
        let trusting = trust(published.clone());
        move |settings: &mut Settings| {
            trusting(settings);
            settings.jwt.grants_claim = claim.to_owned();
        }
    };
    let one = TestGateway::on(&database, by_claim("scope")).await;
    let same = TestGateway::on(&database, by_claim("scope")).await;
    let other = TestGateway::on(&database, by_claim("role")).await;
    let browser = Browser::logged_in(&one.base, &signer.token(&claims("admin:*"))).await;
    browser.at(&same.base).get("/ui").await.expect(200);
    browser.at(&other.base).get("/ui").await.expect(303);
}

/// Cookies do not know ports: applications beside the gateway give theirs to the same browser.
#[tokio::test]
async fn cookies_of_others_shut_nobody_out() {
    let gateway = TestGateway::with(with_admin).await;
    let elsewhere = TestGateway::with(|settings| {
        settings.auth.keys = vec![key("shop", "a-secret-of-the-shop", &["send:q"])];
    })
    .await;
    let stranger = Browser::new(&gateway.base);
    let ours = Browser::logged_in(&gateway.base, ADMIN).await.cookie().to_owned();
    let theirs = Browser::logged_in(&elsewhere.base, "a-secret-of-the-shop").await;
    let theirs = theirs.cookie().to_owned();
    stranger.with_cookie(&theirs).get("/ui").await.expect(303);
    for (before, after) in [
        (&b"theme=\xe9t\xe9; "[..], &b""[..]),
        (b"", b"; theme=\xe9t\xe9"),
        (b"pgmq_gateway_session=\xff; ", b""),
        (b"pgmq_gateway_session=; ", b""),
        (format!("{theirs}; ").as_bytes(), b""),
    ] {
        let shown = [before, ours.as_bytes(), after].concat();
        let request = stranger.request("GET", "/ui").header("cookie", shown);
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&[before, after].concat()));
    }
}
