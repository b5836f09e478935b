//! The SQS wire protocol, over the same broker as REST: any AWS SDK works on the gateway's own port.
//!
//! Requests of two protocols (JSON, and forms answered in XML) become the same actions. A queue of SQS is a
//! queue of PGMQ, of which more is kept beside it; nothing below this knows of SQS.

mod attributes;
mod batch;
mod call;
mod canonical;
mod digest;
mod error;
mod form;
mod front;
mod headers;
mod message;
mod message_attributes;
mod move_tasks;
mod names;
mod protocol;
mod queue_attributes;
mod queues;
mod readers;
mod receiving;
mod redrive;
mod request;
mod router;
mod sending;
mod sending_rules;
mod settling;
mod shapes;
mod signature;
mod state;
mod surrogates;
mod tags;
mod validation;
mod verification;
mod xml;

pub use router::app;
pub use state::SqsPlace;
