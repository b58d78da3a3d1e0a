//! Which upstreams failed lately. It only puts them behind the others: when all fail, all are still asked.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, RETRY_AFTER};
use moka::sync::Cache;
use tokio::time::Instant;

/// Longest time that a host stays behind, whatever it did or asks for.
const LONGEST: Duration = Duration::from_secs(300);
/// A host that did nothing wrong for this long starts anew.
const FORGET: Duration = Duration::from_secs(900);
/// Hosts remembered; a configuration names some.
const HOSTS: u64 = 1024;

/// How an exchange with an upstream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, whatever it said, and went on to the end.
    Answered,
    /// It did not connect, fell silent, broke off or answered 5xx; with what it asked for by Retry-After.
    Failed(Option<Duration>),
}

#[derive(Clone, Copy, Debug)]
struct Trouble {
    /// Failures in a row.
    failures: u32,
    until: Instant,
}

/// Shared by all who ask upstreams.
#[derive(Clone, Debug)]
pub struct Health(Arc<Cache<String, Trouble>>);

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Cache::builder().max_capacity(HOSTS).time_to_idle(FORGET).build()))
    }
}

impl Health {
    /// Indexes of `urls`: those whose host is well first, else in their order.
    pub fn order(&self, urls: &[String]) -> Vec<usize> {
        let now = Instant::now();
        let mut order: Vec<usize> = (0..urls.len()).collect();
        order.sort_by_key(|&index| self.is_behind(&urls[index], now));
        order
    }

    fn is_behind(&self, url: &str, now: Instant) -> bool {
        self.0.get(&host_of(url)).is_some_and(|trouble| trouble.until > now)
    }

    /// Counts what came of asking `url`.
    pub fn report(&self, url: &str, outcome: Outcome) {
        let host = host_of(url);
        match outcome {
            Outcome::Answered => self.0.invalidate(&host),
            Outcome::Failed(asked) => {
                let failures = self.0.get(&host).map_or(0, |t| t.failures).saturating_add(1);
                let backoff = Duration::from_secs(1 << failures.min(9)).min(LONGEST);
                let pause = asked.map_or(backoff, |asked| asked.clamp(backoff.min(LONGEST), LONGEST));
                self.0.insert(host, Trouble { failures, until: Instant::now() + pause });
            }
        }
    }
}

/// Scheme, host and port: what fails together.
pub fn host_of(url: &str) -> String {
    let uri = url.parse::<http::Uri>().unwrap_or_default();
    format!("{}://{}", uri.scheme_str().unwrap_or(""), uri.authority().map_or("", |a| a.as_str()))
}

/// `Retry-After` in either form (RFC 9110 section 10.2.3).
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = text.parse().ok().map(Duration::from_secs);
    let date = || httpdate::parse_http_date(text).ok();
    seconds.or_else(|| Some(date()?.duration_since(now).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(text: &[&str]) -> Vec<String> {
        text.iter().map(|url| (*url).to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_host_stays_behind_for_longer_and_longer() {
        let health = Health::default();
        let urls = urls(&["http://a.example/x", "http://b.example/x", "http://a.example:81/x"]);
        assert_eq!(health.order(&urls), [0, 1, 2]);
        for pause in [2, 4, 8] {
            health.report("http://a.example/other", Outcome::Failed(None));
            tokio::time::advance(Duration::from_millis(pause * 1000 - 500)).await;
            assert_eq!(health.order(&urls), [1, 2, 0], "{pause}");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(health.order(&urls), [0, 1, 2], "{pause}");
        }
        health.report(&urls[0], Outcome::Answered);
        health.report(&urls[0], Outcome::Failed(None));
        tokio::time::advance(Duration::from_millis(2500)).await;
        assert_eq!(health.order(&urls), [0, 1, 2], "it began anew");
        for _ in 0..100 {
            health.report(&urls[0], Outcome::Failed(None));
        }
        tokio::time::advance(LONGEST + Duration::from_secs(1)).await;
        assert_eq!(health.order(&urls), [0, 1, 2], "at most five minutes");
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_all_are_asked_in_their_order() {
        let health = Health::default();
        let urls = urls(&["http://a.example/x", "http://b.example/x"]);
        health.report(&urls[1], Outcome::Failed(Some(Duration::from_secs(60))));
        health.report(&urls[0], Outcome::Failed(Some(Duration::from_secs(86_400))));
        assert_eq!(health.order(&urls), [0, 1]);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(health.order(&urls), [1, 0]);
        tokio::time::advance(LONGEST).await;
        assert_eq!(health.order(&urls), [0, 1], "a day is not believed");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, seconds) in [
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().expect("a header"))]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
