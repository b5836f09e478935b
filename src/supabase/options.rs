//! What a request says beside the arguments: the schema, and how the answer is to be.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use url::form_urlencoded;

use crate::{domain::Wait, http::check_query};

use super::{failure::Failure, function::SCHEMA, record::Column};

/// What is meant where nothing else is said: supabase-js says `public` without `.schema()`.
const USUAL_SCHEMA: &str = "public";
const ACCEPT_PROFILE: HeaderName = HeaderName::from_static("accept-profile");
const CONTENT_PROFILE: HeaderName = HeaderName::from_static("content-profile");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const SINGLE: &str = "application/vnd.pgrst.object";

/// How the answer is to be.
#[derive(Debug)]
pub(super) struct Options {
    /// An object in place of an array, which must have one element.
    pub(super) single: bool,
    /// Whether `Content-Range` says how many there are.
    pub(super) counted: bool,
    /// Seconds to wait for a message, if that is asked for.
    pub(super) wait: Option<Wait>,
    /// Columns of a record, in this order; none for all.
    pub(super) select: Option<Vec<Column>>,
    /// The order of records by their `msg_id`: whether it descends.
    pub(super) descending: Option<bool>,
}

impl Options {
    /// Of a call of `function`.
    pub(super) fn of(parts: &Parts, function: &str) -> Result<Self, Failure> {
        check_schema(parts)?;
        let query = parts.uri.query().unwrap_or_default();
        check_query(query)?;
        let single = accepts(&parts.headers)?;
        let mut options =
            Self { single, counted: false, wait: None, select: None, descending: None };
        options.read_preferences(&parts.headers);
        // Of a GET the others are arguments.
        let is_read = matches!(parts.method, Method::GET | Method::HEAD);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "select" => options.select = columns(&value, function)?,
                "order" => options.descending = Some(descending(&value)?),
                "limit" | "offset" => return Err(cuts(&name)),
                "columns" => {}
                _ if is_read => {}
                _ => return Err(cuts(&name)),
            }
        }
        Ok(options)
    }

    /// RFC 7240; what is not known there is left alone.
    fn read_preferences(&mut self, headers: &HeaderMap) {
        let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        for preference in values.flat_map(|value| value.split(',')) {
            let preference = preference.split(';').next().unwrap_or_default();
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let value = value.trim().trim_matches('"');
            match &*name.trim().to_ascii_lowercase() {
                "wait" if self.wait.is_none() => {
                    self.wait = value.parse::<u32>().ok().map(|n| Wait::saturating(n.into()));
                }
                "count" => self.counted = matches!(value, "exact" | "planned" | "estimated"),
                _ => {}
            }
        }
    }
}

/// Refuses a schema that is not served.
fn check_schema(parts: &Parts) -> Result<(), Failure> {
    let name = match parts.method {
        Method::GET | Method::HEAD => ACCEPT_PROFILE,
        _ => CONTENT_PROFILE,
    };
    let Some(schema) = parts.headers.get(name) else { return Ok(()) };
    let schema = String::from_utf8_lossy(schema.as_bytes());
    if schema == SCHEMA || schema == USUAL_SCHEMA {
        return Ok(());
    }
    let shown: String = schema.chars().take(100).collect();
    let failure =
        Failure::new(StatusCode::NOT_ACCEPTABLE, "PGRST106", format!("Invalid schema: {shown}"));
    Err(failure.hint(format!("Only the following schemas are exposed: {SCHEMA}")))
}

/// Whether a single object is asked for; refuses what is none of the media types that there are.
fn accepts(headers: &HeaderMap) -> Result<bool, Failure> {
    let Some(accept) = headers.get(header::ACCEPT).map(HeaderValue::as_bytes) else {
        return Ok(false);
    };
    let accept = String::from_utf8_lossy(accept);
    let single = accept.contains(SINGLE);
    let known = ["application/json", "*/*", "application/*", "application/vnd.pgrst.array", SINGLE];
    if accept.trim().is_empty() || known.iter().any(|kind| accept.contains(kind)) {
        return Ok(single);
    }
    let shown: String = accept.chars().take(100).collect();
    let message = format!("None of these media types are available: {shown}");
    Err(Failure::new(StatusCode::NOT_ACCEPTABLE, "PGRST107", message))
}

