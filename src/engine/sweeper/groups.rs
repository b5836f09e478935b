//! Which queues are asked about in one statement. Pure: no I/O, and the time is told.
//!
//! A statement about the same queues is planned once, and then costs a tenth. So queues in which
//! somebody waits for long, or again and again, are put into groups that stay as they are.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::domain::QueueName;

/// Queues in one statement.
pub(super) const GROUP: usize = 64;
/// New queues that make a statement worth planning.
const WORTH_PLANNING: usize = 16;
/// Time after which fewer of them do.
const LONG: Duration = Duration::from_secs(5);
/// Time for which a queue keeps its place in a group while nobody waits there.
const IDLE: Duration = Duration::from_secs(60);
/// Time after which it is asked again which queues of a group have notifications.
const THOROUGH: Duration = Duration::from_secs(10);

/// The groups, and the queues that are in none yet.
#[derive(Debug, Default)]
pub(super) struct Groups {
    formed: Vec<Group>,
    queues: HashMap<QueueName, Place>,
    next_id: u64,
}

#[derive(Debug)]
struct Group {
    id: u64,
    queues: Vec<QueueName>,
    /// When it was last asked about thoroughly.
    thorough: Instant,
}

#[derive(Debug)]
struct Place {
    group: Option<u64>,
    since: Instant,
    waited_on: Instant,
    /// It was asked about before.
    known: bool,
}

/// Queues to ask about in one statement.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) queues: Vec<QueueName>,
    /// The group, if they are one whose statement is planned.
    pub(super) group: Option<u64>,
    /// By the statement that is planned.
    pub(super) planned: bool,
}

