//! A way to a gateway on which requests get lost, and nobody hangs up.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Forwards to a gateway, but for the first requests of a method.
pub struct Hanging {
    address: SocketAddr,
    most: i64,
    left: Arc<AtomicI64>,
    accepting: JoinHandle<()>,
}

impl Hanging {
    pub async fn before(gateway: SocketAddr, method: &'static str, most: i64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let left = Arc::new(AtomicI64::new(most));
        let shared = Arc::clone(&left);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, gateway, method, Arc::clone(&shared)));
            }
        });
        Self { address, most, left, accepting }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests that have got lost.
    pub fn met(&self) -> i64 {
        self.most - self.left.load(Relaxed).max(0)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A worker has one request on a connection at a time, and so a request begins what is read.
async fn forward(client: TcpStream, gateway: SocketAddr, method: &str, left: Arc<AtomicI64>) {
    let gateway = TcpStream::connect(gateway).await.expect("the gateway");
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_gateway, mut to_gateway) = gateway.into_split();
    let lost = AtomicBool::new(false);
    let there = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            if buffer[..read].starts_with(method.as_bytes()) && left.fetch_sub(1, Relaxed) > 0 {
                lost.store(true, Relaxed);
                // The client may hang up.
                while let Ok(1..) = from_client.read(&mut buffer).await {}
                return;
            }
            if to_gateway.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    let back = async {
        let _ = copy(&mut from_gateway, &mut to_client).await;
        // The gateway hangs up where it is asked nothing, of which the client is not to know.
        if lost.load(Relaxed) {
            pending::<()>().await;
        }
    };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}
