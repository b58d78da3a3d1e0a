//! Which upstreams failed recently. It only puts them behind the others: when all fail, all are still asked, but
//! for those that have named a time to come back: asking early makes many sites wait longer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, RETRY_AFTER};
use moka::sync::Cache;
use tokio::time::Instant;

/// Longest time that a host stays behind, whatever it did or asks for.
const LONGEST: Duration = Duration::from_secs(300);
/// A host without failures for this long starts afresh.
const FORGET: Duration = Duration::from_secs(900);
/// Shortest pause of a host that names one: some say 0 and mean "not now".
const SHORTEST_REST: Duration = Duration::from_secs(1);
/// Hosts remembered; a configuration names some.
const HOSTS: u64 = 1024;
/// Memory for URLs that are not to be asked for now, which clients can make up: they displace each other and no host.
const FILES: u64 = 4 << 20;
/// What a URL takes besides its text.
const FILE: usize = 150;

/// How an exchange with an upstream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, whatever it said, and continued to the end.
    Answered,
    /// It did not connect, went silent, broke off or answered 5xx; with its Retry-After, if any.
    Failed(Option<Duration>),
}

#[derive(Clone, Copy, Debug)]
struct Trouble {
    /// Failures in a row without a time to come back.
    failures: u32,
    until: Instant,
    /// Until when it is not asked at all.
    rest: Option<Instant>,
}

impl Trouble {
    fn rest_left(&self, now: Instant) -> Option<Duration> {
        self.rest.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
    }
}

/// Shared by all who ask upstreams.
#[derive(Clone, Debug)]
pub struct Health {
    hosts: Arc<Cache<String, Trouble>>,
    /// Until when single files are not requested.
    files: Arc<Cache<String, Instant>>,
}

impl Default for Health {
    fn default() -> Self {
        let weight = |url: &String, _: &Instant| u32::try_from(url.len() + FILE).unwrap_or(u32::MAX);
        Self {
            hosts: Arc::new(Cache::builder().max_capacity(HOSTS).time_to_idle(FORGET).build()),
            files: Arc::new(
                Cache::builder().max_capacity(FILES).weigher(weight).time_to_live(LONGEST).build(),
            ),
        }
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
        self.hosts.get(&host_of(url)).is_some_and(|trouble| trouble.until > now)
    }

    /// Counts what came of asking `url`.
    pub fn report(&self, url: &str, outcome: Outcome) {
        let host = host_of(url);
        let (now, before) = (Instant::now(), self.hosts.get(&host));
        // What was asked for before the pause may still be answered in it.
        let rest = before.filter(|before| before.rest_left(now).is_some()).and_then(|before| before.rest);
        match (outcome, rest) {
            (Outcome::Answered, None) => self.hosts.invalidate(&host),
            (Outcome::Answered, Some(until)) => {
                self.hosts.insert(host, Trouble { failures: 0, until, rest });
            }
            (Outcome::Failed(asked), rest) => {
                let failures = failures(before, asked);
                let pause =
                    asked.map_or_else(|| backoff(failures), |asked| asked.clamp(SHORTEST_REST, LONGEST));
                self.hosts.insert(host, Trouble { failures, until: now + pause, rest });
            }
        }
    }

    /// Notes that the host of `url` wants a pause, of the length that it `asked` for. One that names none gets
    /// one that grows. Returns how long it is not asked.
    pub fn rest(&self, url: &str, asked: Option<Duration>) -> Duration {
        let host = host_of(url);
        let (now, before) = (Instant::now(), self.hosts.get(&host));
        let failures = failures(before, asked);
        let left = before.and_then(|before| before.rest_left(now));
        let asked = asked.unwrap_or_else(|| backoff(failures)).clamp(SHORTEST_REST, LONGEST);
        let pause = asked.max(left.unwrap_or_default());
        if left.is_none() {
            tracing::warn!(host, secs = pause.as_secs(), "the upstream asks for a pause");
        }
        let until = now + pause;
        self.hosts.insert(host, Trouble { failures, until, rest: Some(until) });
        pause
    }

