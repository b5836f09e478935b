//! Requests that a browser makes for a page.

use tokio::io::AsyncWriteExt;

use super::auth::{ADMIN, with_admin};
use crate::support::{Answer, Client, TestGateway, eventually, raw};

/// As a browser does it for a page of another site.
#[tokio::test]
async fn pages_of_other_sites_are_told_nothing_unless_they_are_welcome() {
    let preflight = |gateway: &TestGateway, origin: &str| {
        let request = gateway.request("OPTIONS", "/queues/q/messages").header("origin", origin);
        let request = request.header("access-control-request-headers", "content-type");
        Answer::of(request.header("access-control-request-method", "POST"))
    };
    let send = |gateway: &TestGateway, origin: &str| {
        let request = gateway.request("POST", "/queues/q/messages").body(r#"{"message":1}"#);
        Answer::of(request.header("origin", origin))
    };
    let closed = TestGateway::start().await;
    closed.create("q").await;
    let refused = preflight(&closed, "https://app.example").await;
    refused.clone().problem(405, "method_not_allowed");
    assert_eq!(refused.header("access-control-allow-origin"), "");
    let refused = send(&closed, "https://app.example").await.problem(415, "unsupported_media_type");
    assert!(refused.detail().contains("`Content-Type: application/json`"), "{}", refused.text);
    // Each front end says what would do there.
    for (kind, would_do) in [
        ("application/x-www-form-urlencoded", "must be of the JSON protocol"),
        ("text/plain", "`Content-Type: application/x-amz-json-1.0`"),
    ] {
        let request = closed.request("POST", "/").header("origin", "https://app.example");
        let request = request.header("content-type", kind);
        let request = if kind == "text/plain" {
            request.header("x-amz-target", "AmazonSQS.ListQueues").body("{}")
        } else {
            request.body("Action=ListQueues&Version=2012-11-05")
        };
        let answer = Answer::of(request).await.expect(403);
        assert!(answer.text.contains(would_do), "{kind}: {}", answer.text);
    }

    let open = TestGateway::with(|settings| {
        // However it is written, a browser writes it in one way.
        settings.http.cors_origins = vec!["HTTPS://App.Example:443".to_owned()];
    })
    .await;
    open.create("q").await;
    let welcome = preflight(&open, "https://app.example").await.expect(200);
    assert_eq!(welcome.header("access-control-allow-origin"), "https://app.example");
    let sent = send(&open, "https://app.example").await.expect(201);
    assert_eq!(sent.header("access-control-allow-origin"), "https://app.example");
    assert!(sent.header("access-control-expose-headers").contains("location"));
    let other = preflight(&open, "https://evil.example").await;
    assert_eq!(other.header("access-control-allow-origin"), "");
    send(&open, "https://evil.example").await.problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn where_any_page_is_welcome_it_has_to_ask_first() {
    let gateway = TestGateway::with(|settings| {
        settings.http.cors_origins = vec!["*".to_owned()];
        with_admin(settings);
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    admin.create("q").await;
    let send = || {
        let send = admin.request("POST", "/queues/q/messages").body(r#"{"message":1}"#);
        send.header("origin", "https://any.example").header("sec-fetch-site", "cross-site")
    };
    let refused = Answer::of(send().header("content-type", "text/plain")).await;
    refused.problem(415, "unsupported_media_type");
    let sent = Answer::of(send().header("content-type", "application/json")).await.expect(201);
    assert_eq!(sent.header("access-control-allow-origin"), "*");
    // A page can read why it was refused.
    let keyless = gateway.request("GET", "/queues").header("origin", "https://any.example");
    let keyless = Answer::of(keyless).await;
    keyless.clone().problem(401, "unauthenticated");
    assert_eq!(keyless.header("access-control-allow-origin"), "*");
}

/// So that it knows when to come again.
#[tokio::test]
async fn a_page_can_read_that_it_comes_too_soon() {
    let gateway = TestGateway::with(|settings| {
        settings.http.cors_origins = vec!["https://app.example".to_owned()];
        settings.limits.max_arriving_requests = 1;
    })
    .await;
    gateway.create("q").await;
    let mut half = raw::connect(&gateway).await;
    let head =
        "POST /queues/q/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{";
    half.write_all(head.as_bytes()).await.expect("sent");
    let ask = |method: &str, origin: &str| {
        let request = gateway.request(method, "/queues").header("origin", origin);
        Answer::of(request.header("access-control-request-method", "POST"))
    };
    let refused = eventually("half a request has come", async || {
        let answer = ask("GET", "https://app.example").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(refused.header("access-control-allow-origin"), "https://app.example");
    assert!(refused.header("access-control-expose-headers").contains("retry-after"));
    refused.problem(503, "overloaded");
    let preflight = ask("OPTIONS", "https://app.example").await.expect(200);
    assert_eq!(preflight.header("access-control-allow-origin"), "https://app.example");
    let other = ask("GET", "https://evil.example").await;
    assert_eq!(other.header("access-control-allow-origin"), "");
    other.problem(503, "overloaded");
}

#[tokio::test]
async fn a_name_that_leads_here_and_is_not_ours_is_refused() {
    let gateway = TestGateway::start().await;
    let under = |gateway: &TestGateway, host: &str| {
        Answer::of(gateway.request("GET", "/queues").header("host", host))
    };
    under(&gateway, "evil.example").await.problem(403, "forbidden");
    for known in ["localhost", "127.0.0.1:9", "[::1]:8080"] {
        under(&gateway, known).await.expect(200);
    }
    let named = TestGateway::with(|settings| {
        settings.http.allowed_hosts = vec!["Queue.Example".to_owned()];
    })
    .await;
    under(&named, "queue.example:443").await.expect(200);
    under(&named, "localhost").await.problem(403, "forbidden");
}

/// An orchestrator knows an address, and not the name of what it asks.
#[tokio::test]
async fn probes_are_answered_under_any_name() {
    let gateway = TestGateway::with(|settings| {
        settings.http.allowed_hosts = vec!["queue.example".to_owned()];
        settings.server.operations_port = Some(0);
    })
    .await;
    let apart = Client::new(&gateway.gateway.operations_url().expect("a listener"));
    let together = TestGateway::with(|settings| {
        settings.http.allowed_hosts = vec!["queue.example".to_owned()];
    })
    .await;
    for host in ["10.2.3.4:8080", "localhost", "pod-7.cluster.local", "queue.example"] {
        for client in [&apart, &together.client] {
            for path in ["/livez", "/readyz"] {
                Answer::of(client.request("GET", path).header("host", host)).await.expect(200);
            }
            // What tells something is not.
            let status = if host == "queue.example" { 200 } else { 403 };
            Answer::of(client.request("GET", "/metrics").header("host", host)).await.expect(status);
        }
    }
}

/// However the address of this machine is written, the names of this machine lead there, and only they.
#[tokio::test]
async fn an_address_of_this_machine_has_its_names() {
    for address in ["::ffff:127.0.0.1", "127.0.0.2", "::1"] {
        let address: std::net::IpAddr = address.parse().expect("an address");
        let gateway = TestGateway::with(|settings| settings.server.host = address).await;
        for (host, status) in [
            ("localhost", 200),
            ("127.0.0.1:8080", 200),
            ("127.0.0.2:8080", 200),
            ("[::1]:8080", 200),
            ("[::ffff:127.0.0.1]:8080", 200),
            ("[::ffff:7f00:1]", 200),
            ("evil.example", 403),
            ("10.0.0.1", 403),
        ] {
            let answer = Answer::of(gateway.request("GET", "/queues").header("host", host)).await;
            assert_eq!(answer.status, status, "{address}: {host}");
        }
        // As it calls itself.
        gateway.get("/queues").await.expect(200);
    }
}

const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";

/// Over plain HTTP, under a name in a network, a browser does not say for whose page it gets something:
/// pictures, scripts, styles, frames, links and whatever there is.
#[tokio::test]
async fn a_page_gets_no_messages_leased_where_browsers_say_nothing() {
    let gateway = TestGateway::with(|settings| {
        settings.http.allowed_hosts = vec!["queue.example".to_owned()];
    })
    .await;
    let ask = |headers: &[(&str, &str)]| {
        let mut request = gateway.request("GET", "/queues/q/messages");
        request = request.header("host", "queue.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request)
    };
    let setup = gateway.request("PUT", "/queues/q").header("host", "queue.example");
    Answer::of(setup).await.expect(201);
    let send = gateway.request("POST", "/queues/q/messages").header("host", "queue.example");
    Answer::of(send.body(r#"{"message":1}"#)).await.expect(201);
    for accept in [
        "*/*",
        "text/css,*/*;q=0.1",
        "image/avif,image/webp,*/*",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "application/font-woff2;q=1.0,*/*;q=0.8",
        "audio/webm,audio/ogg,*/*;q=0.5",
        "text/event-stream",
    ] {
        let browser = [("user-agent", BROWSER), ("accept", accept)];
        for more in [
            &[][..],
            &[("referer", "http://evil.example/")],
            &[("referer", "http://queue.example.evil.example/")],
            &[("upgrade-insecure-requests", "1")],
            &[("origin", "null")],
            &[("origin", "http://evil.example")],
            // One that the browser knows from before, and adds to whatever it asks for.
            &[("authorization", "Basic eDpzZWNyZXQ=")],
        ] {
            let answer = ask(&[&browser[..], more].concat()).await;
            let detail = answer.problem(415, "unsupported_media_type").detail();
            assert!(detail.contains("page") || detail.contains("site"), "{detail}");
        }
    }
    let seen = gateway.request("GET", "/queues/q/messages/1").header("host", "queue.example");
    assert_eq!(Answer::of(seen).await.expect(200).json()["read_ct"], 0, "none of them leased it");
    // Its own pages, other programs, and whoever shows a key may.
    for headers in [
        &[("user-agent", BROWSER), ("referer", "http://queue.example/docs/")][..],
        &[("user-agent", BROWSER), ("origin", "http://queue.example")],
        &[("user-agent", BROWSER), ("sec-fetch-site", "same-origin")],
        &[("user-agent", BROWSER), ("authorization", "Bearer any")],
        &[("user-agent", "Mozilla/5.0 (Windows NT 10.0; en-US) WindowsPowerShell/5.1.22621")],
        &[("user-agent", "curl/8.5.0"), ("accept", "*/*")],
        &[("user-agent", "node"), ("accept-language", "*"), ("sec-fetch-mode", "cors")],
        &[("user-agent", "python-requests/2.32"), ("accept", "*/*")],
        &[],
    ] {
        ask(headers).await.expect(200);
    }
}

/// A click in a frame could empty a queue.
#[tokio::test]
async fn the_pages_are_not_framed_and_nothing_is_taken_for_something_else() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for path in ["/docs/", "/docs/index.html", "/docs/swagger-ui-bundle.js"] {
        let page = gateway.get(path).await.expect(200);
        assert_eq!(page.header("content-security-policy"), "frame-ancestors 'none'", "{path}");
        assert_eq!(page.header("x-frame-options"), "DENY");
        // Over plain HTTP it is by this that they may try things out.
        assert_eq!(page.header("referrer-policy"), "same-origin");
    }
    for path in ["/docs/", "/openapi.json", "/queues", "/queues/q/messages", "/livez", "/nowhere"] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
    gateway.get("/docs/nothing.js").await.problem(404, "route_not_found");
}

/// A picture on another site's page leases nothing.
#[tokio::test]
async fn another_sites_page_cannot_receive() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    let foreign =
        gateway.request("GET", "/queues/q/messages").header("Sec-Fetch-Site", "cross-site");
    let answer = foreign.send().await.expect("answered");
    assert_eq!(answer.status().as_u16(), 415);
    assert_eq!(gateway.receive("q", "").await[0]["read_ct"], 1);
}