/// Columns at the top level; nothing for all.
fn columns(select: &str, function: &str) -> Result<Option<Vec<Column>>, Failure> {
    let mut columns: Vec<Column> = Vec::new();
    // Once each, however often it is named: every one of them is written out for every row.
    let mut add = |column| {
        if !columns.contains(&column) {
            columns.push(column);
        }
    };
    for name in select.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if name == "*" {
            Column::ALL.into_iter().for_each(&mut add);
            continue;
        }
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        match Column::find(name) {
            Some(column) => add(column),
            None if is_name => {
                let message = format!("column {function}.{name} does not exist");
                return Err(Failure::bad("42703", message));
            }
            None => {
                let message = "\"failed to parse select parameter\"";
                return Err(Failure::bad("PGRST100", message)
                    .hint("Only names of columns are taken here, with commas between them"));
            }
        }
    }
    Ok(Some(columns).filter(|columns| !columns.is_empty() && *columns != Column::ALL))
}

fn descending(order: &str) -> Result<bool, Failure> {
    match order {
        "msg_id" | "msg_id.asc" => Ok(false),
        "msg_id.desc" => Ok(true),
        _ => Err(Failure::bad("PGRST100", "\"failed to parse order\"")
            .hint("Only `msg_id`, `msg_id.asc` and `msg_id.desc` are taken here")),
    }
}

/// Refuses what would leave messages out that are leased all the same.
fn cuts(name: &str) -> Failure {
    let name: String = name.chars().take(100).collect();
    Failure::bad("PGRST100", format!("the query parameter `{name}` is not taken here")).hint(
        "Filters, `limit` and `offset` would hide messages that are leased or deleted by then: `n` of \
         `read` says how many are wanted",
    )
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn options(uri: &str, headers: &[(&'static str, &'static str)]) -> Result<Options, Failure> {
        let mut request = Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Options::of(&request.body(()).expect("a request").into_parts().0, "read")
    }

    #[test]
    fn a_column_is_written_once_however_often_it_is_named() {
        assert_eq!(columns("msg_id,vt,msg_id", "read").expect("columns").map(|c| c.len()), Some(2));
        let many = "*,".repeat(10_000);
        assert_eq!(columns(&many, "read").expect("columns"), None);
    }

    #[test]
    fn a_wait_is_read_and_bounded() {
        for (prefer, wait) in [
            ("wait=20", Some(20)),
            ("wait=5, return=minimal", Some(5)),
            ("return=minimal,WAIT=\"7\"", Some(7)),
            ("wait=999", Some(20)),
            ("wait=-1", None),
            ("wait", None),
            ("count=exact", None),
        ] {
            let options = options("/", &[("prefer", prefer)]).expect("taken");
            assert_eq!(options.wait.map(Wait::get), wait, "{prefer}");
        }
        assert!(options("/", &[("prefer", "count=exact")]).expect("taken").counted);
    }

    #[test]
    fn what_would_hide_messages_is_refused() {
        for (query, taken) in [
            ("select=msg_id,message", true),
            ("select=*", true),
            ("order=msg_id.desc", true),
            ("select=message-%3Ea", false),
            ("select=nothing", false),
            ("order=vt", false),
            ("limit=1", false),
            ("offset=1", false),
            ("msg_id=eq.1", false),
        ] {
            assert_eq!(options(&format!("/?{query}"), &[]).is_ok(), taken, "{query}");
        }
    }

    #[test]
    fn one_schema_is_served() {
        for (name, value, taken) in [
            ("content-profile", "pgmq_public", true),
            ("content-profile", "public", true),
            ("content-profile", "pgmq", false),
            ("accept-profile", "elsewhere", true),
        ] {
            assert_eq!(options("/", &[(name, value)]).is_ok(), taken, "{name}: {value}");
        }
    }
}
