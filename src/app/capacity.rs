//! Limits that fit the process: what it may open, and what memory it may have.

use tracing::warn;

use crate::{
    config::{Settings, Strategy},
    server::{most_descriptors, raise_file_limit},
};

use super::{StartError, memory_limit::memory_limit};

/// Files that are open besides connections: standard ones, listeners, what the runtime has, and those
/// that are read now and then.
const OTHER_FILES: u64 = 24;
/// Connections to the database besides the pools': one that listens, health, those that cancel.
const OTHER_CONNECTIONS: u64 = 8;
/// The fewest clients that are worth serving.
const FEWEST_CLIENTS: u64 = 4;

/// Bytes of a gateway that does nothing.
const IDLE_BYTES: u64 = 32 << 20;
/// Bytes of a connection, its headers not counted: 19 kB were measured for one that waits.
const CONNECTION_BYTES: u64 = 24 << 10;
/// What TLS adds to it.
const TLS_BYTES: u64 = 32 << 10;
/// Bytes of a request: its body and its answer, where they are too small to be counted.
const REQUEST_BYTES: u64 = 32 << 10;
/// Bytes of a client that waits, its connection not counted: over HTTP/2 many share one.
const WAITER_BYTES: u64 = 8 << 10;
/// How many times a byte of a body or an answer may be there at once.
const COPIES: u64 = 2;
/// Of the memory, so many parts are left to what is not foreseen.
const SPARE_PART: u64 = 10;
/// What is left to a private PostgreSQL, which is part of the same container: at most this, and at most
/// a quarter.
const POSTGRES_BYTES: u64 = 256 << 20;

/// What a process may take; nothing is known to bound what is not there.
#[derive(Clone, Copy, Debug, Default)]
struct Capacity {
    files: Option<u64>,
    memory: Option<u64>,
}

/// A limit that was lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lowered {
    setting: &'static str,
    from: u64,
    to: u64,
}

/// The settings with limits that the process can keep. What had to be lowered is said in one line.
pub(super) fn fit(settings: &Settings) -> Result<Settings, StartError> {
    let capacity = Capacity { files: raise_file_limit(), memory: memory_limit() };
    let mut settings = settings.clone();
    let lowered = capacity.fit(&mut settings)?;
    if !lowered.is_empty() {
        let list: Vec<String> = lowered.iter().map(Lowered::to_string).collect();
        let (files, memory_mib) = (capacity.files, capacity.memory.map(|bytes| bytes >> 20));
        warn!(
            files,
            memory_mib,
            "limits are lowered to what this process may take: {}",
            list.join(", ")
        );
    }
    Ok(settings)
}

impl std::fmt::Display for Lowered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} from {} to {}", self.setting, self.from, self.to)
    }
}

impl Capacity {
    fn fit(self, settings: &mut Settings) -> Result<Vec<Lowered>, StartError> {
        let before = settings.clone();
        if let Some(memory) = self.memory {
            fit_memory(settings, memory);
        }
        if let Some(files) = self.files {
            fit_files(settings, files)?;
        }
        Ok(differences(&before, settings))
    }
}

/// Connections to the database go first: without them, clients are of no use.
fn fit_files(settings: &mut Settings, files: u64) -> Result<(), StartError> {
    let too_few = || StartError::OpenFiles { limit: files };
    let left = files.checked_sub(OTHER_FILES + OTHER_CONNECTIONS).ok_or_else(too_few)?;
    // Where there is room, more is left to what is not foreseen.
    let left = left - (files / 16).min(64).min(left / 8);
    for pool in pools(settings) {
        let most = u32::try_from(left / 4).unwrap_or(u32::MAX);
        *pool = (*pool).min(most);
    }
    let pools: u64 = pools(settings).into_iter().map(|pool| u64::from(*pool)).sum();
    let left = left - pools;
    let operations = settings.server.operations_port.is_some();
    let wanted = u64::from(settings.limits.max_connections).min(left);
    let clients = wanted - most_descriptors(wanted, operations).saturating_sub(left).min(wanted);
    if clients < FEWEST_CLIENTS.min(wanted) || settings.database.max_connections == 0 || wanted == 0
    {
        return Err(too_few());
    }
    settings.limits.max_connections = u32::try_from(clients).unwrap_or(u32::MAX);
    Ok(())
}

