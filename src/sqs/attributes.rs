//! The attributes of a queue: what may be set, and where each is kept.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    broker::{MAX_ATTRIBUTE_BYTES, QueueAttributes},
    domain::{Bounded, DeadLetterQueue, Queue, SettingsChange},
};

use super::{
    error::{Kind, Result, SqsError},
    names::{Place, SqsName},
    redrive::{check_allow_policy, redrive},
};

/// Seconds for which a message is kept unless something else is set: 4 days.
pub(super) const DEFAULT_RETENTION: i64 = 345_600;
/// The longest that can be set, which is also what is shown of a queue that keeps messages for ever.
const MAX_RETENTION: i64 = 1_209_600;
/// Bytes of a message.
pub(super) const MAX_MESSAGE_BYTES: i64 = 1_048_576;

/// Those that belong to the queue's settings, which other clients of the gateway see too.
const OF_SETTINGS: [&str; 5] = [
    "VisibilityTimeout",
    "DelaySeconds",
    "MaximumMessageSize",
    "MessageRetentionPeriod",
    "RedrivePolicy",
];
/// Those that FIFO queues alone have.
const OF_FIFO: [&str; 3] =
    ["ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit"];
/// Those that can be asked for and not be set.
pub(super) const COMPUTED: [&str; 6] = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
    "CreatedTimestamp",
    "LastModifiedTimestamp",
    "QueueArn",
];
/// Those that are numbers.
const NUMBERS: [&str; 6] = [
    "VisibilityTimeout",
    "DelaySeconds",
    "MaximumMessageSize",
    "MessageRetentionPeriod",
    "ReceiveMessageWaitTimeSeconds",
    "KmsDataKeyReusePeriodSeconds",
];
/// The others.
const OTHERS: [&str; 7] = [
    "FifoQueue",
    "KmsDataKeyReusePeriodSeconds",
    "KmsMasterKeyId",
    "Policy",
    "ReceiveMessageWaitTimeSeconds",
    "RedriveAllowPolicy",
    "SqsManagedSseEnabled",
];

/// Whether there is an attribute of this name.
pub(super) fn is_known(name: &str) -> bool {
    let mut all = OF_SETTINGS.iter().chain(&OF_FIFO).chain(&COMPUTED).chain(&OTHERS);
    all.any(|known| *known == name)
}

pub(super) fn unknown(name: &str) -> SqsError {
    SqsError::new(Kind::InvalidAttributeName, format!("Unknown Attribute {name}."))
}

/// The same attributes, with numbers as they are shown: without zeros before them.
pub(super) fn with_plain_numbers(mut given: BTreeMap<String, String>) -> BTreeMap<String, String> {
    for (name, value) in &mut given {
        let is_plain = !value.starts_with('0') || !NUMBERS.contains(&name.as_str());
        if let Some(number) = value.parse::<u32>().ok().filter(|_| !is_plain) {
            *value = number.to_string();
        }
    }
    given
}

/// What is to be changed of a queue.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Of its settings.
    pub(super) settings: SettingsChange,
    /// Of what is kept beside them.
    pub(super) attributes: BTreeMap<String, Option<String>>,
}

/// Reads attributes that are to be set for a queue of this name. `is_new` allows to say that it is FIFO.
pub(super) fn read(
    given: &BTreeMap<String, String>,
    name: &SqsName,
    is_new: bool,
) -> Result<Change> {
    let mut change = Change::default();
    for (attribute, value) in given {
        read_one(&mut change, attribute, value, name, is_new)?;
    }
    let is_on = |name: &str| given.get(name).is_some_and(|value| !value.is_empty());
    if is_on("KmsMasterKeyId") && given.get("SqsManagedSseEnabled").is_some_and(|on| on == "true") {
        return Err(SqsError::new(
            Kind::InvalidAttributeName,
            "You can use one type of server-side encryption (SSE) at one time. You can either enable KMS SSE \
             or SQS SSE.",
        ));
    }
    if is_on("KmsMasterKeyId") {
        change.attributes.insert("SqsManagedSseEnabled".to_owned(), Some("false".to_owned()));
    } else if given.get("SqsManagedSseEnabled").is_some_and(|on| on == "true") {
        change.attributes.insert("KmsMasterKeyId".to_owned(), None);
    }
    Ok(change)
}

