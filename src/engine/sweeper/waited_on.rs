//! Those who wait, and what they are told of a look.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    domain::QueueName,
    engine::{peers::Peers, receivers::Receivers},
    store::Swept,
};

/// Pauses between looks are no longer than this, or than usual.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The queues in which somebody waits.
pub(super) type WaitedOn = HashMap<QueueName, Arc<Receivers>>;

/// Tells those who wait of what was found in each queue.
pub(super) fn tell(
    waited_on: &WaitedOn,
    queues: &[QueueName],
    swept: &[Swept],
    peers: Option<&Peers>,
) {
    for (queue, swept) in queues.iter().zip(swept) {
        if let Some(receivers) = waited_on.get(queue) {
            tell_of(receivers, queue, swept, peers);
        }
    }
}

pub(super) fn tell_of(
    receivers: &Arc<Receivers>,
    queue: &QueueName,
    swept: &Swept,
    peers: Option<&Peers>,
) {
    if swept.ready {
        receivers.swept();
    }
    if let Some(due_in) = swept.due_in.filter(|_| !swept.ready) {
        receivers.set_timer(due_in);
    }
    if let Some(peers) = peers.filter(|_| swept.notifies) {
        peers.listen_to(queue.as_str());
    }
}
