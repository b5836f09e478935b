//! The OpenAPI document: made, refined, and served with pages that show it.

mod document;
mod refine;

pub(super) use document::{browser, complete, document_route};