fn read_one(
    change: &mut Change,
    attribute: &str,
    value: &str,
    name: &SqsName,
    is_new: bool,
) -> Result<()> {
    let settings = &mut change.settings;
    match attribute {
        "VisibilityTimeout" => {
            settings.visibility_timeout = Some(Some(number(attribute, value, 0, 43_200)?));
        }
        "DelaySeconds" => settings.delay = Some(Some(number(attribute, value, 0, 900)?)),
        "MaximumMessageSize" => {
            let bytes = number(attribute, value, 1_024, MAX_MESSAGE_BYTES)?;
            settings.max_message_bytes = Some(Some(bytes));
        }
        "MessageRetentionPeriod" => {
            settings.message_retention = Some(Some(number(attribute, value, 60, MAX_RETENTION)?));
        }
        "RedrivePolicy" => {
            let redrive = redrive(value)?;
            settings.max_receives =
                Some(redrive.as_ref().map(|redrive| Bounded::saturating(redrive.max_receives)));
            settings.dead_letter_queue =
                Some(redrive.map(|redrive| DeadLetterQueue(redrive.target.queue)));
        }
        "FifoQueue" if !name.is_fifo() => return Err(unknown(attribute)),
        "FifoQueue" if value != "true" => {
            let reason =
                if is_new { "" } else { " Reason: Modifying queue type is not supported." };
            return Err(SqsError::attribute(attribute, reason));
        }
        "FifoQueue" => {}
        _ => {
            check_other(attribute, value, name)?;
            let kept = Some(value.to_owned()).filter(|value| !value.is_empty());
            change.attributes.insert(attribute.to_owned(), kept);
        }
    }
    Ok(())
}

/// Refuses what an attribute cannot be that is kept as it is given.
fn check_other(attribute: &str, value: &str, name: &SqsName) -> Result<()> {
    let only_fifo = |attribute: &str| {
        let message =
            format!("You can specify the {attribute} only when FifoQueue is set to true.");
        SqsError::new(Kind::InvalidAttributeName, message)
    };
    let is_fine = match attribute {
        "ContentBasedDeduplication" if !name.is_fifo() => return Err(unknown(attribute)),
        "DeduplicationScope" | "FifoThroughputLimit" if !name.is_fifo() => {
            return Err(only_fifo(attribute));
        }
        "ContentBasedDeduplication" => matches!(value, "true" | "false"),
        "DeduplicationScope" => matches!(value, "queue" | "messageGroup"),
        "FifoThroughputLimit" => matches!(value, "perQueue" | "perMessageGroupId"),
        "ReceiveMessageWaitTimeSeconds" => is_within(value, 0, 20),
        "KmsDataKeyReusePeriodSeconds" => is_within(value, 60, 86_400),
        "KmsMasterKeyId" => value.len() <= 2_048 && !value.contains('\0'),
        "SqsManagedSseEnabled" => matches!(value, "true" | "false"),
        "Policy" if value.len() > MAX_ATTRIBUTE_BYTES => {
            return Err(SqsError::attribute_too_long(attribute));
        }
        "Policy" => value.is_empty() || is_object(value),
        "RedriveAllowPolicy" => return check_allow_policy(value),
        _ => return Err(unknown(attribute)),
    };
    if is_fine { Ok(()) } else { Err(SqsError::attribute(attribute, "")) }
}

fn is_within(value: &str, least: i64, most: i64) -> bool {
    let has_digits_alone = value.bytes().all(|byte| byte.is_ascii_digit());
    has_digits_alone && value.parse().is_ok_and(|number: i64| (least..=most).contains(&number))
}

fn is_object(value: &str) -> bool {
    serde_json::from_str::<Value>(value).is_ok_and(|value| value.is_object())
}