impl Groups {
    /// What to ask about the queues in which somebody waits.
    pub(super) fn looks<'a>(
        &mut self,
        waited_on: impl Iterator<Item = &'a QueueName>,
        now: Instant,
    ) -> Vec<Look> {
        for queue in waited_on {
            let place = || Place { group: None, since: now, waited_on: now, known: false };
            self.queues.entry(queue.clone()).or_insert_with(place).waited_on = now;
        }
        self.forget(now);
        self.form(now);
        let mut looks = self.planned_looks(now);
        let waits = |place: &Place| place.waited_on == now;
        let mut single: Vec<QueueName> = Vec::new();
        for (queue, place) in &mut self.queues {
            if place.group.is_none() && waits(place) {
                place.known = true;
                single.push(queue.clone());
            }
        }
        let chunks = single.chunks(GROUP);
        looks.extend(chunks.map(|queues| Look {
            queues: queues.to_vec(),
            group: None,
            planned: false,
        }));
        looks
    }

    /// Groups whose statement is planned.
    pub(super) fn len(&self) -> usize {
        self.formed.len()
    }

    /// Whether some queue is in no group.
    pub(super) fn has_new(&self) -> bool {
        self.queues.values().any(|place| place.group.is_none())
    }

    /// The statement about a group failed: its queues are looked at anew.
    pub(super) fn dissolve(&mut self, id: u64, now: Instant) {
        self.formed.retain(|group| group.id != id);
        for place in self.queues.values_mut().filter(|place| place.group == Some(id)) {
            (place.group, place.since, place.known) = (None, now, false);
        }
    }

    /// A queue is not asked about together with others for now.
    pub(super) fn remove(&mut self, queue: &QueueName, now: Instant) {
        if let Some(Place { group: Some(id), .. }) = self.queues.remove(queue) {
            self.dissolve(id, now);
        }
    }

    fn planned_looks(&mut self, now: Instant) -> Vec<Look> {
        let mut looks = Vec::new();
        // One at a time: it costs as much as ten others.
        let mut thorough = true;
        let queues = &self.queues;
        let waits =
            |queue: &QueueName| queues.get(queue).is_some_and(|place| place.waited_on == now);
        for group in self.formed.iter_mut().filter(|group| group.queues.iter().any(waits)) {
            let due = thorough && now.duration_since(group.thorough) >= THOROUGH;
            if due {
                (thorough, group.thorough) = (false, now);
            }
            let (id, queues) = (Some(group.id), group.queues.clone());
            looks.push(Look { queues, group: id, planned: !due });
        }
        looks
    }

    /// Forgets queues in which nobody has waited for long, and groups that are half of such.
    fn forget(&mut self, now: Instant) {
        let idle = |place: &Place| now.duration_since(place.waited_on) > IDLE;
        self.queues.retain(|_, place| place.group.is_some() || !idle(place));
        let queues = &self.queues;
        let is_idle = |queue: &&QueueName| queues.get(*queue).is_none_or(idle);
        let half_idle =
            |group: &&Group| group.queues.iter().filter(is_idle).count() * 2 > group.queues.len();
        let gone: Vec<u64> = self.formed.iter().filter(half_idle).map(|group| group.id).collect();
        for id in gone {
            self.formed.retain(|group| group.id != id);
            self.queues.retain(|_, place| place.group != Some(id) || !idle(place));
            for place in self.queues.values_mut().filter(|place| place.group == Some(id)) {
                place.group = None;
            }
        }
    }

    /// Puts new queues into groups, once that is worth it.
    fn form(&mut self, now: Instant) {
        let fits = |(queue, place): &(&QueueName, &mut Place)| {
            place.group.is_none() && place.known && queue.check_creatable().is_ok()
        };
        let mut new: Vec<_> = self.queues.iter_mut().filter(fits).collect();
        let long = |(_, place): &(_, &mut Place)| now.duration_since(place.since) >= LONG;
        if new.len() < WORTH_PLANNING && !new.iter().any(long) {
            return;
        }
        new.sort_unstable_by_key(|(queue, _)| *queue);
        for (queue, place) in new {
            let room = self.formed.iter_mut().rfind(|group| group.queues.len() < GROUP);
            let group = if let Some(group) = room {
                group
            } else {
                self.next_id += 1;
                let (id, queues) = (self.next_id, Vec::new());
                self.formed.push(Group { id, queues, thorough: now });
                let Some(group) = self.formed.last_mut() else { return };
                group
            };
            group.queues.push(queue.clone());
            place.group = Some(group.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(names: std::ops::Range<u32>) -> Vec<QueueName> {
        names.map(|n| QueueName::parse(&format!("q{n:04}")).expect("valid")).collect()
    }

    fn planned(looks: &[Look]) -> usize {
        looks.iter().filter(|look| look.planned).map(|look| look.queues.len()).sum()
    }

    fn asked(looks: &[Look]) -> Vec<QueueName> {
        let mut asked: Vec<_> = looks.iter().flat_map(|look| look.queues.clone()).collect();
        asked.sort_unstable();
        asked
    }

    #[tokio::test(start_paused = true)]
    async fn many_are_planned_the_second_time() {
        let (mut groups, waited_on, now) = (Groups::default(), queues(0..1500), Instant::now());
        let first = groups.looks(waited_on.iter(), now);
        assert_eq!((planned(&first), asked(&first)), (0, waited_on.clone()));
        let second = groups.looks(waited_on.iter(), now);
        assert_eq!((planned(&second), asked(&second)), (1500, waited_on.clone()));
        assert_eq!(second.len(), 1500_usize.div_ceil(GROUP));
        assert_eq!(groups.looks(waited_on.iter(), now), second, "they stay as they are");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_and_goes_changes_no_statement() {
        let (mut groups, all, mut now) = (Groups::default(), queues(0..200), Instant::now());
        groups.looks(all.iter(), now);
        let before = groups.looks(all.iter(), now);
        for left_out in 0..20 {
            now += Duration::from_millis(100);
            let some = all.iter().enumerate().filter(|(n, _)| n % 20 != left_out).map(|(_, q)| q);
            assert_eq!(groups.looks(some, now), before);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_planned_once_somebody_has_waited_for_long() {
        let (mut groups, waited_on, now) = (Groups::default(), queues(0..2), Instant::now());
        for after in [0, 1, 4] {
            let looks = groups.looks(waited_on.iter(), now + Duration::from_secs(after));
            assert_eq!((planned(&looks), looks.len()), (0, 1));
        }
        assert_eq!(planned(&groups.looks(waited_on.iter(), now + LONG)), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_is_asked_thoroughly_now_and_then_one_at_a_time() {
        let (mut groups, waited_on, now) = (Groups::default(), queues(0..200), Instant::now());
        groups.looks(waited_on.iter(), now);
        groups.looks(waited_on.iter(), now);
        let later = now + THOROUGH;
        for _ in 0..4 {
            let looks = groups.looks(waited_on.iter(), later);
            assert_eq!(looks.iter().filter(|look| !look.planned).count(), 1);
        }
        assert_eq!(planned(&groups.looks(waited_on.iter(), later)), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_waits_any_more_nothing_is_asked_and_in_the_end_nothing_is_kept() {
        let (mut groups, all, now) = (Groups::default(), queues(0..128), Instant::now());
        groups.looks(all.iter(), now);
        groups.looks(all.iter(), now);
        let soon = now + Duration::from_secs(1);
        assert_eq!(groups.looks(all[..64].iter(), soon).len(), 1, "of two groups one");
        let late = soon + IDLE;
        groups.looks(all[..64].iter(), late);
        let looks = groups.looks(all[..64].iter(), late + Duration::from_secs(1));
        assert_eq!((asked(&looks), groups.len()), (all[..64].to_vec(), 1));
        assert_eq!(groups.queues.len(), 64);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_a_group_is_formed_anew_without_the_culprit() {
        let (mut groups, all, now) = (Groups::default(), queues(0..64), Instant::now());
        groups.looks(all.iter(), now);
        groups.looks(all.iter(), now);
        groups.remove(&all[7], now);
        assert!(groups.has_new() && groups.len() == 0);
        let others = || all.iter().filter(|queue| **queue != all[7]);
        groups.looks(others(), now);
        let looks = groups.looks(others(), now);
        assert_eq!((planned(&looks), looks.len()), (63, 1));
    }
}