/// The pools that there are.
fn pools(settings: &mut Settings) -> Vec<&mut u32> {
    let polls = settings.long_poll.strategy == Strategy::ReadWithPoll;
    let mut pools = vec![&mut settings.database.max_connections];
    if polls {
        pools.push(&mut settings.long_poll.max_connections);
    }
    pools
}

/// Every limit takes its share of what memory there is.
fn fit_memory(settings: &mut Settings, memory: u64) {
    let for_postgres =
        if settings.database.url.is_none() { POSTGRES_BYTES.min(memory / 4) } else { 0 };
    let usable = (memory - memory / SPARE_PART).saturating_sub(IDLE_BYTES + for_postgres);
    let tls = if settings.tls.files().is_some() { TLS_BYTES } else { 0 };
    let limits = &mut settings.limits;
    let connection = CONNECTION_BYTES + u64::from(limits.max_header_bytes) + tls;
    let waiters = &mut settings.long_poll.max_waiters;
    let needed = [
        u64::from(limits.max_connections).saturating_mul(connection),
        (limits.max_requests as u64).saturating_mul(REQUEST_BYTES),
        (limits.max_arriving_requests as u64).saturating_mul(REQUEST_BYTES),
        (*waiters as u64).saturating_mul(WAITER_BYTES),
        limits.max_in_flight_bytes.saturating_mul(COPIES),
    ];
    let needed = needed.into_iter().fold(0, u64::saturating_add);
    if needed <= usable {
        return;
    }
    let share = |limit: u64, least: u64| {
        let share = u128::from(limit) * u128::from(usable) / u128::from(needed);
        u64::try_from(share).unwrap_or(limit).max(least).min(limit)
    };
    let share_of =
        |limit: usize, least| usize::try_from(share(limit as u64, least)).unwrap_or(limit);
    let connections = share(limits.max_connections.into(), 16);
    limits.max_connections = u32::try_from(connections).unwrap_or(limits.max_connections);
    limits.max_requests = share_of(limits.max_requests, 8);
    limits.max_arriving_requests = share_of(limits.max_arriving_requests, 8);
    *waiters = share_of(*waiters, 16);
    // A message of the largest size still has room.
    limits.max_in_flight_bytes = share(limits.max_in_flight_bytes, limits.max_message_bytes);
    limits.max_body_bytes = limits.max_body_bytes.min(limits.max_in_flight_bytes);
    limits.max_answer_bytes = limits.max_answer_bytes.min(limits.max_in_flight_bytes);
    let in_flight = usize::try_from(limits.max_in_flight_bytes).unwrap_or(usize::MAX);
    settings.engine.max_pending_bytes = settings.engine.max_pending_bytes.min(in_flight);
}