fn number<const MIN: i64, const MAX: i64>(
    attribute: &str,
    value: &str,
    least: i64,
    most: i64,
) -> Result<Bounded<MIN, MAX>> {
    if !is_within(value, least, most) {
        return Err(SqsError::attribute(attribute, ""));
    }
    value.parse().map_err(|_| SqsError::attribute(attribute, ""))
}

/// The attributes of a queue that are set or have a default; `dead_letters` is what clients of SQS call its
/// dead-letter queue.
pub(super) fn current(
    queue: &Queue,
    kept: &QueueAttributes,
    name: &SqsName,
    dead_letters: Option<&str>,
    place: &Place,
) -> BTreeMap<String, String> {
    let settings = &queue.settings;
    let mut all: BTreeMap<String, String> = kept.attributes.clone();
    let mut put = |name: &str, value: String| all.insert(name.to_owned(), value);
    put("VisibilityTimeout", settings.visibility_timeout.to_string());
    put("DelaySeconds", settings.delay.to_string());
    let bytes = settings.max_message_bytes.map_or(MAX_MESSAGE_BYTES, Bounded::get);
    put("MaximumMessageSize", bytes.min(MAX_MESSAGE_BYTES).to_string());
    let retention = settings.message_retention.map_or(MAX_RETENTION, Bounded::get);
    put("MessageRetentionPeriod", retention.to_string());
    if let (Some(target), Some(count)) = (dead_letters, settings.max_receives) {
        let arn = serde_json::to_string(&place.arn(target)).unwrap_or_default();
        let policy = format!("{{\"deadLetterTargetArn\":{arn},\"maxReceiveCount\":{count}}}");
        put("RedrivePolicy", policy);
    }
    put("QueueArn", place.arn(&name.name));
    put("CreatedTimestamp", queue.created_at.timestamp().to_string());
    let modified = kept.modified_at.unwrap_or(queue.created_at).max(queue.created_at);
    put("LastModifiedTimestamp", modified.timestamp().to_string());
    let mut default = |name: &str, value: &str| {
        all.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    };
    default("ReceiveMessageWaitTimeSeconds", "0");
    default("SqsManagedSseEnabled", "true");
    if name.is_fifo() && queue.fifo {
        default("FifoQueue", "true");
        default("ContentBasedDeduplication", "false");
        default("DeduplicationScope", "queue");
        default("FifoThroughputLimit", "perQueue");
    } else {
        all.retain(|name, _| !OF_FIFO.contains(&name.as_str()));
    }
    if all.contains_key("KmsMasterKeyId") {
        all.entry("KmsDataKeyReusePeriodSeconds".to_owned()).or_insert_with(|| "300".to_owned());
    } else {
        all.remove("KmsDataKeyReusePeriodSeconds");
    }
    all
}

