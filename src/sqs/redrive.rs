//! The policies of dead letters: where they go, and from where they may come.

use serde_json::Value;

use crate::broker::MAX_ATTRIBUTE_BYTES;

use super::{
    error::{Result, SqsError},
    names::SqsName,
};

/// Sources that a RedriveAllowPolicy can name.
const MAX_SOURCES: usize = 10;

/// Where a RedrivePolicy sends messages, and after how many deliveries.
#[derive(Debug)]
pub(super) struct Redrive {
    pub(super) target: SqsName,
    pub(super) max_receives: i64,
}

/// Reads a RedrivePolicy; an empty one takes it away.
pub(super) fn redrive(value: &str) -> Result<Option<Redrive>> {
    if value.is_empty() {
        return Ok(None);
    }
    if value.len() > MAX_ATTRIBUTE_BYTES {
        let reason = format!("Redrive policy must have at most {MAX_ATTRIBUTE_BYTES} bytes.");
        return Err(SqsError::invalid(reason));
    }
    let refuse = |reason: &str| SqsError::value(value, "RedrivePolicy", reason);
    let policy: Value = serde_json::from_str(value)
        .map_err(|_| refuse("Redrive policy is not a valid JSON map."))?;
    let member = |name: &str| policy.get(name).filter(|member| !member.is_null());
    let lacks = |name: &str| {
        refuse(&format!("Redrive policy does not contain mandatory attribute: {name}."))
    };
    let arn = member("deadLetterTargetArn").ok_or_else(|| lacks("deadLetterTargetArn"))?;
    let count = member("maxReceiveCount").ok_or_else(|| lacks("maxReceiveCount"))?;
    let count_text = count.as_str().map_or_else(|| count.to_string(), str::to_owned);
    let max_receives = count_text.parse().ok().filter(|count| (1..=1_000).contains(count));
    let max_receives = max_receives.ok_or_else(|| {
        refuse(&format!(
            "Invalid value for maxReceiveCount: {count_text}, valid values are from 1 to 1000 both inclusive."
        ))
    })?;
    let target = arn.as_str().and_then(SqsName::of_arn);
    let target = target.ok_or_else(|| refuse("Invalid value for deadLetterTargetArn."))?;
    Ok(Some(Redrive { target, max_receives }))
}

/// Refuses what is no RedriveAllowPolicy; an empty one takes it away.
pub(super) fn check_allow_policy(value: &str) -> Result<()> {
    if value.is_empty() {
        return Ok(());
    }
    if value.len() > MAX_ATTRIBUTE_BYTES {
        return Err(SqsError::attribute_too_long("RedriveAllowPolicy"));
    }
    let policy: Option<Value> = serde_json::from_str(value).ok();
    let member = |name: &str| policy.as_ref()?.get(name).filter(|member| !member.is_null());
    let sources = member("sourceQueueArns");
    let is_source = |arn: &Value| arn.as_str().and_then(SqsName::of_arn).is_some();
    let is_fine = match member("redrivePermission").and_then(Value::as_str) {
        Some("allowAll" | "denyAll") => sources.is_none(),
        Some("byQueue") => sources.and_then(Value::as_array).is_some_and(|sources| {
            (1..=MAX_SOURCES).contains(&sources.len()) && sources.iter().all(is_source)
        }),
        _ => false,
    };
    if is_fine {
        return Ok(());
    }
    let reason = " Reason: It is {\"redrivePermission\": \"allowAll\" or \"denyAll\"}, or \"byQueue\" with 1 to 10 ARNs \
                  of queues as \"sourceQueueArns\".";
    Err(SqsError::attribute("RedriveAllowPolicy", reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_says_who_may_send_dead_letters() {
        let arn = "arn:aws:sqs:us-east-1:000000000000:work";
        for (policy, fine) in [
            (String::new(), true),
            (r#"{"redrivePermission":"allowAll"}"#.to_owned(), true),
            (r#"{"redrivePermission":"denyAll"}"#.to_owned(), true),
            (format!(r#"{{"redrivePermission":"byQueue","sourceQueueArns":["{arn}"]}}"#), true),
            (r#"{"redrivePermission":"byQueue"}"#.to_owned(), false),
            (r#"{"redrivePermission":"byQueue","sourceQueueArns":[]}"#.to_owned(), false),
            (r#"{"redrivePermission":"byQueue","sourceQueueArns":["work"]}"#.to_owned(), false),
            (format!(r#"{{"redrivePermission":"denyAll","sourceQueueArns":["{arn}"]}}"#), false),
            (r#"{"redrivePermission":"nobody"}"#.to_owned(), false),
            ("{}".to_owned(), false),
            ("[]".to_owned(), false),
            ("denyAll".to_owned(), false),
        ] {
            assert_eq!(check_allow_policy(&policy).is_ok(), fine, "{policy}");
        }
    }
}
