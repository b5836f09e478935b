//! Tags of queues, and the permissions in their `Policy`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::{
    broker::{AttributesChange, Error, MAX_ATTRIBUTE_BYTES},
    http::{Caller, QueuePermit, right},
};

use super::{
    call::{Call, Output, object, queue_of},
    error::{Kind, Result, SqsError},
    message_attributes::is_legal,
    names::SqsName,
    shapes::{AddPermission, OfQueue, RemovePermission, TagQueue, UntagQueue, required},
};

/// Tags of one queue.
const MAX_TAGS: usize = 50;
/// Characters of a tag's key, and of its value.
const MAX_KEY: usize = 128;
const MAX_VALUE: usize = 256;
/// Permissions of one queue, and actions of one permission.
const MAX_STATEMENTS: usize = 20;
const MAX_ACTIONS: usize = 7;
/// Attempts to change permissions that others change too: each time, one of them has done so.
const ATTEMPTS: usize = MAX_STATEMENTS;
/// Accounts of one permission.
const MAX_ACCOUNTS: usize = 50;
/// Characters of a permission's label.
const MAX_LABEL: usize = 80;
/// Actions that can be permitted.
const PERMITTED: [&str; 7] = [
    "*",
    "SendMessage",
    "ReceiveMessage",
    "DeleteMessage",
    "ChangeMessageVisibility",
    "GetQueueAttributes",
    "GetQueueUrl",
];

const POLICY: &str = "Policy";

type Permit = QueuePermit<right::Manage>;

/// Refuses tags that no queue can have.
pub(super) fn check(tags: &BTreeMap<String, String>) -> Result<()> {
    for (key, value) in tags {
        let fits = (1..=MAX_KEY).contains(&key.chars().count())
            && value.chars().count() <= MAX_VALUE
            && !key.to_ascii_lowercase().starts_with("aws:")
            && key.chars().chain(value.chars()).all(is_legal);
        if !fits {
            return Err(SqsError::invalid(format!(
                "Tag {key} is invalid: a key has 1 to {MAX_KEY} characters and does not begin with aws:, a \
                 value has at most {MAX_VALUE}, and neither has control characters."
            )));
        }
    }
    if tags.len() > MAX_TAGS {
        return Err(SqsError::invalid(format!(
            "Too many tags added for queue: at most {MAX_TAGS}."
        )));
    }
    Ok(())
}

/// Adds tags, or changes their values.
pub(super) async fn tag(caller: Caller, input: TagQueue) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let tags = input.tags.filter(|tags| !tags.is_empty());
    let tags = tags.ok_or_else(|| SqsError::missing("Tags"))?;
    let permit = Permit::new(caller, name.queue.clone())?;
    let mut all = permit.broker.fresh_attributes(&permit.call, &name.queue).await?.tags.clone();
    all.extend(tags.clone());
    check(&all)?;
    let tags = tags.into_iter().map(|(key, value)| (key, Some(value))).collect();
    change(&permit, &name, AttributesChange { tags, ..AttributesChange::default() }).await
}

/// Takes tags away.
pub(super) async fn untag(caller: Caller, input: UntagQueue) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let keys = input.tag_keys.filter(|keys| !keys.is_empty());
    let keys = keys.ok_or_else(|| SqsError::missing("TagKeys"))?;
    let permit = Permit::new(caller, name.queue.clone())?;
    let keys: BTreeSet<String> = keys.into_iter().filter(|key| !key.contains('\0')).collect();
    let tags = keys.into_iter().map(|key| (key, None)).collect();
    change(&permit, &name, AttributesChange { tags, ..AttributesChange::default() }).await
}

async fn change(permit: &Permit, name: &SqsName, change: AttributesChange) -> Result<Output> {
    let (broker, alias) = (&permit.broker, name.name.clone());
    broker.change_attributes(&permit.call, &name.queue, alias, change).await?;
    Ok(None)
}

/// The tags of a queue.
pub(super) async fn list(caller: Caller, input: OfQueue) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let permit = QueuePermit::<right::Any>::new(caller, name.queue.clone())?;
    let kept = permit.broker.fresh_attributes(&permit.call, &name.queue).await?;
    let mut output = Map::new();
    if !kept.tags.is_empty() {
        output = object([("Tags", json!(kept.tags))]);
    }
    Ok(Some(output))
}

/// Writes a permission into `Policy`. It is kept and shown; what a key may do is said by its grants.
pub(super) async fn permit(call: &Call, caller: Caller, input: AddPermission) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let label = required(input.label.as_ref(), "Label")?.to_owned();
    let accounts = input.account_ids.unwrap_or_default();
    let actions = input.actions.unwrap_or_default();
    for (list, parameter) in [(&accounts, "AWSAccountIds"), (&actions, "Actions")] {
        if list.is_empty() {
            return Err(SqsError::missing(parameter));
        }
    }
    check_permission(&label, &accounts)?;
    for (count, most, what) in
        [(accounts.len(), MAX_ACCOUNTS, "AWSAccountIds"), (actions.len(), MAX_ACTIONS, "Actions")]
    {
        if count > most {
            let message = format!("{count} {what} were found, maximum allowed is {most}.");
            return Err(SqsError::new(Kind::OverLimit, message));
        }
    }
    if let Some(odd) = actions.iter().find(|action| !PERMITTED.contains(&action.as_str())) {
        let reason = "Please refer to the appropriate WSDL for a list of valid actions.";
        return Err(SqsError::value(&format!("SQS:{odd}"), "ActionName", reason));
    }
    let permit = Permit::new(caller, name.queue.clone())?;
    let principals = accounts.iter().map(|account| format!("arn:aws:iam::{account}:root"));
    let statement = json!({
        "Sid": label, "Effect": "Allow", "Principal": {"AWS": one_or_all(principals.collect())},
        "Action": one_or_all(actions.iter().map(|action| format!("SQS:{action}")).collect()),
        "Resource": call.place.arn(&name.name),
    });
    edit(call, &permit, &name, |statements, is_again| {
        if is_again && statements.contains(&statement) {
            return Ok(false);
        }
        if statements.iter().any(|statement| statement["Sid"] == *label) {
            return Err(SqsError::value(&label, "Label", "Already exists."));
        }
        if statements.len() >= MAX_STATEMENTS {
            let message = format!("A queue has at most {MAX_STATEMENTS} permissions.");
            return Err(SqsError::new(Kind::OverLimit, message));
        }
        statements.push(statement.clone());
        Ok(true)
    })
    .await
}

