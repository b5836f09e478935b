//! Reading a body, within its limits of size, time and memory.

use std::{error::Error as StdError, io, iter};

use axum::{body::Body, extract::Request, http::header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::{
    access::{recheck_credential, too_many, too_many_bytes},
    admission::MemoryPermit,
    context::context,
    gate::Gate,
    rejection::Rejection,
};

/// Bytes for which there is room from the start.
const FIRST: usize = 16 << 10;

/// The whole body, within its limits of size and time.
pub(crate) async fn read(request: Request, gate: &Gate) -> Result<Bytes, Rejection> {
    read_up_to(gate.max_body_bytes, request, gate).await
}

/// The whole body, if it has at most `limit` bytes and comes in time. A body that was announced to be larger
/// is not read. Refused too is whoever would not be let in any more.
pub(crate) async fn read_up_to(
    limit: u64,
    request: Request,
    gate: &Gate,
) -> Result<Bytes, Rejection> {
    let (parts, body) = request.into_parts();
    let announced = parts.headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(Rejection::BodyTooLarge(limit));
    }
    let context = context(&parts);
    let usage = context.counts_as().map(|caller| gate.concurrency.usage(caller));
    let mut held = gate.memory.hold(usage);
    let collected =
        timeout(gate.body_timeout, collect(gate, body, announced.unwrap_or(0), limit, &mut held))
            .await;
    let collected = collected.unwrap_or(Err(Rejection::BodyTooSlow(gate.body_timeout)));
    recheck_credential(&context, gate)?;
    context.holds_body(held);
    let body = collected?;
    context.body_is_here().map_err(|full| too_many(gate, full))?;
    Ok(body)
}

async fn collect(
    gate: &Gate,
    mut body: Body,
    announced: u64,
    limit: u64,
    held: &mut MemoryPermit,
) -> Result<Bytes, Rejection> {
    // No more than is there soon: what is announced need not come.
    let mut kept = BytesMut::with_capacity(usize::try_from(announced).unwrap_or(0).min(FIRST));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Rejection::Malformed(fault(&error).into()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if (kept.len() + data.len()) as u64 > limit {
            return Err(Rejection::BodyTooLarge(limit));
        }
        let grown = held.grow_to(kept.len() + data.len());
        grown.map_err(|exhausted| too_many_bytes(gate, exhausted))?;
        kept.extend_from_slice(&data);
    }
    Ok(kept.freeze())
}

/// What is wrong with a body that cannot be read on.
fn fault(error: &axum::Error) -> &'static str {
    let error: &(dyn StdError + 'static) = error;
    let mut causes = iter::successors(Some(error), |&error| error.source());
    // HTTP/1 says it in this way, and has no kind of its own for it.
    match causes.find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind) {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
            "the body's chunks are malformed, or what stands beside them is too large"
        }
        _ => "the body ended before it was complete",
    }
}
