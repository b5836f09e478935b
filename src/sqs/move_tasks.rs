//! Tasks that move dead letters back.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use crate::{
    broker::{Error, FAILED_ORIGIN_UNKNOWN, FAILED_QUEUE_NOT_FOUND, MoveTask},
    domain::{Right, Scope},
    http::{Caller, QueuePermit, right},
};

use super::{
    call::{Call, Output, bounded, object},
    error::{Kind, Result, SqsError},
    names::SqsName,
    shapes::{CancelMessageMoveTask, ListMessageMoveTasks, StartMessageMoveTask, required},
};

const RUNNING: &str = "RUNNING";
/// What no handle of ours is longer than: an id and the name of a queue, which both are short.
const MAX_HANDLE_BYTES: usize = 1024;

type Permit = QueuePermit<right::Manage>;

fn no_resource(parameter: &str) -> SqsError {
    let message =
        format!("The resource that you specified for the {parameter} parameter doesn't exist.");
    SqsError::new(Kind::ResourceNotFound, message)
}

fn queue_of(arn: &str, parameter: &str) -> Result<SqsName> {
    SqsName::of_arn(arn).ok_or_else(|| no_resource(parameter))
}

/// Begins to move the messages of a dead-letter queue.
pub(super) async fn start(caller: Caller, input: StartMessageMoveTask) -> Result<Output> {
    let arn = required(input.source_arn.as_ref(), "SourceArn")?;
    let source = queue_of(arn, "SourceArn")?;
    let destination = input.destination_arn.filter(|arn| !arn.is_empty());
    let destination = destination.map(|arn| queue_of(&arn, "DestinationArn")).transpose()?;
    if destination.as_ref().is_some_and(|destination| destination.queue == source.queue) {
        return Err(SqsError::invalid("SourceArn and DestinationArn must be different queues."));
    }
    if destination.as_ref().is_some_and(|destination| destination.is_fifo() != source.is_fifo()) {
        return Err(SqsError::invalid(
            "SourceArn and DestinationArn must be queues of the same type, standard or FIFO.",
        ));
    }
    let reason = "Must be an integer between 1 and 500.";
    let per_second = input.max_number_of_messages_per_second;
    bounded(per_second, "MaxNumberOfMessagesPerSecond", 1..=500, 1, reason)?;
    let permit = Permit::new(caller, source.queue.clone())?;
    permit.caller.require(Some(Right::Receive), &source.queue)?;
    match &destination {
        Some(destination) => permit.caller.require(Some(Right::Send), &destination.queue)?,
        // Each message says itself where it goes.
        None if permit.caller.scope(Some(Right::Send)).is_all() => {}
        None => {
            return Err(SqsError::new(
                Kind::AccessDenied,
                "Without DestinationArn this needs `send` on every queue, which the key lacks.",
            ));
        }
    }
    must_exist(&permit, &source, "SourceArn").await?;
    if let Some(destination) = &destination {
        must_exist(&permit, destination, "DestinationArn").await?;
    }
    let call = &permit.call;
    let (broker, queue) = (&permit.broker, &source.queue);
    // That there is one is no secret.
    let sources = broker.dead_letter_sources(call, queue, String::new(), &Scope::ALL, 1).await?;
    if sources.is_empty() {
        return Err(SqsError::invalid("Source queue must be configured as a Dead Letter Queue."));
    }
    let per_second = per_second.and_then(|most| i32::try_from(most).ok());
    let to = destination.as_ref().map(|destination| &destination.queue);
    let started = permit.broker.start_move_task(call, &source.queue, to, per_second).await?;
    let id = started.ok_or_else(|| {
        SqsError::invalid(
            "There is already a task running. Only one active task is allowed for a source queue arn at a given \
             time.",
        )
    })?;
    Ok(Some(object([("TaskHandle", handle(&id, arn).into())])))
}

async fn must_exist(permit: &Permit, name: &SqsName, parameter: &str) -> Result<()> {
    match permit.broker.fresh_attributes(&permit.call, &name.queue).await {
        Ok(_) => Ok(()),
        Err(Error::QueueNotFound(_)) => Err(no_resource(parameter)),
        Err(error) => Err(error.into()),
    }
}

/// What stands for a task, as the service writes it.
fn handle(id: &str, source_arn: &str) -> String {
    STANDARD.encode(json!({"taskId": id, "sourceArn": source_arn}).to_string())
}