fn differences(before: &Settings, after: &Settings) -> Vec<Lowered> {
    type Limit = (&'static str, fn(&Settings) -> u64);
    const LIMITS: [Limit; 10] = [
        ("limits.max_connections", |settings| settings.limits.max_connections.into()),
        ("limits.max_requests", |settings| settings.limits.max_requests as u64),
        ("limits.max_arriving_requests", |settings| settings.limits.max_arriving_requests as u64),
        ("limits.max_in_flight_bytes", |settings| settings.limits.max_in_flight_bytes),
        ("limits.max_body_bytes", |settings| settings.limits.max_body_bytes),
        ("limits.max_answer_bytes", |settings| settings.limits.max_answer_bytes),
        ("engine.max_pending_bytes", |settings| settings.engine.max_pending_bytes as u64),
        ("long_poll.max_waiters", |settings| settings.long_poll.max_waiters as u64),
        ("long_poll.max_connections", |settings| settings.long_poll.max_connections.into()),
        ("database.max_connections", |settings| settings.database.max_connections.into()),
    ];
    let lowered = LIMITS.iter().map(|(setting, of)| {
        let (from, to) = (of(before), of(after));
        Lowered { setting, from, to }
    });
    lowered.filter(|lowered| lowered.from != lowered.to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn fitted(
        capacity: Capacity,
        change: impl FnOnce(&mut Settings),
    ) -> Result<(Settings, Vec<Lowered>), StartError> {
        let mut settings = Settings::default();
        change(&mut settings);
        let lowered = capacity.fit(&mut settings)?;
        Ok((settings, lowered))
    }

    fn files(limit: u64, change: impl FnOnce(&mut Settings)) -> Result<Settings, StartError> {
        let capacity = Capacity { files: Some(limit), ..Capacity::default() };
        fitted(capacity, change).map(|(settings, _)| settings)
    }

    fn memory(mib: u64) -> (Settings, Vec<Lowered>) {
        let capacity = Capacity { memory: Some(mib << 20), ..Capacity::default() };
        let elsewhere = |settings: &mut Settings| {
            settings.database.url = Some(Secret::new("postgres://elsewhere"));
        };
        fitted(capacity, elsewhere).expect("there is always some")
    }

    #[test]
    fn what_fits_is_left_as_it_is() {
        let capacity = Capacity { files: Some(u64::MAX), memory: Some(64 << 30) };
        let (_, lowered) = fitted(capacity, |_| {}).expect("room");
        assert_eq!(lowered, []);
        let (_, lowered) = fitted(Capacity::default(), |_| {}).expect("unknown");
        assert_eq!(lowered, []);
    }

    #[test]
    fn descriptors_are_never_more_than_there_are() {
        for limit in [64, 100, 128, 256, 1_000, 1_024, 4_096, 20_000, 65_536] {
            for (pool, polls, operations) in
                [(8, false, false), (8, true, true), (1_000, false, true), (1_000, true, false)]
            {
                let settings = files(limit, |settings| {
                    settings.database.max_connections = pool;
                    settings.server.operations_port = operations.then_some(0);
                    if polls {
                        settings.long_poll.strategy = Strategy::ReadWithPoll;
                        settings.long_poll.max_connections = 1_000;
                    }
                });
                let settings = settings.expect("room");
                let mut all = OTHER_FILES + OTHER_CONNECTIONS;
                all += u64::from(settings.database.max_connections);
                all += if polls { settings.long_poll.max_connections.into() } else { 0 };
                let clients = u64::from(settings.limits.max_connections);
                all += most_descriptors(clients, operations);
                assert!(all <= limit, "{all} of {limit}");
                assert!(clients >= FEWEST_CLIENTS && settings.database.max_connections > 0);
                // Most of them are for clients.
                assert!(
                    limit < 200 || clients * 4 > limit || clients > 16_000,
                    "{clients} of {limit}"
                );
            }
        }
    }

    #[test]
    fn too_few_descriptors_for_anybody_stop_the_start() {
        for limit in [0, 10, 30, 36] {
            let error = files(limit, |_| {}).expect_err("too few").to_string();
            assert!(error.contains(&limit.to_string()) && error.contains("ulimit -n"), "{error}");
        }
        let one = files(64, |settings| settings.limits.max_connections = 1).expect("room for one");
        assert_eq!(one.limits.max_connections, 1);
    }

    #[test]
    fn every_limit_takes_its_share_of_the_memory() {
        for mib in [64, 128, 256, 512, 1_024] {
            let (settings, lowered) = memory(mib);
            let limits = &settings.limits;
            assert!(lowered.iter().all(|lowered| lowered.to < lowered.from), "{lowered:?}");
            let most = u64::from(limits.max_connections)
                * (CONNECTION_BYTES + u64::from(limits.max_header_bytes))
                + limits.max_requests as u64 * REQUEST_BYTES
                + limits.max_arriving_requests as u64 * REQUEST_BYTES
                + settings.long_poll.max_waiters as u64 * WAITER_BYTES
                + limits.max_in_flight_bytes * COPIES;
            assert!(most + IDLE_BYTES < mib << 20, "{} of {mib} MiB", most >> 20);
            assert!(most > mib << 17, "{} of {mib} MiB", most >> 20);
            assert!(
                limits.max_in_flight_bytes >= limits.max_body_bytes.max(limits.max_answer_bytes)
            );
            assert!(limits.max_body_bytes >= limits.max_message_bytes);
        }
        // A private PostgreSQL is part of it.
        let capacity = Capacity { memory: Some(512 << 20), ..Capacity::default() };
        let (with_postgres, _) = fitted(capacity, |_| {}).expect("room");
        let (without, _) = memory(512);
        assert!(with_postgres.limits.max_in_flight_bytes < without.limits.max_in_flight_bytes);
        let (settings, _) = memory(8);
        assert_eq!(settings.limits.max_message_bytes, 1 << 20, "this is what clients rely on");
        assert!(settings.limits.max_connections >= 16 && settings.limits.max_requests >= 8);
    }
}
