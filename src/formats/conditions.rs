//! Preconditions of GET and HEAD: `If-Match`, `If-None-Match`, `If-Modified-Since`, `If-Unmodified-Since`
//! and `If-Range` (RFC 9110 sections 13 and 5.6.7).
//!
//! Entity tags here are strong ones, except those that an upstream gave.

use std::time::UNIX_EPOCH;

use http::header::{self, HeaderMap, HeaderName};

use crate::model::BlobId;

/// When a file was changed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modified {
    /// `Last-Modified`, in seconds since 1970.
    pub secs: u64,
    /// Since when the file has been as it is now: whoever has a copy of a date from then on has the same.
    /// `None` where dates have no order.
    pub unchanged_since: Option<u64>,
}

impl Modified {
    pub fn at(secs: u64) -> Self {
        Self { secs, unchanged_since: Some(secs) }
    }

    /// The default for a package: its date follows from its bytes and says nothing about the time. A copy from
    /// elsewhere may have a later date and other bytes.
    pub fn of_blob(id: BlobId) -> Self {
        Self { secs: id.last_modified_secs(), unchanged_since: None }
    }
}

/// What conditions are compared with.
#[derive(Clone, Copy, Debug)]
pub struct Validators<'a> {
    /// With its quotes, and with `W/` if it is weak.
    pub etag: Option<&'a str>,
    pub modified: Option<Modified>,
}

/// What a request's conditions call for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The answer as if there were no conditions.
    Met,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Whether the request has a condition for [`verdict`] to look at.
pub fn are_in(request: &HeaderMap) -> bool {
    use header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
    [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE]
        .iter()
        .any(|name| request.contains_key(name))
}

/// Judges the conditions of a GET or HEAD for a file that exists, in the order of RFC 9110 section 13.2.2.
pub fn verdict(request: &HeaderMap, of: Validators<'_>, now_secs: u64) -> Verdict {
    let is_met = if request.contains_key(header::IF_MATCH) {
        names(request, header::IF_MATCH, |tag| is_strong(tag) && Some(tag) == of.etag.map(str::as_bytes))
    } else {
        match (date_in(request, header::IF_UNMODIFIED_SINCE), of.modified) {
            (Some(date), Some(modified)) => modified.secs <= date,
            _ => true,
        }
    };
    if !is_met {
        return Verdict::Failed;
    }
    let is_known = if request.contains_key(header::IF_NONE_MATCH) {
        let own = of.etag.map(|tag| opaque(tag.as_bytes()));
        names(request, header::IF_NONE_MATCH, |tag| Some(opaque(tag)) == own)
    } else {
        match (date_in(request, header::IF_MODIFIED_SINCE), of.modified) {
            (Some(date), Some(modified)) => is_unmodified(modified, date, now_secs),
            _ => false,
        }
    };
    if is_known { Verdict::NotModified } else { Verdict::Met }
}

/// A date in the future is that of a wrong clock: it says nothing about what the client has.
fn is_unmodified(modified: Modified, date: u64, now_secs: u64) -> bool {
    date == modified.secs || (date <= now_secs && modified.unchanged_since.is_some_and(|since| since <= date))
}

/// Whether a request for ranges gets them: `If-Range` names the file as it is now, or is absent. A tag must be
/// strong, a date equal: other bytes must not be put together.
pub fn range_applies(request: &HeaderMap, of: Validators<'_>) -> bool {
    let mut lines = request.get_all(header::IF_RANGE).iter();
    let value = match (lines.next(), lines.next()) {
        (None, _) => return true,
        (Some(value), None) => value.as_bytes().trim_ascii(),
        (Some(_), Some(_)) => return false,
    };
    if value.ends_with(b"\"") {
        return is_strong(value) && of.etag.is_some_and(|tag| tag.as_bytes() == value);
    }
    date_in(request, header::IF_RANGE).is_some_and(|date| of.modified.is_some_and(|own| own.secs == date))
}

