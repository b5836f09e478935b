//! Errors of SQS: each with the names that the two protocols have for it.

use std::sync::Arc;

use crate::{
    broker::{self, MAX_ATTRIBUTE_BYTES},
    http::{Rejection, shorten},
};

/// A failure as an SDK expects it.
#[derive(Clone, Debug)]
pub(super) struct SqsError {
    pub(super) kind: Kind,
    pub(super) message: String,
    /// For the log alone.
    pub(super) cause: Option<Arc<broker::Error>>,
}

/// The outcome of an action.
pub(super) type Result<T> = std::result::Result<T, SqsError>;

/// What a failure is: the shapes of the service model, and those that every service of AWS has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    QueueDoesNotExist,
    QueueNameExists,
    InvalidParameterValue,
    MissingParameter,
    EmptyBatchRequest,
    TooManyEntriesInBatchRequest,
    BatchEntryIdsNotDistinct,
    InvalidBatchEntryId,
    BatchRequestTooLong,
    PurgeQueueInProgress,
    ResourceNotFound,
    ReceiptHandleIsInvalid,
    InvalidMessageContents,
    InvalidAttributeName,
    InvalidAttributeValue,
    MessageNotInflight,
    UnsupportedOperation,
    OverLimit,
    RequestThrottled,
    InvalidAction,
    NoSuchVersion,
    UnknownOperation,
    SerializationException,
    RequestTooLarge,
    RequestTimeout,
    MissingAuthenticationToken,
    IncompleteSignature,
    InvalidClientTokenId,
    SignatureDoesNotMatch,
    AccessDenied,
    ServiceUnavailable,
    InternalFailure,
}

impl Kind {
    /// The shape in `__type`, the code in `x-amzn-query-error` and in XML, and the HTTP status.
    pub(super) const fn parts(self) -> (&'static str, &'static str, u16) {
        match self {
            Self::QueueDoesNotExist => {
                ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", 400)
            }
            Self::QueueNameExists => ("QueueNameExists", "QueueAlreadyExists", 400),
            Self::InvalidParameterValue => {
                ("InvalidParameterValueException", "InvalidParameterValue", 400)
            }
            Self::MissingParameter => {
                ("MissingRequiredParameterException", "MissingParameter", 400)
            }
            Self::EmptyBatchRequest => {
                ("EmptyBatchRequest", "AWS.SimpleQueueService.EmptyBatchRequest", 400)
            }
            Self::TooManyEntriesInBatchRequest => (
                "TooManyEntriesInBatchRequest",
                "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
                400,
            ),
            Self::BatchEntryIdsNotDistinct => {
                ("BatchEntryIdsNotDistinct", "AWS.SimpleQueueService.BatchEntryIdsNotDistinct", 400)
            }
            Self::InvalidBatchEntryId => {
                ("InvalidBatchEntryId", "AWS.SimpleQueueService.InvalidBatchEntryId", 400)
            }
            Self::BatchRequestTooLong => {
                ("BatchRequestTooLong", "AWS.SimpleQueueService.BatchRequestTooLong", 400)
            }
            Self::PurgeQueueInProgress => {
                ("PurgeQueueInProgress", "AWS.SimpleQueueService.PurgeQueueInProgress", 403)
            }
            Self::ResourceNotFound => {
                ("ResourceNotFoundException", "ResourceNotFoundException", 404)
            }
            Self::ReceiptHandleIsInvalid => {
                ("ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid", 400)
            }
            Self::InvalidMessageContents => {
                ("InvalidMessageContents", "InvalidMessageContents", 400)
            }
            Self::InvalidAttributeName => ("InvalidAttributeName", "InvalidAttributeName", 400),
            Self::InvalidAttributeValue => ("InvalidAttributeValue", "InvalidAttributeValue", 400),
            Self::MessageNotInflight => {
                ("MessageNotInflight", "AWS.SimpleQueueService.MessageNotInflight", 400)
            }
            Self::UnsupportedOperation => {
                ("UnsupportedOperation", "AWS.SimpleQueueService.UnsupportedOperation", 400)
            }
            Self::OverLimit => ("OverLimit", "OverLimit", 403),
            Self::RequestThrottled => ("RequestThrottled", "RequestThrottled", 403),
            Self::InvalidAction => ("InvalidAction", "InvalidAction", 400),
            Self::NoSuchVersion => ("NoSuchVersion", "NoSuchVersion", 400),
            Self::UnknownOperation => {
                ("UnknownOperationException", "UnknownOperationException", 404)
            }
            Self::SerializationException => {
                ("SerializationException", "SerializationException", 400)
            }
            Self::RequestTooLarge => ("RequestEntityTooLarge", "RequestEntityTooLarge", 413),
            Self::RequestTimeout => ("RequestTimeout", "RequestTimeout", 408),
            Self::MissingAuthenticationToken => {
                ("MissingAuthenticationTokenException", "MissingAuthenticationToken", 403)
            }
            Self::IncompleteSignature => {
                ("IncompleteSignatureException", "IncompleteSignature", 400)
            }
            Self::InvalidClientTokenId => ("InvalidClientTokenId", "InvalidClientTokenId", 403),
            Self::SignatureDoesNotMatch => ("SignatureDoesNotMatch", "SignatureDoesNotMatch", 403),
            Self::AccessDenied => ("AccessDeniedException", "AccessDenied", 403),
            Self::ServiceUnavailable => ("ServiceUnavailable", "ServiceUnavailable", 503),
            Self::InternalFailure => ("InternalFailure", "InternalFailure", 500),
        }
    }