    /// The same of this URL alone: a host that cannot give one file now may well give the others, and apt too asks for
    /// them. It stays behind other upstreams meanwhile.
    pub fn rest_of(&self, url: &str, asked: Duration) -> Duration {
        self.report(url, Outcome::Failed(Some(asked)));
        let pause = asked.clamp(SHORTEST_REST, LONGEST);
        self.files.insert(url.to_owned(), Instant::now() + pause);
        pause
    }

    /// How long `url`, or its host, must not be asked; `None` if it may be.
    pub fn rest_left(&self, url: &str) -> Option<Duration> {
        let now = Instant::now();
        let of_host = self.hosts.get(&host_of(url)).and_then(|trouble| trouble.rest_left(now));
        let of_file = self.files.get(url).and_then(|until| until.checked_duration_since(now));
        of_host.max(of_file.filter(|left| !left.is_zero()))
    }
}

/// Failures in a row for which a pause grows. A time that the host names takes precedence, for this pause only.
fn failures(before: Option<Trouble>, asked: Option<Duration>) -> u32 {
    before.map_or(0, |trouble| trouble.failures).saturating_add(u32::from(asked.is_none()))
}

/// How long a host stays behind after this many failures in a row.
fn backoff(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(9)).min(LONGEST)
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

    #[tokio::test(start_paused = true)]
    async fn a_host_that_asks_for_a_pause_has_it() {
        let health = Health::default();
        let (url, other) = ("http://a.example/x", "http://b.example/x");
        let seconds = Duration::from_secs;
        assert_eq!(health.rest(url, Some(seconds(7))), seconds(7));
        assert_eq!((health.rest_left(url), health.rest_left(other)), (Some(seconds(7)), None));
        tokio::time::advance(seconds(3)).await;
        // What was under way ends well, or says something else.
        health.report(url, Outcome::Answered);
        assert_eq!(health.rest_left(url), Some(seconds(4)));
        health.report(url, Outcome::Failed(None));
        assert_eq!(health.rest(url, Some(seconds(1))), seconds(4));
        tokio::time::advance(seconds(4)).await;
        assert_eq!(health.rest_left(url), None);
        health.report(url, Outcome::Answered);
        assert_eq!(health.rest(url, Some(seconds(86_400))), LONGEST);
        tokio::time::advance(LONGEST).await;
        assert_eq!(health.rest(url, Some(Duration::ZERO)), SHORTEST_REST);
        tokio::time::advance(SHORTEST_REST).await;
        health.report(url, Outcome::Answered);
        for pause in [2, 4, 8] {
            assert_eq!(health.rest(url, None), seconds(pause));
            tokio::time::advance(seconds(pause)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_is_named_does_not_grow_nor_make_others_grow() {
        let health = Health::default();
        let urls = urls(&["http://a.example/x", "http://b.example/x"]);
        let seconds = Duration::from_secs;
        for _ in 0..5 {
            assert_eq!(health.rest(&urls[0], Some(seconds(2))), seconds(2));
            tokio::time::advance(seconds(2)).await;
            health.rest_of(&urls[0], seconds(2));
            assert_eq!(health.order(&urls), [1, 0]);
            tokio::time::advance(seconds(2)).await;
            assert_eq!(health.order(&urls), [0, 1], "it is over when it was said to be");
        }
        assert_eq!(health.rest(&urls[0], None), seconds(2), "the first that names none");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_not_to_be_had_now_holds_up_no_other() {
        let health = Health::default();
        let (url, other) = ("http://a.example/x", "http://a.example/y");
        let seconds = Duration::from_secs;
        assert_eq!(health.rest_of(url, seconds(7)), seconds(7));
        assert_eq!((health.rest_left(url), health.rest_left(other)), (Some(seconds(7)), None));
        health.report(other, Outcome::Answered);
        assert_eq!(health.rest_left(url), Some(seconds(7)));
        // However many there are, a host that wants a pause has it.
        health.rest(other, Some(seconds(20)));
        (0..20_000).for_each(|n| {
            _ = health.rest_of(&format!("http://a.example/{n}/{}", "x".repeat(500)), seconds(9))
        });
        health.files.run_pending_tasks();
        assert!(health.files.weighted_size() <= FILES);
        assert_eq!(health.rest_left("http://a.example/z"), Some(seconds(20)));
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
