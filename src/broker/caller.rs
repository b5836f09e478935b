//! Whether somebody still waits for work that goes on without him.

use std::future::Future;

use tokio_util::sync::{CancellationToken, DropGuard};

tokio::task_local! {
    static GONE: CancellationToken;
}

/// Work that can ask whether its caller is there: as long as the second is not dropped.
pub(super) fn accompanied<F: Future>(work: F) -> (impl Future<Output = F::Output>, DropGuard) {
    let gone = CancellationToken::new();
    let present = gone.clone().drop_guard();
    (GONE.scope(gone, work), present)
}

/// Waits until the caller of this work has gone; for ever if that cannot be known.
pub(super) async fn gone() {
    match GONE.try_with(CancellationToken::clone) {
        Ok(gone) => gone.cancelled().await,
        Err(_) => std::future::pending().await,
    }
}