/// Reads an HTTP date of any of the three forms (RFC 9110 section 5.6.7), in seconds since 1970.
pub fn date(text: &str) -> Option<u64> {
    Some(httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// The date of a field. A field that is not a date, or occurs twice, counts as absent.
fn date_in(request: &HeaderMap, name: HeaderName) -> Option<u64> {
    let mut lines = request.get_all(name).iter();
    let (value, None) = (lines.next()?, lines.next()) else { return None };
    date(value.to_str().ok()?)
}

/// Whether a list of tags is `*` or has one that fits. All lines of the field are one list (section 5.3).
fn names(request: &HeaderMap, name: HeaderName, fits: impl Fn(&[u8]) -> bool) -> bool {
    request
        .get_all(name)
        .iter()
        .any(|line| elements(line.as_bytes()).any(|element| element == b"*" || fits(element)))
}

/// The elements of a list of tags. A comma between quotes is part of a tag.
fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut is_quoted = false;
    line.split(move |c| {
        is_quoted ^= *c == b'"';
        *c == b',' && !is_quoted
    })
    .map(<[u8]>::trim_ascii)
}

fn is_strong(tag: &[u8]) -> bool {
    !tag.starts_with(b"W/")
}

/// What weak comparison looks at (section 8.8.3.2).
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Failed, Met, NotModified};
    use super::*;
    use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE};
    use proptest::prelude::*;

    /// 30 November 2019, 16:18:38.
    const SECS: u64 = 1_575_130_718;
    const IMF: &str = "Sat, 30 Nov 2019 16:18:38 GMT";
    const RFC_850: &str = "Saturday, 30-Nov-19 16:18:38 GMT";
    const ASCTIME: &str = "Sat Nov 30 16:18:38 2019";
    const EARLIER: &str = "Sat, 30 Nov 2019 16:18:37 GMT";
    const LATER: &str = "Sat, 30 Nov 2019 16:18:39 GMT";
    const FUTURE: &str = "Tue, 01 Jan 2030 00:00:00 GMT";
    const NOW: u64 = SECS + 1000;

    fn request(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value.parse().expect("a value"));
        }
        headers
    }

    fn with_tag(etag: &str, modified: Modified, lines: &[(HeaderName, &str)]) -> Verdict {
        verdict(&request(lines), Validators { etag: Some(etag), modified: Some(modified) }, NOW)
    }

    fn judge(lines: &[(HeaderName, &str)]) -> Verdict {
        with_tag("\"tag\"", Modified::at(SECS), lines)
    }

    #[test]
    fn tags() {
        for (name, value, want) in [
            (IF_MATCH, "\"tag\"", Met),
            (IF_MATCH, "*", Met),
            (IF_MATCH, "\"a\" , \"tag\"", Met),
            (IF_MATCH, "W/\"tag\"", Failed),
            (IF_MATCH, "\"x\"", Failed),
            (IF_MATCH, "tag", Failed),
            (IF_MATCH, "", Failed),
            (IF_NONE_MATCH, "\"tag\"", NotModified),
            (IF_NONE_MATCH, "W/\"tag\"", NotModified),
            (IF_NONE_MATCH, "*", NotModified),
            (IF_NONE_MATCH, ",, \"a\",\"tag\"", NotModified),
            (IF_NONE_MATCH, "\"a,\"tag\",b\"", Met),
            (IF_NONE_MATCH, "w/\"tag\"", Met),
            (IF_NONE_MATCH, "\"a, *, b\"", Met),
            (IF_NONE_MATCH, "tag", Met),
        ] {
            assert_eq!(judge(&[(name.clone(), value)]), want, "{name}: {value}");
        }
        assert_eq!(judge(&[(IF_NONE_MATCH, "\"a\""), (IF_NONE_MATCH, "\"tag\"")]), NotModified);
        assert_eq!(judge(&[(IF_MATCH, "\"a\""), (IF_MATCH, "\"tag\"")]), Met);
        let weak = |name, value| with_tag("W/\"tag\"", Modified::at(SECS), &[(name, value)]);
        assert_eq!(weak(IF_MATCH, "W/\"tag\""), Failed, "a weak tag is never equal strongly");
        assert_eq!(weak(IF_NONE_MATCH, "\"tag\""), NotModified);
    }

    #[test]
    fn dates_of_all_three_forms() {
        for form in [IMF, RFC_850, ASCTIME] {
            assert_eq!(date(form), Some(SECS), "{form}");
            assert_eq!(judge(&[(IF_MODIFIED_SINCE, form)]), NotModified, "{form}");
            assert_eq!(judge(&[(IF_UNMODIFIED_SINCE, form)]), Met, "{form}");
        }
        for (name, value, want) in [
            (IF_MODIFIED_SINCE, EARLIER, Met),
            (IF_MODIFIED_SINCE, LATER, NotModified),
            (IF_MODIFIED_SINCE, FUTURE, Met),
            (IF_MODIFIED_SINCE, "0", Met),
            (IF_MODIFIED_SINCE, "Sun, 30 Nov 2019 16:18:38 GMT", Met),
            (IF_UNMODIFIED_SINCE, EARLIER, Failed),
            (IF_UNMODIFIED_SINCE, "Thu, 01 Jan 1970 00:00:00 GMT", Failed),
            (IF_UNMODIFIED_SINCE, LATER, Met),
            (IF_UNMODIFIED_SINCE, FUTURE, Met),
            (IF_UNMODIFIED_SINCE, "yesterday", Met),
        ] {
            assert_eq!(judge(&[(name.clone(), value)]), want, "{name}: {value}");
        }
        assert_eq!(judge(&[(IF_MODIFIED_SINCE, IMF), (IF_MODIFIED_SINCE, IMF)]), Met, "two dates are none");
    }

    #[test]
    fn dates_without_an_order_are_equal_or_not() {
        let modified = Modified { secs: SECS, unchanged_since: None };
        let judge = |name, value| with_tag("\"tag\"", modified, &[(name, value)]);
        assert_eq!(judge(IF_MODIFIED_SINCE, IMF), NotModified);
        assert_eq!(judge(IF_MODIFIED_SINCE, LATER), Met);
        let modified = Modified { secs: SECS, unchanged_since: Some(SECS + 1) };
        let judge = |value| with_tag("\"tag\"", modified, &[(IF_MODIFIED_SINCE, value)]);
        assert_eq!((judge(IMF), judge(LATER)), (NotModified, NotModified));
    }

    #[test]
    fn the_order_of_conditions() {
        for (lines, want) in [
            (vec![(IF_MATCH, "\"x\""), (IF_NONE_MATCH, "\"tag\"")], Failed),
            (vec![(IF_MATCH, "\"tag\""), (IF_UNMODIFIED_SINCE, EARLIER)], Met),
            (vec![(IF_MATCH, "\"tag\""), (IF_NONE_MATCH, "\"tag\"")], NotModified),
            (vec![(IF_UNMODIFIED_SINCE, EARLIER), (IF_NONE_MATCH, "\"tag\"")], Failed),
            (vec![(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, IMF)], Met),
            (vec![(IF_UNMODIFIED_SINCE, IMF), (IF_MODIFIED_SINCE, IMF)], NotModified),
            (vec![], Met),
        ] {
            assert_eq!(judge(&lines), want, "{lines:?}");
        }
        let none = Validators { etag: None, modified: None };
        for (name, value, want) in [
            (IF_MATCH, "\"tag\"", Failed),
            (IF_MATCH, "*", Met),
            (IF_UNMODIFIED_SINCE, EARLIER, Met),
            (IF_NONE_MATCH, "\"tag\"", Met),
            (IF_MODIFIED_SINCE, IMF, Met),
        ] {
            assert_eq!(verdict(&request(&[(name.clone(), value)]), none, NOW), want, "{name}");
        }
    }

    #[test]
    fn ranges_of_the_same_file_only() {
        let applies = |etag, lines: &[(HeaderName, &str)]| {
            let of = Validators { etag: Some(etag), modified: Some(Modified::at(SECS)) };
            range_applies(&request(lines), of)
        };
        for (value, want) in [
            ("\"tag\"", true),
            ("\"x\"", false),
            ("W/\"tag\"", false),
            (IMF, true),
            (RFC_850, true),
            (ASCTIME, true),
            (EARLIER, false),
            (LATER, false),
            ("", false),
        ] {
            assert_eq!(applies("\"tag\"", &[(IF_RANGE, value)]), want, "{value}");
        }
        assert!(applies("\"tag\"", &[]));
        assert!(!applies("\"tag\"", &[(IF_RANGE, "\"tag\""), (IF_RANGE, "\"tag\"")]));
        assert!(!applies("W/\"tag\"", &[(IF_RANGE, "W/\"tag\"")]));
    }

    proptest! {
        #[test]
        fn any_text_is_borne(value in "\\PC{0,40}|[ -~]{0,40}|\"[a-z,]{0,8}\"(, *\"tag\")?") {
            let Ok(value) = value.parse::<http::HeaderValue>() else { return Ok(()) };
            for name in [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE] {
                let headers = HeaderMap::from_iter([(name, value.clone())]);
                let of = Validators { etag: Some("\"tag\""), modified: Some(Modified::at(SECS)) };
                verdict(&headers, of, NOW);
                range_applies(&headers, of);
            }
        }
    }
}
