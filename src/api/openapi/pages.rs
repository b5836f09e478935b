//! The document as it is served, the pages to browse it, and what stands at `/`.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use serde_json::json;
use utoipa::openapi::{OpenApi, Server};
use utoipa_swagger_ui::Config;

use crate::http::BasePath;

use super::{
    super::{
        extract::{NoParameters, Query},
        problem::{Code, Problem},
        response::json_answer,
        state::Api,
    },
    parts::Parts,
};

/// Where the document is served.
const DOCUMENT: &str = "/openapi.json";
/// Where the pages find it.
const DOCUMENT_OF_PAGES: &str = "/docs/openapi.json";
/// Where the pages are.
const PAGES: &str = "/docs";
/// Stands for the address of the API in the document that is kept.
const PLACE: &str = "{server}";
/// How the pages look beside what comes with them.
const STYLE: &str = include_str!("style.css");
const ICON: &str = include_str!("favicon.svg");

/// The document without the address of the API, which differs with the way by which it is asked for.
#[derive(Clone)]
struct Document {
    before: Bytes,
    after: Bytes,
}

impl Document {
    fn new(document: &OpenApi) -> Self {
        let mut document = document.clone();
        document.servers = Some(vec![Server::new(PLACE)]);
        // Strings and numbers: this cannot fail.
        let json = serde_json::to_string(&document).unwrap_or_default();
        let (before, after) = json.split_once(&format!("\"{PLACE}\"")).unwrap_or((&json, ""));
        Self { before: before.to_owned().into(), after: after.to_owned().into() }
    }

    /// The document, saying where the API is. What is long in it is there once, however many ask for it and do
    /// not take it: anybody may.
    fn at(&self, url: &str) -> Body {
        let url = json!(url).to_string().into();
        Body::new(Parts::new([self.before.clone(), url, self.after.clone()]))
    }
}

/// Serves the document, which is written out once.
pub(in crate::api) fn document_route(document: &OpenApi) -> Router<Api> {
    let document = Document::new(document);
    let of_pages = document.clone();
    let served = async move |BasePath(base): BasePath, _: Query<NoParameters>| {
        json_answer(document.at(if base.is_empty() { "/" } else { &base }))
    };
    let served = Router::new().route(DOCUMENT, get(served));
    served.route(DOCUMENT_OF_PAGES, get(async move || json_answer(of_pages.at(".."))))
}

/// Serves `/`: browsers are led on, to the dashboard where there is one, and programs told what this is.
pub(in crate::api) fn start_page(has_dashboard: bool) -> Router<Api> {
    let start = async move |BasePath(base): BasePath, headers: HeaderMap| {
        start(&base, &headers, has_dashboard)
    };
    Router::new().route("/", get(start)).route("/favicon.ico", get(icon))
}

fn start(base: &str, headers: &HeaderMap, has_dashboard: bool) -> Response {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut response = if accepts.into_iter().any(|kinds| kinds.contains("text/html")) {
        let there = if has_dashboard { "ui" } else { "docs/" };
        // Relative where nobody says what a proxy takes off.
        let there = if base.is_empty() { there.to_owned() } else { format!("{base}/{there}") };
        (StatusCode::SEE_OTHER, [(header::LOCATION, there)]).into_response()
    } else {
        let mut about = json!({
            "name": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "docs": format!("{base}{PAGES}/"),
            "openapi": format!("{base}{DOCUMENT}"),
        });
        if has_dashboard {
            about["dashboard"] = format!("{base}/ui").into();
        }
        json_answer(about.to_string().into())
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

async fn icon() -> impl IntoResponse {
    let kept = HeaderValue::from_static("public, max-age=86400");
    let kind = HeaderValue::from_static("image/svg+xml");
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, kept)], ICON)
}

/// Serves pages to browse it, with nothing from another host, wherever a proxy has them: every address is
/// relative.
pub(in crate::api) fn browser() -> Router<Api> {
    let config = Config::from("./openapi.json")
        .validator_url("none")
        .try_it_out_enabled(true)
        .persist_authorization(true)
        .default_models_expand_depth(0)
        .display_request_duration(true);
    let pages = Arc::new(Pages::new(config));
    let index = Arc::clone(&pages);
    Router::new()
        .route(PAGES, get(async || (StatusCode::SEE_OTHER, [(header::LOCATION, "docs/")])))
        .route("/docs/", get(async move || index.page(INDEX)))
        .route("/docs/{*file}", get(async move |Path(file): Path<String>| pages.page(&file)))
}

/// The page to begin with, and the script that says what it shows.
const INDEX: &str = "index.html";
const INITIALIZER: &str = "swagger-initializer.js";

/// The files of the pages. None is copied for whoever asks for it: anybody may, and need not take it.
struct Pages {
    config: Arc<Config<'static>>,
    /// Those that are not as they come, made once.
    made: HashMap<&'static str, Bytes>,
}

impl Pages {
    fn new(config: Config<'static>) -> Self {
        let config = Arc::new(config);
        let found = |name| {
            let found = utoipa_swagger_ui::serve(name, Arc::clone(&config)).ok().flatten();
            found.map(|found| found.bytes)
        };
        let index = found(INDEX).map(|page| (INDEX, furnish(&page).into()));
        let initializer = found(INITIALIZER).map(|file| (INITIALIZER, file.into_owned().into()));
        let made = index.into_iter().chain(initializer).collect();
        Self { config, made }
    }

    /// The bytes of a file as it is sent.
    fn bytes(&self, file: &str, found: Cow<'static, [u8]>) -> Bytes {
        match (self.made.get(file), found) {
            (Some(made), _) => made.clone(),
            (None, Cow::Borrowed(bytes)) => Bytes::from_static(bytes),
            (None, Cow::Owned(bytes)) => bytes.into(),
        }
    }

    fn page(&self, file: &str) -> Result<Response, Problem> {
        let found = utoipa_swagger_ui::serve(file, Arc::clone(&self.config));
        let found = found.map_err(|error| Problem {
            source: Some(error.to_string().into()),
            ..Problem::new(Code::InternalError, "the page could not be made")
        })?;
        let found = found.ok_or_else(|| {
            Problem::new(
                Code::RouteNotFound,
                format!("there is no /docs/{file}; /docs/ shows what there is"),
            )
        })?;
        let body = self.bytes(file, found.bytes).into();
        Ok(page(body, &found.content_type, found.gzpipped))
    }
}

/// A file of the pages. They are nobody's to frame: a click in them can empty a queue.
fn page(body: Body, kind: &str, is_gzipped: bool) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let kind = HeaderValue::from_str(kind);
    headers.insert(header::CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static("text/plain")));
    if is_gzipped {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let unframed = HeaderValue::from_static("frame-ancestors 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, unframed);
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    // By which the pages show, over plain HTTP, that what they ask for is asked from here.
    let referrer = HeaderValue::from_static("same-origin");
    headers.insert(header::REFERRER_POLICY, referrer);
    response
}

/// The page with a title of its own, an icon, and what makes it readable on a phone.
fn furnish(page: &[u8]) -> Vec<u8> {
    let page = String::from_utf8_lossy(page);
    let head = format!(
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"icon\" type=\"image/svg+xml\" href=\"../favicon.ico\">\n<style>\n{STYLE}</style>\n</head>"
    );
    let page = page.replace("<title>Swagger UI</title>", "<title>pgmq-gateway</title>");
    let icons = |line: &&str| !line.contains("rel=\"icon\"");
    let page = page.lines().filter(icons).collect::<Vec<_>>().join("\n");
    page.replacen("</head>", &head, 1).into_bytes()
}
