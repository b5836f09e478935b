//! Responses that carry messages, or much else: bounded, and held until they are on their way.

use bytes::Bytes;
use serde::Serialize;

use crate::domain::{Call, Message};

use super::{access::too_many_bytes, admission::MemoryPermit, gate::Gate, rejection::Rejection};

/// Room for messages, if there is some.
pub(crate) fn room_for<'a>(
    gate: &Gate,
    call: &Call,
    messages: impl Iterator<Item = &'a Message>,
) -> Result<MemoryPermit, Rejection> {
    let mut held = gate.memory.hold(gate.usage(call));
    let (count, bytes) =
        messages.fold((0_usize, 0), |(count, sum), message| (count + 1, sum + message.bytes()));
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    // SQL may have stored one that is larger than all of the room: it would never be received.
    let grown = if count == 1 { held.grow_to_whole(bytes) } else { held.grow_to(bytes) };
    grown.map_err(|exhausted| too_many_bytes(gate, exhausted))?;
    Ok(held)
}

/// What a message that is taken out of a queue is reckoned to have, until it is known.
const EXPECTED: usize = 16 << 10;

/// Room for messages that are about to be taken out of a queue, and cannot be put back: what they are reckoned to
/// have. It is looked for once more when their turn comes; see [`crate::domain::Call::has_room`].
pub(crate) fn room_to_take(
    gate: &Gate,
    call: &Call,
    messages: usize,
) -> Result<MemoryPermit, Rejection> {
    let usage = gate.usage(call);
    let mut held = gate.memory.hold(usage.clone());
    let most = usize::try_from(gate.max_answer_bytes).unwrap_or(usize::MAX);
    // More than what is free: one that takes has to find room.
    let expected = messages.saturating_mul(EXPECTED).min(most).max(EXPECTED + 1);
    make_room(gate, &mut held, expected)?;
    let gate = gate.clone();
    call.set_room(move || gate.memory.has_room(usage.as_deref()));
    Ok(held)
}

/// The room that messages take that were taken out, whatever that comes to.
pub(crate) fn room_of_taken(mut held: MemoryPermit, messages: &[Message]) -> MemoryPermit {
    let bytes = messages.iter().map(Message::bytes).sum::<u64>();
    held.set_to(usize::try_from(bytes).unwrap_or(usize::MAX));
    held
}

/// Room for so many bytes, if there is some.
pub(crate) fn room_for_bytes(
    gate: &Gate,
    call: &Call,
    bytes: usize,
) -> Result<MemoryPermit, Rejection> {
    let mut held = gate.memory.hold(gate.usage(call));
    make_room(gate, &mut held, bytes)?;
    Ok(held)
}

/// Room for so many bytes where some is held already, if there is some.
pub(crate) fn make_room(
    gate: &Gate,
    held: &mut MemoryPermit,
    bytes: usize,
) -> Result<(), Rejection> {
    held.grow_to(bytes).map_err(|exhausted| too_many_bytes(gate, exhausted))
}

/// The room that messages take as they are written, in place of what is held for them. One alone has to fit at some
/// time: at the latest when nothing else is held.
pub(crate) fn room_for_written(
    gate: &Gate,
    held: &mut MemoryPermit,
    bytes: usize,
    messages: usize,
) -> Result<(), Rejection> {
    if bytes <= held.bytes() {
        held.set_to(bytes);
        return Ok(());
    }
    if messages > 1 {
        return make_room(gate, held, bytes);
    }
    held.set_to(0);
    held.grow_to_whole(bytes).map_err(|exhausted| too_many_bytes(gate, exhausted))
}

/// Room that nobody looked for: what is put into it counts whatever others hold.
pub(crate) fn any_room(gate: &Gate, call: &Call) -> MemoryPermit {
    gate.memory.hold(gate.usage(call))
}

/// Bytes of what stands around a message or two.
const AROUND: usize = 512;

/// Messages, or the like, as JSON, which is held until its last byte is gone.
pub(crate) fn json(held: MemoryPermit, messages: &impl Serialize) -> Result<Bytes, Rejection> {
    // Growing a large one would copy it again and again, and a small one has more around it than in it.
    let json = Vec::with_capacity(held.bytes() + AROUND);
    Ok(held.keep(write(json, messages)?))
}

/// What is too short to be counted.
pub(crate) fn short_json(value: &impl Serialize) -> Result<Bytes, Rejection> {
    write(Vec::with_capacity(64), value).map(Bytes::from)
}

/// The same of what is not known how long it is before it is written.
pub(crate) fn long_json(
    gate: &Gate,
    call: &Call,
    value: &impl Serialize,
) -> Result<Bytes, Rejection> {
    let json = write(Vec::new(), value)?;
    Ok(room_for_bytes(gate, call, json.len())?.keep(json))
}

/// The same of what was done, which is said whatever others hold.
pub(crate) fn json_of_done(held: MemoryPermit, done: &impl Serialize) -> Result<Bytes, Rejection> {
    Ok(held.keep_all(write(Vec::new(), done)?))
}

fn write(mut json: Vec<u8>, value: &impl Serialize) -> Result<Vec<u8>, Rejection> {
    serde_json::to_writer(&mut json, value).map_err(|error| Rejection::Internal {
        detail: "the answer could not be written as JSON",
        source: error.into(),
    })?;
    Ok(json)
}
