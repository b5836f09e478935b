//! Clients that leave while they wait, whatever they had sent before: somebody else gets the message.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Client, Holder, TestGateway, certificates, eventually,
    fronts::{Front, Fronts},
    proxies::{self, Kind},
    raw,
};

/// A connection, whatever is beneath.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Connection for S {}

async fn connect(fronts: &Fronts, front: &Front, protocol: &str) -> Box<dyn Connection> {
    dial(fronts, front, protocol).await.0
}

/// A connection, and the client's port.
async fn dial(fronts: &Fronts, front: &Front, protocol: &str) -> (Box<dyn Connection>, u16) {
    let (scheme, address) = front.base.split_once("://").expect("a URL");
    let tcp = TcpStream::connect(address).await.expect("connected");
    let port = tcp.local_addr().expect("an address").port();
    if scheme == "http" {
        return (Box::new(tcp), port);
    }
    let client = certificates::client(fronts.trusted(), None, protocol);
    (Box::new(certificates::shake(&client, tcp).await.expect("a handshake")), port)
}

/// The end of a client has come to the other side, which on a busy machine may take longer than a request: before
/// that nobody can know of it.
async fn until_the_end_is_there(port: u16) {
    let peer = format!(":{port:04X}");
    eventually("the end has come", async || {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
        let established = |line: &str| {
            let mut fields = line.split_whitespace().skip(2);
            fields.next().is_some_and(|remote| remote.ends_with(&peer))
                && fields.next() == Some("01")
        };
        let open = tables.iter().flatten().flat_map(|table| table.lines()).any(established);
        (!open).then_some(())
    })
    .await;
}

const WAIT: &str = "GET /queues/q/messages?wait=20&vt=600 HTTP/1.1\r\nHost: localhost\r\n";

async fn until_waiters_are(count: u64, front: &Front, what: &str) {
    eventually(what, async || (front.waiters("q").await == count).then_some(())).await;
}

/// A message that is sent now goes to who asks now, for the first time.
async fn the_next_one_gets_it(client: &Client, what: &str) {
    let id = client.send("q", r#"{"message":1}"#).await;
    let received = client.receive("q", "wait=20&vt=600").await;
    assert_eq!(received.len(), 1, "{what}: it went to nobody");
    assert_eq!(
        (&received[0]["msg_id"], &received[0]["read_ct"]),
        (&id.into(), &1.into()),
        "{what}"
    );
    client.delete(&format!("/queues/q/messages/{id}")).await.expect(204);
}

/// What a client sends in one go, and then, when it waits.
fn sent() -> Vec<(&'static str, String, String)> {
    let next = "GET /queues/q HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let pipelined = next.repeat(10);
    let large = format!(
        "POST /queues/q/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{}",
        " ".repeat(50_000)
    );
    let expects = "Expect: 100-continue\r\nContent-Length: 0\r\n\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    [
        ("nothing", "\r\n", ""),
        ("a line end too many", "\r\n\r\n", ""),
        ("a line end later", "\r\n", "\r\n"),
        ("the next request", &format!("\r\n{next}"), ""),
        ("the next requests later", "\r\n", &pipelined),
        ("half a request", "\r\nGET /queues/q HT", ""),
        ("half a request later", "\r\n", "GET /queues/q HT"),
        ("a large request later", "\r\n", &large),
        ("an Expect", expects, ""),
        ("an Expect, and a line end", expects, "\r\n"),
        ("no chunk, in a second part", chunked, "0\r\n\r\n"),
        ("no chunk, and a line end", &format!("{chunked}0\r\n\r\n\r\n"), ""),
        ("no chunk, and what is no request", &format!("{chunked}0\r\n\r\n"), "\0\0\0"),
    ]
    .map(|(what, first, then)| (what, format!("{WAIT}{first}"), then.to_owned()))
    .into()
}

