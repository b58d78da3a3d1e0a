//! What an upstream says of a file by which to ask later whether it has changed.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};

/// What an upstream said about a file when it sent it: asked with this, it says whether it has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validator {
    /// Of another upstream it means nothing.
    pub(super) url: String,
    pub(super) etag: Option<HeaderValue>,
    pub(super) modified: Option<HeaderValue>,
}

impl Validator {
    /// None from a file that has just changed: dates count whole seconds, and so do the tags that servers
    /// make of them, so a second change within one would not show (RFC 9110 section 8.8.2.2).
    pub fn of(url: &str, headers: &HeaderMap) -> Option<Self> {
        let date = |name| httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok();
        let age = date(header::DATE)?.duration_since(date(header::LAST_MODIFIED)?).ok()?;
        let header = |name| headers.get(name).cloned();
        (age > Duration::from_secs(1)).then(|| Self {
            url: url.to_owned(),
            etag: header(header::ETAG),
            modified: header(header::LAST_MODIFIED),
        })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The entity tag and the date, as they are written down.
    pub fn written(&self) -> [Option<&str>; 2] {
        [&self.etag, &self.modified].map(|value| value.as_ref()?.to_str().ok())
    }

    /// As it was written down.
    pub fn read(url: String, [etag, modified]: [Option<&str>; 2]) -> Option<Self> {
        let value = |text: Option<&str>| text.map(HeaderValue::from_str).transpose().ok();
        Some(Self { url, etag: value(etag)?, modified: value(modified)? })
    }

    /// Whether a reply from the same place is about the same bytes.
    pub fn fits(&self, headers: &HeaderMap) -> bool {
        headers.get(header::ETAG) == self.etag.as_ref()
            && headers.get(header::LAST_MODIFIED) == self.modified.as_ref()
    }
}
