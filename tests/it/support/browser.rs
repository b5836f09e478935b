//! A browser without scripts: it keeps its log-in, and sends forms as pages of ours do.

use reqwest::{RequestBuilder, redirect::Policy};

use super::Answer;

/// A browser that looks at one gateway.
#[derive(Clone, Debug)]
pub struct Browser {
    pub base: String,
    http: reqwest::Client,
    cookie: Option<String>,
}

impl Browser {
    /// One that is not logged in.
    pub fn new(base: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().redirect(Policy::none()).build().expect("client");
        Self { base: base.to_owned(), http, cookie: None }
    }

    /// One that logged in with a key.
    pub async fn logged_in(base: &str, key: &str) -> Self {
        let browser = Self::new(base);
        let answer = browser.post("/ui/login", &[("key", key)]).await.expect(303);
        let cookie = answer.header("set-cookie");
        let cookie = cookie.split(';').next().expect("a cookie").to_owned();
        Self { cookie: Some(cookie), ..browser }
    }

    /// The same at another gateway.
    pub fn at(&self, base: &str) -> Self {
        Self { base: base.to_owned(), ..self.clone() }
    }

    /// What it shows of its log-in.
    pub fn cookie(&self) -> &str {
        self.cookie.as_deref().unwrap_or_default()
    }

    /// With another log-in.
    pub fn with_cookie(&self, cookie: &str) -> Self {
        Self { cookie: Some(cookie.to_owned()), ..self.clone() }
    }

    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("method");
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request("GET", path)).await
    }

    /// Sends a form, as a page of ours does.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let body = serde_urlencoded::to_string(fields).expect("a form");
        let request = self.request("POST", path).header("sec-fetch-site", "same-origin");
        let kind = "application/x-www-form-urlencoded";
        Answer::of(request.header("content-type", kind).body(body)).await
    }
}

/// Fields of a form.
pub type Fields = Vec<(String, String)>;

/// The hidden fields of a page, as its browser would send them.
pub fn hidden(page: &str) -> Fields {
    let plain = |text: &str| {
        let escaped =
            [("&#34;", "\""), ("&#39;", "'"), ("&#60;", "<"), ("&#62;", ">"), ("&#38;", "&")];
        escaped.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    };
    let fields = page.split("type=\"hidden\" name=\"").skip(1);
    let field = fields.filter_map(|rest| {
        let (name, rest) = rest.split_once("\" value=\"")?;
        Some((plain(name), plain(rest.split('"').next()?)))
    });
    field.collect()
}
