//! What a client gets when there are too many of them.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Semaphore,
    time::timeout,
};

use super::problem::Problem;

/// The time that they are given.
const TIME: Duration = Duration::from_secs(1);

/// Says no, beside the loop that accepts.
#[derive(Clone, Debug)]
pub(super) struct OverloadResponder {
    lingering: Arc<Semaphore>,
}

impl OverloadResponder {
    /// So many of those who are refused are given time to hear of it.
    pub(super) fn new(most: usize) -> Self {
        Self { lingering: Arc::new(Semaphore::new(most)) }
    }

    /// Answers and closes; never waits.
    pub(super) fn refuse<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(place) = Arc::clone(&self.lingering).try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            let _ = timeout(TIME, answer(stream)).await;
            drop(place);
        });
    }
}

/// Answers, and then reads what the client had sent already: closing with that unread would
/// destroy the answer on its way.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> std::io::Result<()> {
    stream.write_all(Problem::too_many_connections().last_words().as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_refused_clients_is_bounded() {
        const LINGERING: usize = 256;
        let refusals = OverloadResponder::new(LINGERING);
        let mut clients = Vec::new();
        for _ in 0..=LINGERING {
            let (client, server) = duplex(4096);
            refusals.refuse(server);
            clients.push(client);
        }
        let mut said = String::new();
        let mut last = clients.pop().expect("one too many");
        last.read_to_string(&mut said).await.expect("closed");
        assert_eq!(said, "", "the last one is closed at once");
        for client in &mut clients {
            said.clear();
            client.read_to_string(&mut said).await.expect("answered");
            assert!(said.starts_with("HTTP/1.1 503 ") && said.ends_with('}'), "{said}");
            client.write_all(b"a request on its way").await.expect("it is still read");
        }
        // None of them closes, and yet there is room again.
        tokio::time::sleep(TIME * 2).await;
        let (mut client, server) = duplex(4096);
        refusals.refuse(server);
        said.clear();
        client.read_to_string(&mut said).await.expect("answered");
        assert!(said.starts_with("HTTP/1.1 503 "), "{said}");
    }
}
