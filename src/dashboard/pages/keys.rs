//! Keys: what they are called and what they may do; never what they are.

use askama::Template;
use axum::{extract::State, response::Response};
use chrono::{DateTime, Utc};

use crate::{
    broker::{KeyState, ListedKey},
    http::{ScopePermit, right},
};

use super::super::{
    failure::Failure,
    frame::{Frame, html},
    state::Dashboard,
    text,
    viewer::Viewer,
};

#[derive(Template)]
#[template(path = "keys.html")]
struct Page {
    frame: Frame,
    /// Whether a key is needed at all.
    is_required: bool,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    id: String,
    grants: Vec<String>,
    is_in_force: bool,
    state: String,
    used: String,
}

impl Row {
    fn stored(key: ListedKey, now: DateTime<Utc>) -> Self {
        let is_in_force = key.state == KeyState::InForce;
        let ago = |link: &str, at: Option<DateTime<Utc>>| {
            at.map(|at| format!("{link} {}", text::ago(at, now))).unwrap_or_default()
        };
        let more = match key.state {
            KeyState::InForce => ago(", ends", key.expires_at),
            KeyState::Revoked => ago("", key.revoked_at),
            KeyState::Expired => ago("", key.expires_at),
            KeyState::Invalid => ": its row makes no sense".to_owned(),
        };
        let state = format!("{}{more}", key.state);
        let used = key.last_used_at.map_or_else(|| "never".to_owned(), |at| text::ago(at, now));
        Self { name: key.name, id: key.id, grants: key.grants, is_in_force, state, used }
    }

    fn configured(
        (name, grants, ends): (String, Vec<String>, Option<DateTime<Utc>>),
        now: DateTime<Utc>,
    ) -> Self {
        let is_in_force = ends.is_none_or(|at| at > now);
        let state = match ends {
            None => "in force".to_owned(),
            Some(at) if is_in_force => format!("in force, ends {}", text::ago(at, now)),
            Some(at) => format!("expired {}", text::ago(at, now)),
        };
        let (id, used) = ("in the configuration".to_owned(), "not noted".to_owned());
        Self { name, id, grants, is_in_force, state, used }
    }
}

/// All keys, for those who run the gateway.
pub(in super::super) async fn show(
    State(state): State<Dashboard>,
    viewer: Viewer,
) -> Result<Response, Failure> {
    viewer.caller.require_operator()?;
    let frame = viewer.frame.clone();
    let permit = ScopePermit::<right::Any>::new(viewer.caller)?;
    let listed = permit.broker.listed_keys(&permit.call).await?;
    let now = Utc::now();
    let configured = state.access().configured_keys().into_iter();
    let mut rows: Vec<Row> = configured.map(|key| Row::configured(key, now)).collect();
    rows.extend(listed.into_iter().map(|key| Row::stored(key, now)));
    Ok(html(&Page { frame, is_required: state.access().is_required(), rows }))
}