#[tokio::test]
async fn whatever_a_client_sent_before_it_leaves_nothing_stays_leased() {
    let fronts = Fronts::start(|_| {}).await;
    let client = &fronts.gateway.client;
    client.create("q").await;
    for front in fronts.all().iter().filter(|front| !front.is_proxy) {
        for (what, first, then) in sent() {
            let what = format!("{what} ({})", front.name);
            for waits_to_be_noticed in [true, false] {
                let (mut stream, port) = dial(&fronts, front, "http/1.1").await;
                stream.write_all(first.as_bytes()).await.expect("sent");
                if first.contains("chunked") && !then.is_empty() && !first.ends_with("0\r\n\r\n") {
                    // The body has to end before anybody waits.
                    stream.write_all(then.as_bytes()).await.expect("sent");
                }
                until_waiters_are(1, front, "it waits").await;
                let _ = stream.write_all(then.as_bytes()).await;
                stream.flush().await.expect("sent");
                drop(stream);
                until_the_end_is_there(port).await;
                if waits_to_be_noticed {
                    until_waiters_are(0, front, &format!("{what}: it is noticed")).await;
                }
                the_next_one_gets_it(client, &what).await;
            }
        }
    }
}

/// TLS says goodbye in its own words, which the system does not know.
#[tokio::test]
async fn a_goodbye_of_tls_is_noticed_on_a_connection_that_stays_open() {
    let fronts = Fronts::start(|_| {}).await;
    let client = &fronts.gateway.client;
    client.create("q").await;
    let is_tls = |front: &&Front| !front.is_proxy && front.base.starts_with("https:");
    let front = fronts.all().iter().find(is_tls).expect("one with TLS");
    let address = front.base.trim_start_matches("https://");
    for (what, first, then) in sent() {
        let tcp = TcpStream::connect(address).await.expect("connected");
        let tls = certificates::client(fronts.trusted(), None, "http/1.1");
        let mut stream = certificates::shake(&tls, tcp).await.expect("a handshake");
        stream.write_all(first.as_bytes()).await.expect("sent");
        if what == "no chunk, in a second part" {
            stream.write_all(then.as_bytes()).await.expect("sent");
        }
        until_waiters_are(1, front, "it waits").await;
        stream.write_all(then.as_bytes()).await.expect("sent");
        stream.get_mut().1.send_close_notify();
        stream.flush().await.expect("sent");
        until_waiters_are(0, front, &format!("{what}: it is noticed")).await;
        the_next_one_gets_it(client, what).await;
    }
}

/// It is not the end of a connection that is waited for, but that of a client: one that goes on sending is
/// answered, and so is what it sent.
#[tokio::test]
async fn a_client_that_stays_is_answered_whatever_it_sends_meanwhile() {
    let fronts = Fronts::start(|_| {}).await;
    let client = &fronts.gateway.client;
    client.create("q").await;
    for front in fronts.all().iter().filter(|front| !front.is_proxy) {
        let mut stream = connect(&fronts, front, "http/1.1").await;
        let next = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let request = format!("{WAIT}\r\n\r\n{next}");
        stream.write_all(request.as_bytes()).await.expect("sent");
        until_waiters_are(1, front, "it waits").await;
        // Longer than from one look at it to the next.
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.send("q", r#"{"message":"for it"}"#).await;
        let said = crate::support::raw::read_all(&mut stream).await.expect("answered");
        assert!(said.contains("for it") && said.ends_with("ok\n"), "{}: {said}", front.name);
        assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 2, "{said}");
    }
}

#[tokio::test]
async fn a_client_of_http2_that_leaves_has_nothing_leased() {
    let fronts = Fronts::start(|_| {}).await;
    let client = &fronts.gateway.client;
    client.create("q").await;
    for front in fronts.all().iter().filter(|front| !front.is_proxy) {
        for ends_connection in [true, false] {
            let stream = TokioIo::new(connect(&fronts, front, "h2").await);
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
            let connection = tokio::spawn(connection);
            let request = hyper::Request::get("http://localhost/queues/q/messages?wait=20&vt=600");
            let request = request.body(Empty::<Bytes>::new()).expect("a request");
            let waiting = tokio::spawn(sender.send_request(request));
            until_waiters_are(1, front, "it waits").await;
            if ends_connection {
                connection.abort();
            } else {
                waiting.abort();
            }
            until_waiters_are(0, front, "it is noticed").await;
            the_next_one_gets_it(client, front.name).await;
        }
    }
}

