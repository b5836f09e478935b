//! What queues are called: by clients of SQS, in URLs, in ARNs, and in PGMQ.

use sha2::{Digest, Sha256};

use crate::domain::QueueName;

use super::{
    digest::hex,
    error::{Result, SqsError},
};

/// What the name of a FIFO queue ends with.
pub(super) const FIFO_SUFFIX: &str = ".fifo";
/// The most characters of a name.
const MAX_CHARS: usize = 80;
/// Characters of a name that are kept in that of the table where it does not fit as a whole.
const KEPT_CHARS: usize = 20;

/// A queue as clients of SQS know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SqsName {
    /// Its name.
    pub(super) name: String,
    /// The queue that has it.
    pub(super) queue: QueueName,
}

impl SqsName {
    /// Reads a name; none that a queue may have is no name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > MAX_CHARS || !name.bytes().all(fits) {
            return None;
        }
        let queue = QueueName::parse(&name_in_pgmq(name)).ok()?;
        Some(Self { name: name.to_owned(), queue })
    }

    /// The queue of a URL: its last part counts, whatever stands before it, as clients reach the same
    /// gateway by several names. A name alone will do.
    pub(super) fn of_url(url: &str) -> Result<Self> {
        let path = url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let name = path.rsplit('/').next().unwrap_or_default();
        Self::parse(name).ok_or_else(SqsError::no_queue)
    }

    /// The queue of an ARN.
    pub(super) fn of_arn(arn: &str) -> Option<Self> {
        let mut parts = arn.splitn(6, ':');
        let mut next = || parts.next();
        match (next()?, next()?, next()?, next()?, next()?, next()?) {
            ("arn", _, "sqs", _, _, name) => Self::parse(name),
            _ => None,
        }
    }

    /// Whether messages are delivered in order, and once.
    pub(super) fn is_fifo(&self) -> bool {
        self.name.ends_with(FIFO_SUFFIX)
    }

    /// Refuses what SQS would not take for a new queue; `fifo` is what was said of it.
    pub(super) fn check_creatable(name: &str, fifo: bool) -> Result<()> {
        let stem = if fifo { name.strip_suffix(FIFO_SUFFIX) } else { Some(name) };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let is_fine = stem.is_some_and(|stem| !stem.is_empty() && stem.bytes().all(fits));
        if is_fine && name.len() <= MAX_CHARS {
            return Ok(());
        }
        Err(SqsError::invalid(if fifo {
            "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must \
             end with .fifo suffix and be 1 to 80 in length."
        } else {
            "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length"
        }))
    }
}

/// The name itself where PGMQ takes it, and otherwise one with a hash: PGMQ has 47 characters, no upper
/// case and no `--`.
fn name_in_pgmq(name: &str) -> String {
    let as_it_is = QueueName::parse(name)
        .ok()
        .filter(|queue| queue.check_creatable().is_ok() && !queue.is_derived());
    if let Some(queue) = as_it_is {
        return queue.to_string();
    }
    let stem = name.strip_suffix(FIFO_SUFFIX).unwrap_or(name);
    let mut kept = String::with_capacity(KEPT_CHARS);
    for byte in stem.bytes().take(KEPT_CHARS) {
        match byte.to_ascii_lowercase() {
            byte if byte.is_ascii_alphanumeric() => kept.push(char::from(byte)),
            _ if kept.ends_with('-') => {}
            _ => kept.push('-'),
        }
    }
    let hash = &hex(&Sha256::digest(name.as_bytes()))[..16];
    let suffix = if stem.len() < name.len() { FIFO_SUFFIX } else { "" };
    // Of a name that has no letter nothing is kept, and PGMQ takes no `--`.
    let kept = kept.trim_matches('-');
    let stop = if kept.is_empty() { "" } else { "-" };
    format!("sqs-{kept}{stop}{hash}{suffix}")
}

/// Where queues seem to be: what stands in URLs and ARNs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The scheme, the host and maybe a path: what stands before the account.
    pub(super) base: String,
    /// Twelve digits.
    pub(super) account: String,
    /// A region.
    pub(super) region: String,
}

impl Place {
    /// The URL of a queue.
    pub(super) fn url(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.base, self.account)
    }

    /// The ARN of a queue.
    pub(super) fn arn(&self, name: &str) -> String {
        format!("arn:aws:sqs:{}:{}:{name}", self.region, self.account)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_queue_is_found_by_the_last_part_of_its_url() {
        for url in [
            "http://localhost:8080/000000000000/orders",
            "https://sqs.eu-west-1.amazonaws.com/123456789012/orders",
            "http://h/prefix/000000000000/orders/",
            "orders",
        ] {
            let name = SqsName::of_url(url).expect("a queue");
            assert_eq!((&*name.name, name.queue.as_str()), ("orders", "orders"), "{url}");
        }
        for url in ["", "http://h/", "http://h/0/a b", "http://h/0/ä"] {
            assert!(SqsName::of_url(url).is_err() || url == "http://h/", "{url}");
        }
    }

    #[test]
    fn names_that_pgmq_takes_are_the_same_there() {
        for name in ["orders", "orders.fifo", "a-b_c", "0"] {
            assert_eq!(name_in_pgmq(name), name);
        }
        let long = "x".repeat(80);
        for name in ["Orders", "a--b", "_a", "-", "orders_pkey", &long, "Orders.fifo"] {
            let there = name_in_pgmq(name);
            assert!(there.starts_with("sqs-"), "{name}: {there}");
            assert_eq!(there.ends_with(FIFO_SUFFIX), name.ends_with(FIFO_SUFFIX));
        }
        assert_ne!(name_in_pgmq("Orders"), name_in_pgmq("ORDERS"));
    }

    #[test]
    fn names_of_new_queues_are_those_of_sqs() {
        for (name, fifo, fine) in [
            ("a", false, true),
            ("A_b-1", false, true),
            ("a.fifo", true, true),
            ("a.fifo", false, false),
            ("a", true, false),
            (".fifo", true, false),
            ("a.b", false, false),
            ("", false, false),
        ] {
            assert_eq!(SqsName::check_creatable(name, fifo).is_ok(), fine, "{name} {fifo}");
        }
        assert!(SqsName::check_creatable(&"x".repeat(80), false).is_ok());
        assert!(SqsName::check_creatable(&"x".repeat(81), false).is_err());
    }

    proptest! {
        #[test]
        fn every_name_has_a_queue(name in "[A-Za-z0-9_-]{1,75}(\\.fifo)?") {
            let queue = SqsName::parse(&name).expect("a name").queue;
            prop_assert!(queue.check_creatable().is_ok(), "{}", queue);
        }
    }
}