    /// Whether it is the request that is to blame.
    pub(super) const fn is_senders_fault(self) -> bool {
        self.parts().2 < 500
    }
}

impl SqsError {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        shorten(&mut message);
        Self { kind, message, cause: None }
    }

    pub(super) fn no_queue() -> Self {
        Self::new(Kind::QueueDoesNotExist, "The specified queue does not exist.")
    }

    /// A value that a parameter cannot have.
    pub(super) fn value(value: &str, parameter: &str, reason: &str) -> Self {
        Self::new(
            Kind::InvalidParameterValue,
            format!("Value {value} for parameter {parameter} is invalid. Reason: {reason}"),
        )
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidParameterValue, message)
    }

    pub(super) fn missing(parameter: &str) -> Self {
        let message = format!("The request must contain the parameter {parameter}.");
        Self::new(Kind::MissingParameter, message)
    }

    /// What is told of an attribute of a queue that cannot be what it is to be.
    pub(super) fn attribute(name: &str, reason: &str) -> Self {
        let message = format!("Invalid value for the parameter {name}.{reason}");
        Self::new(Kind::InvalidAttributeValue, message)
    }

    /// What is told of a policy that is longer than with AWS.
    pub(super) fn attribute_too_long(name: &str) -> Self {
        let reason = format!(" Reason: It must have at most {MAX_ATTRIBUTE_BYTES} bytes.");
        Self::attribute(name, &reason)
    }

    pub(super) fn receipt(handle: &str) -> Self {
        let message =
            format!("The input receipt handle \"{handle}\" is not a valid receipt handle.");
        Self::new(Kind::ReceiptHandleIsInvalid, message)
    }
}

/// The table from the broker's errors to those of SQS.
fn kind_of(error: &broker::Error) -> Kind {
    use broker::Error as E;
    match error {
        E::QueueNotFound(_) => Kind::QueueDoesNotExist,
        E::Invalid { .. }
        | E::FilterInGroups
        | E::NoDeadLetterQueue(_)
        | E::MessageNotFound { .. }
        | E::MessageTooLarge { .. }
        | E::MessageExpands { .. }
        | E::PublicationTooLarge { .. }
        | E::IdempotencyConflict
        | E::IdempotencyAnswerLost
        | E::BindingNotFound { .. } => Kind::InvalidParameterValue,
        E::ReceiptStale { .. } => Kind::MessageNotInflight,
        E::QueueConflict(_) | E::QueueDiffers { .. } => Kind::QueueNameExists,
        E::MessageRejected { .. } | E::MessageUnreadable(_) | E::MessageConflict(_) => {
            Kind::InvalidMessageContents
        }
        E::Forbidden { .. }
        | E::SequenceBehind { .. }
        | E::SendForbidden(_)
        | E::MessageKept { .. }
        | E::SourceKept(_)
        | E::ChangeRefused { .. }
        | E::KeyRefused { .. }
        | E::QueueHidden(_)
        | E::QueueKept(_) => Kind::AccessDenied,
        E::NotSupported(_) | E::QueueInUse { .. } | E::TablesNeeded(_) | E::TableDiffers { .. } => {
            Kind::UnsupportedOperation
        }
        E::Overloaded(_)
        | E::Locked(_)
        | E::DatabaseUnavailable(_)
        | E::TookTooLong(_)
        | E::Undone(_)
        | E::TriggerFailed(_) => Kind::ServiceUnavailable,
        E::Shared(source) => kind_of(source),
        E::InOperation { source, .. }
        | E::InMessage { source, .. }
        | E::PartlyChanged { source, .. }
        | E::ChangedUnseen { source, .. } => kind_of(source),
        E::OutcomeUnknown(_)
        | E::Internal(_)
        | E::NoArchive(_)
        | E::ReadFails { .. }
        | E::IdsExhausted { .. } => Kind::InternalFailure,
    }
}

impl From<broker::Error> for SqsError {
    fn from(error: broker::Error) -> Self {
        let kind = kind_of(&error);
        if kind == Kind::QueueDoesNotExist {
            return Self::no_queue();
        }
        let message = error.to_string();
        Self { cause: Some(Arc::new(error)), ..Self::new(kind, message) }
    }
}

impl From<Rejection> for SqsError {
    /// What the shared layers refuse.
    fn from(rejection: Rejection) -> Self {
        let kind = match rejection {
            Rejection::Broker(error) => return error.into(),
            Rejection::Malformed(_) => Kind::InvalidParameterValue,
            Rejection::Unauthenticated => {
                return Self::new(
                    Kind::InvalidClientTokenId,
                    "The security token included in the request is invalid.",
                );
            }
            Rejection::Forbidden(_) | Rejection::UnknownHost | Rejection::ForeignOrigin(_) => {
                Kind::AccessDenied
            }
            Rejection::UnsupportedEncoding(_) => Kind::UnsupportedOperation,
            Rejection::RateLimited { .. } => Kind::RequestThrottled,
            Rejection::Overloaded(_) => Kind::ServiceUnavailable,
            Rejection::BodyTooLarge(_) => Kind::RequestTooLarge,
            Rejection::BodyTooSlow(_) => Kind::RequestTimeout,
            Rejection::Unserved(_) => Kind::UnknownOperation,
            Rejection::Internal { .. } => Kind::InternalFailure,
        };
        Self::new(kind, rejection.detail())
    }
}