fn read_handle(handle: &str) -> Result<(String, String)> {
    let ours = Some(handle).filter(|handle| handle.len() <= MAX_HANDLE_BYTES);
    let read = ours.and_then(|handle| STANDARD.decode(handle).ok());
    let read = read.and_then(|json| serde_json::from_slice::<Value>(&json).ok());
    let member = |name: &str| Some(read.as_ref()?.get(name)?.as_str()?.to_owned());
    let both = member("taskId").zip(member("sourceArn"));
    both.ok_or_else(|| SqsError::invalid("Value for parameter TaskHandle is invalid."))
}

/// Ends a task.
pub(super) async fn cancel(caller: Caller, input: CancelMessageMoveTask) -> Result<Output> {
    let (id, arn) = read_handle(required(input.task_handle.as_ref(), "TaskHandle")?)?;
    let source = queue_of(&arn, "SourceArn")?;
    let permit = Permit::new(caller, source.queue.clone())?;
    must_exist(&permit, &source, "SourceArn").await?;
    // The handle says whose task it is; the right is on that queue alone.
    let tasks = permit.broker.list_move_tasks(&permit.call, &source.queue, 100).await?;
    let no_task = || SqsError::new(Kind::ResourceNotFound, "Task does not exist.");
    if !tasks.iter().any(|task| task.id == id) {
        return Err(no_task());
    }
    let moved = permit.broker.cancel_move_task(&permit.call, &source.queue, id).await?;
    let moved = moved.ok_or_else(|| SqsError::invalid("Only active tasks can be cancelled."))?;
    Ok(Some(object([("ApproximateNumberOfMessagesMoved", moved.into())])))
}

/// The last tasks of a queue, the newest first.
pub(super) async fn list(
    call: &Call,
    caller: Caller,
    input: ListMessageMoveTasks,
) -> Result<Output> {
    let arn = required(input.source_arn.as_ref(), "SourceArn")?;
    let source = queue_of(arn, "SourceArn")?;
    let reason = "Must be an integer between 1 and 10.";
    let limit = bounded(input.max_results, "MaxResults", 1..=10, 1, reason)?;
    let permit = Permit::new(caller, source.queue.clone())?;
    must_exist(&permit, &source, "SourceArn").await?;
    let limit = i32::try_from(limit).unwrap_or(1);
    let tasks = permit.broker.list_move_tasks(&permit.call, &source.queue, limit).await?;
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        let destination = match &task.destination {
            Some(queue) => Some(permit.broker.alias(&permit.call, queue).await?),
            None => None,
        };
        results.push(show(call, arn, &task, destination.as_deref()));
    }
    Ok(Some(if results.is_empty() { Map::new() } else { object([("Results", results.into())]) }))
}

fn show(call: &Call, source_arn: &str, task: &MoveTask, destination: Option<&str>) -> Value {
    let mut shown = object([
        ("ApproximateNumberOfMessagesMoved", task.moved.into()),
        ("ApproximateNumberOfMessagesToMove", task.to_move.into()),
        ("SourceArn", source_arn.into()),
        ("StartedTimestamp", task.started_at.timestamp_millis().into()),
        ("Status", task.status.as_str().into()),
    ]);
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            shown.insert(name.to_owned(), value);
        }
    };
    put("DestinationArn", destination.map(|name| call.place.arn(name).into()));
    put("MaxNumberOfMessagesPerSecond", task.max_per_second.map(Value::from));
    put("TaskHandle", (task.status == RUNNING).then(|| handle(&task.id, source_arn).into()));
    let reason = task.failure.as_deref().map(|reason| match reason {
        FAILED_QUEUE_NOT_FOUND => "AWS.SimpleQueueService.NonExistentQueue",
        FAILED_ORIGIN_UNKNOWN => "CouldNotDetermineMessageSource",
        other => other,
    });
    put("FailureReason", reason.map(Value::from));
    Value::Object(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_names_its_task() {
        let (id, arn) = read_handle(&handle("7", "arn:aws:sqs:r:0:q")).expect("a handle");
        assert_eq!((&*id, &*arn), ("7", "arn:aws:sqs:r:0:q"));
        for wrong in ["", "x", "bm9uZQ==", &STANDARD.encode("{\"taskId\":\"7\"}")] {
            let error = read_handle(wrong).expect_err("no handle");
            assert_eq!(error.message, "Value for parameter TaskHandle is invalid.");
        }
    }
}
