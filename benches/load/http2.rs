//! A client of HTTP/2 that writes its requests as bytes, as that of HTTP/1.1 does: what a library takes would count
//! as the gateway's here.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    net::TcpStream,
    sync::Mutex,
};
use tokio_rustls::client::TlsStream;

use unanswered::Unanswered;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// From HPACK's table of names and values: `:method: POST`, `:scheme: https`.
const POST_HTTPS: &[u8] = &[0x83, 0x87];
/// Names in it: a value follows that is not to be remembered.
const AUTHORITY: u8 = 1;
const PATH: u8 = 4;
const CONTENT_TYPE: [u8; 2] = [0x0f, 31 - 15];

/// What several clients may share.
struct Connection {
    writer: Mutex<Writer>,
    unanswered: Unanswered,
}

struct Writer {
    stream: WriteHalf<TlsStream<TcpStream>>,
    next_id: u32,
}

/// One of the clients of a connection.
#[derive(Clone)]
pub struct Http2 {
    connection: Arc<Connection>,
    headers: Bytes,
    body: Bytes,
}

impl Http2 {
    /// A client of a connection that begins with it.
    pub async fn begin(stream: TlsStream<TcpStream>, host: &str, queue: &str) -> Self {
        let (reader, mut writer) = split(stream);
        let mut first = PREFACE.to_vec();
        frame(&mut first, SETTINGS, 0, 0, &[]);
        // No answer waits for it ever after.
        let window = 0x7fff_ffff_u32 - 0xffff;
        frame(&mut first, WINDOW_UPDATE, 0, 0, &window.to_be_bytes());
        writer.write_all(&first).await.expect("written");
        let writer = Mutex::new(Writer { stream: writer, next_id: 1 });
        let connection = Arc::new(Connection { writer, unanswered: Unanswered::default() });
        tokio::spawn(read(reader, Arc::clone(&connection)));
        let mut headers = POST_HTTPS.to_vec();
        value(&mut headers, &[AUTHORITY], host);
        value(&mut headers, &[PATH], &format!("/queues/{queue}/messages"));
        value(&mut headers, &CONTENT_TYPE, "application/json");
        let body = format!(r#"{{"message":{{"data":"{}"}}}}"#, "x".repeat(118));
        Self { connection, headers: headers.into(), body: body.into() }
    }

    /// Sends one message.
    pub async fn send(self) -> (Self, usize) {
        let answer = {
            let mut writer = self.connection.writer.lock().await;
            let id = writer.next_id;
            writer.next_id += 2;
            let answer = self.connection.unanswered.wait_for(id);
            let mut request = Vec::with_capacity(300);
            frame(&mut request, HEADERS, END_HEADERS, id, &self.headers);
            frame(&mut request, DATA, END_STREAM, id, &self.body);
            writer.stream.write_all(&request).await.expect("written");
            writer.stream.flush().await.expect("flushed");
            answer
        };
        let body = answer.await.expect("an answer");
        assert!(body.starts_with(b"{\"msg_id\""), "{}", String::from_utf8_lossy(&body));
        (self, 1)
    }
}

/// Who waits for which answer.
mod unanswered {
    use std::{collections::HashMap, sync::Mutex};

    use tokio::sync::oneshot;

    #[derive(Default)]
    pub struct Unanswered(Mutex<HashMap<u32, oneshot::Sender<Vec<u8>>>>);

    impl Unanswered {
        pub fn wait_for(&self, id: u32) -> oneshot::Receiver<Vec<u8>> {
            let (sender, receiver) = oneshot::channel();
            self.0.lock().expect("whole").insert(id, sender);
            receiver
        }

        pub fn answer(&self, id: u32, body: Vec<u8>) {
            let sender = self.0.lock().expect("whole").remove(&id).expect("it was asked");
            sender.send(body).expect("somebody waits for it");
        }
    }
}

/// Reads until the connection ends.
async fn read(mut reader: ReadHalf<TlsStream<TcpStream>>, connection: Arc<Connection>) {
    let mut buffer = Vec::with_capacity(16 << 10);
    let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
    while let Ok(1..) = reader.read_buf(&mut buffer).await {
        let mut rest = &buffer[..];
        while let Some((head, payload, behind)) = next(rest) {
            rest = behind;
            let is_last = head.flags & END_STREAM != 0;
            match head.kind {
                SETTINGS | PING if head.flags & ACK == 0 => {
                    let mut answer = Vec::new();
                    let payload = if head.kind == PING { payload } else { &[] };
                    frame(&mut answer, head.kind, ACK, 0, payload);
                    let stream = &mut connection.writer.lock().await.stream;
                    stream.write_all(&answer).await.expect("written");
                    stream.flush().await.expect("flushed");
                }
                DATA => {
                    bodies.entry(head.id).or_default().extend_from_slice(payload);
                }
                _ => {}
            }
            if is_last && matches!(head.kind, DATA | HEADERS) {
                connection.unanswered.answer(head.id, bodies.remove(&head.id).unwrap_or_default());
            }
        }
        let done = buffer.len() - rest.len();
        buffer.drain(..done);
    }
}

struct Head {
    kind: u8,
    flags: u8,
    id: u32,
}

/// The first frame, if all of it is there, and what is behind it.
fn next(bytes: &[u8]) -> Option<(Head, &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<9>()?;
    let [a, b, c, kind, flags, id @ ..] = *head;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    let (payload, behind) = rest.split_at_checked(length)?;
    Some((Head { kind, flags, id: u32::from_be_bytes(id) & 0x7fff_ffff }, payload, behind))
}

fn frame(to: &mut Vec<u8>, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    to.extend_from_slice(&length[1..]);
    to.extend_from_slice(&[kind, flags]);
    to.extend_from_slice(&id.to_be_bytes());
    to.extend_from_slice(payload);
}

/// A header whose name is in the table.
fn value(to: &mut Vec<u8>, name: &[u8], value: &str) {
    to.extend_from_slice(name);
    to.push(u8::try_from(value.len()).ok().filter(|length| *length < 127).expect("short"));
    to.extend_from_slice(value.as_bytes());
}
