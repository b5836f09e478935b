//! What people and programs send by mistake: the answer says what is wrong, and what would be right.

use tokio::process::Command;

use crate::support::{Answer, TestGateway, fronts::Fronts};

/// A gateway with a queue.
async fn with_queue() -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway
}

#[tokio::test]
async fn a_body_that_is_no_json_is_called_what_it_is() {
    let gateway = with_queue().await;
    let utf16: Vec<u8> =
        "\u{feff}{\"message\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\x56\xca".to_vec();
    let bodies: [(Vec<u8>, &str, &str); 9] = [
        (b"\xef\xbb\xbf{\"message\":1}".to_vec(), "application/json", "byte order mark"),
        (utf16, "application/json", "UTF-16"),
        (b"message=1&delay=5".to_vec(), "application/x-www-form-urlencoded", "a form"),
        (
            b"%7B%22message%22%3A1%7D".to_vec(),
            "application/x-www-form-urlencoded",
            "percent-encoded",
        ),
        (
            b"--x\r\nContent-Disposition: form-data; name=\"message\"\r\n\r\n1\r\n--x--".to_vec(),
            "multipart/form-data; boundary=x",
            "a form",
        ),
        (gzip, "application/json", "gzip"),
        (b"'{message:1}'".to_vec(), "application/json", "single quotation marks"),
        (b"{\"message\":\"caf\xe9\"}".to_vec(), "application/json", "not UTF-8"),
        (b"<message>1</message>".to_vec(), "application/xml", "expected value"),
    ];
    for path in [
        "/queues/q/messages",
        "/queues/q/messages/batch",
        "/queues/q/messages/settle",
        "/transactions",
        "/topics/a/messages",
    ] {
        for (body, kind, named) in &bodies {
            let request = gateway.request("POST", path).header("content-type", *kind);
            let answer = Answer::of(request.body(body.clone())).await;
            let detail = answer.problem(400, "invalid_request").detail();
            assert!(detail.contains(named), "{path}, {kind}: {detail}");
        }
    }
    for (body, _, named) in &bodies[..3] {
        let answer = Answer::of(gateway.request("PUT", "/queues/r").body(body.clone())).await;
        assert!(answer.problem(400, "invalid_request").detail().contains(named));
    }
    assert!(gateway.all("q").await.is_empty());
}

#[tokio::test]
async fn a_plus_in_a_time_is_explained() {
    let gateway = with_queue().await;
    for time in ["since", "until"] {
        let path = format!("/queues/q/archive?{time}=2026-01-01T00:00:00+01:00");
        let detail = gateway.get(&path).await.problem(400, "invalid_request").detail();
        assert!(detail.contains("%2B") && detail.contains(time), "{detail}");
        gateway.get(&path.replace('+', "%2B")).await.expect(200);
    }
    // One that would be wrong with it, too, is not blamed on it.
    let detail = gateway.get("/queues/q/archive?since=a+b").await.problem(400, "invalid_request");
    assert!(!detail.detail().contains("%2B"), "{}", detail.detail());
}

/// The same slips as curl makes them, wherever the gateway is.
#[tokio::test]
async fn slips_of_curl_are_explained_behind_whatever_stands_there() {
    let fronts = Fronts::start(|_| {}).await;
    fronts.gateway.create("q").await;
    for front in fronts.all() {
        for (arguments, named) in [
            (&["-d", "message=1"][..], "a form"),
            (&["-F", "message=1"], "a form"),
            (&["--data-urlencode", "{\"message\":1}"], "percent-encoded"),
            (&["-d", "{\"message\":1}", "-H", "Content-Encoding: gzip"], "Content-Encoding"),
            (&["-X", "GET", "-d", "qty=1"], "behind the `?`"),
        ] {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "--cacert"]).arg(fronts.authority()).args(arguments);
            let output = curl.arg(format!("{}/queues/q/messages", front.base)).output().await;
            let output = output.expect("it ran");
            let body = String::from_utf8_lossy(&output.stdout);
            assert!(body.contains(named), "{}, {arguments:?}: {output:?}", front.name);
        }
    }
}

#[tokio::test]
async fn a_path_or_a_method_that_is_nearly_right_is_told_what_is() {
    let gateway = with_queue().await;
    for (method, path, status, named) in [
        ("GET", "/queue/q", 404, "/queues/q was probably meant"),
        ("GET", "/queues/", 404, "/queues was probably meant"),
        ("GET", "/api/v1/queues/q/messages", 404, "/queues/q/messages was probably meant"),
        ("POST", "/queues/q/message", 404, "/queues/q/messages was probably meant"),
        ("GET", "/nope", 404, "/docs shows what there is"),
        ("POST", "/queues/q", 405, "PUT makes a queue"),
        ("POST", "/queues", 405, "PUT /queues/{queue} makes a queue"),
        ("PUT", "/queues/q/messages", 405, "POST sends"),
        ("PUT", "/queues/q/purge", 405, "the header Allow"),
    ] {
        let answer = Answer::of(gateway.request(method, path)).await.expect(status);
        assert!(answer.detail().contains(named), "{method} {path}: {}", answer.detail());
    }
    for body in ["", "hello", "{\"message\":", "{message:1}"] {
        let answer = gateway.post("/queues/q/messages", body).await;
        let detail = answer.problem(400, "invalid_request").detail();
        let shown = detail.contains("{\"message\": ") || body.is_empty();
        assert!(shown, "{body}: {detail}");
    }
    // What is JSON and no message is told about itself alone.
    let detail = gateway.post("/queues/q/messages", "{\"mesage\":1}").await.detail();
    assert!(detail.contains("mesage") && !detail.contains("a body is JSON"), "{detail}");
}

/// The prompt of a shell begins on a line of its own. Programs get JSON as it is.
#[tokio::test]
async fn json_for_curl_ends_its_line() {
    let gateway = with_queue().await;
    gateway.send("q", r#"{"message":"a"}"#).await;
    for path in ["/queues/q", "/queues/q/messages?vt=0", "/queues/none", "/openapi.json"] {
        let mut curl = Command::new("curl");
        let output = curl.args(["-sS", "-i"]).arg(format!("{}{path}", gateway.base)).output().await;
        let said = String::from_utf8(output.expect("it ran").stdout).expect("text");
        let (head, body) = said.split_once("\r\n\r\n").expect("an answer");
        assert!(body.ends_with("}\n") && !body.ends_with("\n\n"), "{path}: {body:?}");
        let length = format!("content-length: {}", body.len());
        assert!(head.to_ascii_lowercase().contains(&length), "{path}: {head}");
        assert!(gateway.get(path).await.text.ends_with('}'), "{path}");
    }
    let mut curl = Command::new("curl");
    let output = curl.args(["-sS"]).arg(format!("{}/livez", gateway.base)).output().await;
    assert_eq!(output.expect("it ran").stdout, b"ok\n");
}
