//! Permits for statements of transactions, which may wait for each other inside the database: neither those that are
//! about the same nor all that are slow have every connection that there is for them.

use std::sync::Arc;

use tokio::{
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    domain::{CallerId, Share},
    engine::shares::{FairSlot, FairSlots, KeyedSlots},
};

/// Permits for statements of transactions.
#[derive(Debug)]
pub(super) struct Slots {
    /// For those that are done separately.
    separate: FairSlots,
    /// One more for a statement that is shared, where there are enough.
    shared: Option<Arc<Semaphore>>,
    /// Those that are about the same. One that is about another queue as well does not count: that may be why it is
    /// slow.
    kinds: KeyedSlots<String>,
    /// The same of one caller: one of its slots is for another kind, and no more stand in line with others than may
    /// have one.
    of_callers: KeyedSlots<(CallerId, String)>,
    /// Those that are known to be slow.
    slow: Arc<Semaphore>,
}

/// A permit for a separate transaction, until it is dropped.
#[derive(Debug)]
pub struct SeparateSlot {
    _of_caller: Option<OwnedSemaphorePermit>,
    _of_kind: Option<OwnedSemaphorePermit>,
    _slow: Option<OwnedSemaphorePermit>,
    _slot: FairSlot,
}

/// A permit for a statement that is shared, until it is dropped.
#[derive(Debug)]
pub(super) struct SharedSlot {
    _common: Option<FairSlot>,
    _reserved: Option<OwnedSemaphorePermit>,
}

/// A transaction, as far as its permit goes.
#[derive(Debug)]
pub(super) struct Applicant {
    pub(super) caller: Option<CallerId>,
    /// What it is about.
    pub(super) kind: String,
    pub(super) is_slow: bool,
}

impl Slots {
    /// So many, of which one caller has a share.
    pub(super) fn new(all: usize, share: Share) -> Self {
        let all = all.max(1);
        let reserved = usize::from(all > 2);
        let separate = all - reserved;
        let of_kind = separate.div_ceil(2);
        let of_caller = share.of(all);
        Self {
            separate: FairSlots::new(separate, of_caller),
            shared: (reserved > 0).then(|| Arc::new(Semaphore::new(reserved))),
            kinds: KeyedSlots::new(of_kind),
            of_callers: KeyedSlots::new(of_caller.saturating_sub(1).clamp(1, of_kind)),
            slow: Arc::new(Semaphore::new((separate * 3 / 4).max(1))),
        }
    }

    /// Waits for a permit to do a transaction separately. Who waits for others of its kind, or because it is slow,
    /// keeps nobody else waiting.
    pub(super) async fn acquire(&self, applicant: Applicant) -> SeparateSlot {
        let Applicant { caller, kind, is_slow } = applicant;
        let of_caller = match caller {
            Some(caller) => self.of_callers.acquire(&(caller, kind.clone())).await,
            None => None,
        };
        let of_kind = self.kinds.acquire(&kind).await;
        // It is never closed.
        let slow = if is_slow { Arc::clone(&self.slow).acquire_owned().await.ok() } else { None };
        let slot = self.separate.acquire(caller).await;
        SeparateSlot { _of_caller: of_caller, _of_kind: of_kind, _slow: slow, _slot: slot }
    }

    /// Whether it would have to wait for that.
    pub(super) fn would_wait(&self, applicant: Applicant) -> bool {
        let Applicant { caller, kind, is_slow } = applicant;
        self.kinds.try_acquire(&kind).is_none()
            || is_slow && self.slow.available_permits() == 0
            || self.separate.try_acquire(caller).is_none()
            || caller.is_some_and(|caller| self.of_callers.try_acquire(&(caller, kind)).is_none())
    }

    /// Waits for a permit to do what several share.
    pub(super) async fn acquire_shared(&self) -> SharedSlot {
        let Some(reserved) = &self.shared else {
            let slot = self.separate.acquire(None).await;
            return SharedSlot { _common: Some(slot), _reserved: None };
        };
        select! {
            biased;
            slot = self.separate.acquire(None) => SharedSlot { _common: Some(slot), _reserved: None },
            permit = Arc::clone(reserved).acquire_owned() => {
                SharedSlot { _common: None, _reserved: permit.ok() }
            }
        }
    }
}
