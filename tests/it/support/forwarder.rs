//! An address that leads now to this server, now to that, stalls, or is cut off.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinHandle,
};

/// Listens on a port and forwards to a server's socket.
pub struct Forwarder {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    target: Mutex<PathBuf>,
    stalled: watch::Sender<bool>,
    /// Raised to cut what there is.
    cut: watch::Sender<usize>,
    accepted: AtomicUsize,
    ended: watch::Sender<usize>,
    /// Connections up to this one are left to themselves.
    abandoned: AtomicUsize,
}

impl Forwarder {
    pub async fn to(socket: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            target: Mutex::new(socket.to_owned()),
            stalled: watch::Sender::new(false),
            cut: watch::Sender::new(0),
            accepted: AtomicUsize::new(0),
            ended: watch::Sender::new(0),
            abandoned: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let number = shared.accepted.fetch_add(1, Relaxed) + 1;
                    let shared = Arc::clone(&shared);
                    // From here on it is one of those that are cut.
                    let cut = shared.cut.subscribe();
                    tokio::spawn(async move {
                        forward(&shared, client, number, cut).await;
                        shared.ended.send_modify(|ended| *ended += 1);
                    });
                }
            }
        });
        Self { port, shared, accepting }
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Where new connections lead. Those that there are go on.
    pub fn lead_to(&self, socket: &Path) {
        socket.clone_into(&mut self.shared.target.lock().expect("whole"));
    }

    /// Cuts every connection that there is.
    pub async fn cut(&self) {
        self.shared.cut.send_modify(|times| *times += 1);
        // Those that come meanwhile are not cut.
        let before = self.accepted();
        let mut ended = self.shared.ended.subscribe();
        let _ = ended.wait_for(|ended| *ended >= before).await;
    }

    /// Nothing comes through any more, in either direction, until it is told otherwise.
    pub fn stall(&self, stalled: bool) {
        self.shared.stalled.send_replace(stalled);
    }

    /// Nothing comes through the connections that there are any more, though nobody hangs up; new ones
    /// work.
    pub fn abandon(&self) {
        self.shared.abandoned.store(self.accepted(), Relaxed);
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Relaxed)
    }
}

async fn forward(
    shared: &Shared,
    client: TcpStream,
    number: usize,
    mut cut: watch::Receiver<usize>,
) {
    let target = shared.target.lock().expect("whole").clone();
    let Ok(server) = UnixStream::connect(target).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::select! {
        () = copy(shared, number, &mut from_client, &mut to_server) => {}
        () = copy(shared, number, &mut from_server, &mut to_client) => {}
        _ = cut.changed() => {}
    }
}

async fn copy(
    shared: &Shared,
    number: usize,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) {
    let mut stalled = shared.stalled.subscribe();
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if stalled.wait_for(|stalled| !stalled).await.is_err() {
            return;
        }
        if number <= shared.abandoned.load(Relaxed) {
            return std::future::pending().await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.cut.send_modify(|times| *times += 1);
    }
}