/// Whether an attribute that is wished for is as it is.
pub(super) fn is_alike(wished: &str, current: Option<&String>) -> bool {
    let Some(current) = current else { return wished.is_empty() };
    if wished == current {
        return true;
    }
    let json = |text: &str| serde_json::from_str::<Value>(text).ok();
    match (redrive(wished).ok().flatten(), redrive(current).ok().flatten()) {
        (Some(wished), Some(current)) => {
            wished.target == current.target && wished.max_receives == current.max_receives
        }
        _ => json(wished).is_some_and(|wished| wished.is_object() && json(current) == Some(wished)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, given: &[(&str, &str)], is_new: bool) -> (Kind, String) {
        let name = SqsName::parse(name).expect("a name");
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let error = read(&given.collect(), &name, is_new).expect_err("must be refused");
        (error.kind, error.message)
    }

    #[test]
    fn what_is_refused_is_refused_in_the_words_of_the_service() {
        for (name, given, is_new, kind, message) in [
            (
                "q",
                ("ContentBasedDeduplication", "true"),
                true,
                Kind::InvalidAttributeName,
                "Unknown Attribute ContentBasedDeduplication.",
            ),
            (
                "q",
                ("DeduplicationScope", "queue"),
                true,
                Kind::InvalidAttributeName,
                "You can specify the DeduplicationScope only when FifoQueue is set to true.",
            ),
            (
                "q",
                ("FifoThroughputLimit", "perQueue"),
                true,
                Kind::InvalidAttributeName,
                "You can specify the FifoThroughputLimit only when FifoQueue is set to true.",
            ),
            (
                "q",
                ("FifoQueue", "false"),
                true,
                Kind::InvalidAttributeName,
                "Unknown Attribute FifoQueue.",
            ),
            (
                "q",
                ("FifoQueue", "true"),
                false,
                Kind::InvalidAttributeName,
                "Unknown Attribute FifoQueue.",
            ),
            (
                "q.fifo",
                ("FifoQueue", "false"),
                false,
                Kind::InvalidAttributeValue,
                "Invalid value for the parameter FifoQueue. Reason: Modifying queue type is not supported.",
            ),
            ("q", ("Colour", "red"), true, Kind::InvalidAttributeName, "Unknown Attribute Colour."),
            (
                "q",
                ("QueueArn", "x"),
                true,
                Kind::InvalidAttributeName,
                "Unknown Attribute QueueArn.",
            ),
            (
                "q",
                ("VisibilityTimeout", "43201"),
                true,
                Kind::InvalidAttributeValue,
                "Invalid value for the parameter VisibilityTimeout.",
            ),
            (
                "q",
                ("DelaySeconds", "soon"),
                true,
                Kind::InvalidAttributeValue,
                "Invalid value for the parameter DelaySeconds.",
            ),
        ] {
            assert_eq!(refusal(name, &[given], is_new), (kind, message.to_owned()), "{given:?}");
        }
        let (kind, message) =
            refusal("q", &[("KmsMasterKeyId", "k"), ("SqsManagedSseEnabled", "true")], false);
        assert_eq!(kind, Kind::InvalidAttributeName);
        assert!(message.starts_with("You can use one type of server-side encryption"), "{message}");
    }

    /// White space and members that nobody knows count too.
    #[test]
    fn a_policy_has_a_bound() {
        let of = |bytes: usize| format!("{{\"Version\":\"x\"{}}}", " ".repeat(bytes - 15));
        let name = SqsName::parse("q").expect("a name");
        let given = |bytes| BTreeMap::from([("Policy".to_owned(), of(bytes))]);
        assert_eq!(of(8_192).len(), 8_192);
        assert!(read(&given(8_192), &name, false).is_ok());
        for (attribute, value) in [
            ("Policy", of(8_193)),
            ("RedriveAllowPolicy", format!("{{\"redrivePermission\":\"allowAll\"{:8192}}}", "")),
        ] {
            let (kind, message) = refusal("q", &[(attribute, &value)], false);
            assert_eq!(kind, Kind::InvalidAttributeValue);
            assert!(message.ends_with("It must have at most 8192 bytes."), "{message}");
        }
        let value = format!("{{\"maxReceiveCount\":3{:8192}}}", "");
        let (kind, message) = refusal("q", &[("RedrivePolicy", &value)], false);
        assert_eq!(kind, Kind::InvalidParameterValue, "{message}");
    }

    #[test]
    fn redrive_policies_are_read_and_compared_as_json() {
        let policy = r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead","maxReceiveCount":"3"}"#;
        let read = redrive(policy).expect("fine").expect("a policy");
        assert_eq!((&*read.target.name, read.max_receives), ("dead", 3));
        let other = policy.replace("\"3\"", "3").replace("us-east-1", "eu-west-1");
        assert!(is_alike(policy, Some(&other)));
        assert!(!is_alike(policy, Some(&other.replace(":3", ":4"))));
        assert!(redrive("").expect("none").is_none());
        for wrong in [
            "x",
            "{}",
            r#"{"maxReceiveCount":3}"#,
            r#"{"deadLetterTargetArn":"dead","maxReceiveCount":3}"#,
            r#"{"deadLetterTargetArn":"arn:aws:sqs:r:0:dead","maxReceiveCount":0}"#,
        ] {
            assert_eq!(redrive(wrong).expect_err(wrong).kind, Kind::InvalidParameterValue);
        }
    }
}