/// Takes a permission out of `Policy`.
pub(super) async fn forbid(call: &Call, caller: Caller, input: RemovePermission) -> Result<Output> {
    let name = queue_of(input.queue_url.as_ref())?;
    let label = required(input.label.as_ref(), "Label")?.to_owned();
    let permit = Permit::new(caller, name.queue.clone())?;
    edit(call, &permit, &name, |statements, is_again| {
        let before = statements.len();
        statements.retain(|statement| statement["Sid"] != *label);
        let is_changed = statements.len() < before;
        if is_changed || is_again {
            return Ok(is_changed);
        }
        let reason = "can't find label on existing policy.";
        Err(SqsError::value(&label, "Label", reason))
    })
    .await
}

/// Changes the statements of a policy as they are by then: where somebody else has changed them meanwhile, or an answer
/// was lost, they are looked at again. `change` says whether there is anything to be written; behind the first attempt
/// there may not be, as that one did it.
async fn edit(
    call: &Call,
    permit: &Permit,
    name: &SqsName,
    change: impl Fn(&mut Vec<Value>, bool) -> Result<bool>,
) -> Result<Output> {
    let mut lost = None;
    for attempt in 0..ATTEMPTS {
        let policy = Policy::of(call, permit, name).await;
        let mut policy = policy.map_err(|error| lost.take().unwrap_or(error))?;
        if !change(&mut policy.statements, attempt > 0)? {
            return Ok(None);
        }
        match policy.store(permit, name).await? {
            Stored::Yes => return Ok(None),
            Stored::No => {}
            Stored::Unknown(error) => lost = Some(error),
        }
    }
    let message = "Others change the policy of this queue at the same time: try again.";
    Err(SqsError::new(Kind::ServiceUnavailable, message))
}

fn check_permission(label: &str, accounts: &[String]) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if label.len() > MAX_LABEL || !label.bytes().all(fits) {
        let reason =
            "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length.";
        return Err(SqsError::value(label, "Label", reason));
    }
    let is_account = |account: &&String| {
        account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit())
    };
    match accounts.iter().find(|account| !is_account(account)) {
        Some(odd) => {
            let value = format!("[{odd}]");
            Err(SqsError::value(&value, "PrincipalId", "Unable to verify."))
        }
        None => Ok(()),
    }
}

/// A single value stands for itself.
fn one_or_all(mut values: Vec<String>) -> Value {
    if values.len() == 1 { values.remove(0).into() } else { values.into() }
}

/// What became of a policy that was to be stored.
enum Stored {
    Yes,
    /// Somebody else has changed it since it was read.
    No,
    /// What is to be told if that cannot be found out.
    Unknown(SqsError),
}

/// The attribute `Policy`.
struct Policy {
    /// As it was read.
    text: Option<String>,
    whole: Map<String, Value>,
    statements: Vec<Value>,
}

impl Policy {
    async fn of(call: &Call, permit: &Permit, name: &SqsName) -> Result<Self> {
        let kept = permit.broker.fresh_attributes(&permit.call, &name.queue).await?;
        let text = kept.attributes.get(POLICY).cloned();
        let whole = text.as_ref().and_then(|policy| serde_json::from_str(policy).ok());
        let mut whole: Map<String, Value> = whole.unwrap_or_else(|| {
            let id = format!("{}/SQSDefaultPolicy", call.place.arn(&name.name));
            object([("Version", json!("2008-10-17")), ("Id", json!(id))])
        });
        let statements = match whole.remove("Statement") {
            Some(Value::Array(statements)) => statements,
            Some(statement) => vec![statement],
            None => Vec::new(),
        };
        Ok(Self { text, whole, statements })
    }

    /// Stores it if it is still as it was read.
    async fn store(mut self, permit: &Permit, name: &SqsName) -> Result<Stored> {
        let policy = if self.statements.is_empty() {
            None
        } else {
            self.whole.insert("Statement".to_owned(), self.statements.into());
            Some(Value::Object(self.whole).to_string())
        };
        if policy.as_ref().is_some_and(|policy| policy.len() > MAX_ATTRIBUTE_BYTES) {
            return Err(SqsError::attribute_too_long(POLICY));
        }
        let attribute = |value| BTreeMap::from([(POLICY.to_owned(), value)]);
        let (attributes, still) = (attribute(policy), attribute(self.text));
        let change = AttributesChange { attributes, still, ..AttributesChange::default() };
        let (broker, alias) = (&permit.broker, name.name.clone());
        match broker.change_attributes(&permit.call, &name.queue, alias, change).await {
            Ok(true) => Ok(Stored::Yes),
            Ok(false) => Ok(Stored::No),
            Err(error @ Error::OutcomeUnknown(_)) => Ok(Stored::Unknown(error.into())),
            Err(error) => Err(error.into()),
        }
    }
}
