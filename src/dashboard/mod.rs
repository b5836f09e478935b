//! Pages for people, below `/ui`: they show queues and messages, and do to them what their user may.
//!
//! Pages are made here and work without scripts. What they show of many queues comes from memory: nothing is asked
//! of the database for those who only look. What they do goes through the same permits as everything else.

mod actions;
mod assets;
mod chart;
mod cookie;
mod failure;
mod form;
mod frame;
mod history;
mod json_text;
mod live;
mod origin;
mod overview;
mod pages;
mod place;
mod search;
mod session;
mod settings_form;
mod settings_text;
mod shell;
mod state;
mod tabs;
mod text;
mod viewer;

use std::collections::HashMap;

use axum::{
    Router,
    http::Method,
    middleware,
    routing::{get, post},
};

use crate::http::{FrontEnd, OriginPolicy, Served, layered};

use failure::Failure;

pub use history::History;
pub use state::{Dashboard, DashboardParts};

/// This front end, as the shared layers need to know it.
const FRONT_END: FrontEnd = FrontEnd {
    reject: Failure::rejected,
    guarded_reads: &[],
    // Forms are what it takes, and a page of any site can send one: only its own pages may.
    media_types: &[],
    foreign_form: "This was sent by a page of another site, and only pages of this dashboard may do that: nothing was \
                   done.",
    line_ends: false,
    is_for_operations: false,
    // Said of each response by the outermost layer.
    no_store: &[],
    request_headers: &[],
    response_headers: &[],
};

/// The service below `/ui`.
pub fn router(parts: DashboardParts) -> Router {
    let dashboard = Dashboard::new(parts);
    // Pages of no other site may use it, whichever may use the API: they would do so with its user's rights.
    let origins = OriginPolicy { hosts: dashboard.origins.hosts.clone(), origins: Vec::new() };
    let router = Router::new()
        .route("/ui", get(pages::queues::show))
        .route("/ui/", get(pages::queues::lead_there))
        .route("/ui/login", get(session::show).post(session::log_in))
        .route("/ui/logout", post(session::log_out))
        .route("/ui/assets/{version}/{file}", get(pages::files::serve))
        .route("/ui/queues/{queue}", get(pages::queue::show))
        .route("/ui/queues/{queue}/messages", get(pages::messages::list))
        .route("/ui/queues/{queue}/messages/{msg_id}", get(pages::message::show))
        .route("/ui/queues/{queue}/history", get(pages::history::show))
        .route("/ui/queues/{queue}/send", get(pages::send::show).post(pages::send::send))
        .route(
            "/ui/queues/{queue}/settings",
            get(pages::settings::show).post(pages::settings::change),
        )
        .route("/ui/queues/{queue}/table", get(pages::table::show))
        .route("/ui/queues/{queue}/bindings", post(pages::table::bind))
        .route("/ui/queues/{queue}/do", get(pages::act::preview).post(pages::act::act))
        .route("/ui/new", get(pages::new_queue::show).post(pages::new_queue::create))
        .route("/ui/topics", get(pages::topics::show))
        .route("/ui/keys", get(pages::keys::show))
        .route("/ui/gateway", get(pages::gateway::show))
        .route("/ui/events", get(live::events))
        .route("/ui/{*rest}", get(pages::nothing_there))
        .method_not_allowed_fallback(pages::method_not_allowed);
    let served = Served(HashMap::from([("/ui".to_owned(), vec![Method::GET, Method::HEAD])]));
    layered(router, &dashboard, FRONT_END, &origins, served)
        .layer(middleware::from_fn_with_state(dashboard.clone(), shell::around))
        .with_state(dashboard)
}