/// A proxy tells of it, as it is configured in the page.
#[tokio::test]
async fn a_client_that_leaves_a_proxy_has_nothing_leased() {
    let fronts = Fronts::start(|_| {}).await;
    let client = &fronts.gateway.client;
    client.create("q").await;
    for front in fronts.all().iter().filter(|front| front.is_proxy) {
        for (what, first, then) in [("nothing", "\r\n", ""), ("a line end later", "\r\n", "\r\n")] {
            let mut stream = connect(&fronts, front, "http/1.1").await;
            stream.write_all(format!("{WAIT}{first}").as_bytes()).await.expect("sent");
            until_waiters_are(1, front, "it waits").await;
            stream.write_all(then.as_bytes()).await.expect("sent");
            drop(stream);
            until_waiters_are(0, front, &format!("{}: {what}", front.name)).await;
            the_next_one_gets_it(client, front.name).await;
        }
    }
}

/// What the page says of HAProxy: it takes the option.
#[tokio::test]
async fn haproxy_tells_only_with_its_option() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let config = Kind::Haproxy.documented(0).replace("    option abortonclose\n", "");
    let address = gateway.gateway.address().expect("TCP");
    let Some(proxy) = proxies::start_with(Kind::Haproxy, &config, address).await else { return };
    let address = proxy.base.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(format!("{WAIT}\r\n").as_bytes()).await.expect("sent");
    gateway.wait_for_waiters("q", 1).await;
    drop(stream);
    // What does not happen can only be waited for in vain.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(gateway.waiters("q").await, 1, "the option is not needed any more");
}

/// A delivery ends while the gate is shut.
const GATE: &str = "
    CREATE TABLE gate AS SELECT 'shut' AS state;
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN WHILE EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NEW; END';
    CREATE TRIGGER wait BEFORE UPDATE ON pgmq.q_q FOR EACH ROW WHEN (NEW.read_ct > OLD.read_ct)
    EXECUTE FUNCTION wait()";

/// Another gateway's read that comes too late for a message has it locked for a moment, too.
#[tokio::test]
async fn what_is_locked_when_its_client_has_left_is_given_back_later() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.database.execute(GATE).await;
    let mut stream = raw::connect(&gateway).await;
    stream.write_all(format!("{WAIT}\r\n").as_bytes()).await.expect("sent");
    gateway.wait_for_waiters("q", 1).await;
    gateway.send("q", "{\"message\":1}").await;
    until_some("wait_event = 'PgSleep'", &gateway).await;
    let holder = tokio::spawn({
        let database = gateway.database.clone();
        async move { Holder::of(&database, "SELECT FROM pgmq.q_q WHERE msg_id = 1 FOR UPDATE").await }
    });
    until_some("wait_event_type = 'Lock' AND query LIKE 'BEGIN; SELECT FROM pgmq%'", &gateway)
        .await;
    drop(stream);
    gateway.wait_for_waiters("q", 0).await;
    gateway.database.execute("DELETE FROM gate").await;
    let holder = holder.await.expect("locked");
    until_some("state = 'idle' AND query LIKE '/* release */%'", &gateway).await;
    holder.rollback().await;
    let received = gateway.receive("q", "wait=20").await;
    assert_eq!(received.len(), 1, "it stays leased");
    assert_eq!(received[0]["read_ct"], 1);
}

/// Waits until there is such a session.
async fn until_some(condition: &str, gateway: &TestGateway) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND pid <> pg_backend_pid() AND {condition}"
    );
    let some = async || (gateway.database.value::<i64>(&sql).await > 0).then_some(());
    eventually(condition, some).await;
}
