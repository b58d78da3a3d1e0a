//! Byte ranges of RFC 9110 section 14, as apt, dnf, wget, curl and aria2 send them.
//!
//! zchunk, and librepo with it, asks for up to 256 ranges in one request. A request for several that costs
//! more than the whole file is answered with the whole file, which the RFC allows.

use std::ops::Range;

/// Most ranges in one request: twice what zchunk sends.
const MAX_RANGES: usize = 512;

/// Longest value that is read: [`MAX_RANGES`] in files of 99 GB.
const MAX_HEADER: usize = 12 << 10;

/// Most ranges that may begin within another: RFC 9110 section 14.2 takes more for an attack or a mistake.
const MAX_OVERLAPS: usize = 2;

/// More than what stands around one part of several: see [`byteranges`](super::byteranges).
pub const MAX_FRAMING: u64 = 256;

/// What to send for a `Range` header, given the size of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No range, or one that must or may be ignored: 200.
    Whole,
    /// 206 with these bytes; never empty.
    Part(Range<u64>),
    /// 206 with at least two parts in the order asked, none of them empty. With [`MAX_FRAMING`] around each
    /// they are no longer than the whole.
    Parts(Vec<Range<u64>>),
    /// 416 with `Content-Range: bytes */size`.
    Unsatisfiable,
}

/// Reads a `Range` header's value. Syntax errors and other units count as no range (RFC 9110 14.2).
pub fn answer(header: Option<&str>, size: u64) -> Answer {
    let Some(set) = header.and_then(|value| value.trim().strip_prefix("bytes=")) else {
        return Answer::Whole;
    };
    if set.len() > MAX_HEADER || set.split(',').nth(MAX_RANGES).is_some() {
        return Answer::Whole;
    }
    // Lists may have empty elements (RFC 9110 section 5.6.1).
    let specs: Option<Vec<_>> =
        set.split(',').map(str::trim).filter(|spec| !spec.is_empty()).map(|spec| range(spec, size)).collect();
    let Some(mut parts) = specs.filter(|specs| !specs.is_empty()) else { return Answer::Whole };
    // An empty file has no byte to give. nginx gives the whole to whoever asks from its beginning, so that one who
    // fetches by parts gets the file.
    if size == 0 && parts.iter().any(|part| part.start == 0) {
        return Answer::Whole;
    }
    parts.retain(|part| !part.is_empty());
    match parts.as_slice() {
        [] => Answer::Unsatisfiable,
        [part] => Answer::Part(part.clone()),
        several if costs_too_much(several, size) => Answer::Whole,
        _ => Answer::Parts(parts),
    }
}

/// One `first-last`, `first-` or `-length`, cut to the file; `None` if it is none of them.
fn range(spec: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    match (number(first), number(last)) {
        (Some(first), None) if last.trim().is_empty() => Some(first..size),
        (Some(first), Some(last)) if first <= last => Some(first..last.saturating_add(1).min(size)),
        (None, Some(suffix)) if first.trim().is_empty() => Some(size.saturating_sub(suffix)..size),
        _ => None,
    }
}

fn costs_too_much(parts: &[Range<u64>], size: u64) -> bool {
    let add =
        |sent: u64, part: &Range<u64>| sent.checked_add(part.end - part.start)?.checked_add(MAX_FRAMING);
    let sent = parts.iter().try_fold(0, add);
    let mut sorted: Vec<_> = parts.iter().map(|part| (part.start, part.end)).collect();
    sorted.sort_unstable();
    let (mut overlaps, mut covered) = (0, 0);
    for (start, end) in sorted {
        overlaps += usize::from(start < covered);
        covered = covered.max(end);
    }
    sent.is_none_or(|sent| sent > size) || overlaps > MAX_OVERLAPS
}

/// How many bytes of the file a request asks for, for accounting.
pub fn requested_len(header: Option<&str>, size: u64) -> u64 {
    match answer(header, size) {
        Answer::Whole => size,
        Answer::Part(part) => part.end - part.start,
        // Cannot overflow: together they are no longer than the file.
        Answer::Parts(parts) => parts.iter().map(|part| part.end - part.start).sum(),
        Answer::Unsatisfiable => 0,
    }
}

/// Whether a request asks for a part that ends before the file does, as those do that fetch a file in
/// several parts at once. What resumes asks for the rest.
pub fn is_segment(header: Option<&str>, size: u64) -> bool {
    match answer(header, size) {
        Answer::Part(part) => part.end < size,
        Answer::Parts(_) => true,
        Answer::Whole | Answer::Unsatisfiable => false,
    }
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    // `parse` alone would take "+5".
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_rfc_9110() {
        let table = [
            (None, Answer::Whole),
            (Some("bytes=0-"), Answer::Part(0..1000)),
            (Some("bytes=0-0"), Answer::Part(0..1)),
            (Some("bytes=500-"), Answer::Part(500..1000)),
            (Some("bytes=500-599"), Answer::Part(500..600)),
            (Some("bytes=500-99999999999999999999999"), Answer::Part(500..1000)),
            (Some("bytes=-200"), Answer::Part(800..1000)),
            (Some("bytes=-2000"), Answer::Part(0..1000)),
            (Some("bytes=-0"), Answer::Unsatisfiable),
            (Some("bytes=1000-"), Answer::Unsatisfiable),
            (Some("bytes=1000-1001"), Answer::Unsatisfiable),
            (Some("bytes=5-4"), Answer::Whole),
            (Some("bytes=+5-9"), Answer::Whole),
            (Some("bytes=a-b"), Answer::Whole),
            (Some("bytes=-"), Answer::Whole),
            (Some("bytes="), Answer::Whole),
            (Some("bytes=,"), Answer::Whole),
            (Some("items=0-1"), Answer::Whole),
            (Some("bytes=500-599,"), Answer::Part(500..600)),
            (Some("bytes=500-599,2000-"), Answer::Part(500..600)),
            (Some("bytes=1000-,2000-"), Answer::Unsatisfiable),
        ];
        for (header, want) in table {
            assert_eq!(answer(header, 1000), want, "{header:?}");
        }
    }

    #[test]
    fn several_ranges() {
        const SIZE: u64 = 10_000;
        for (set, want) in [
            ("0-1,5-6", vec![0..2, 5..7]),
            (" 5-6 ,\t, 0-1", vec![5..7, 0..2]),
            ("-5,0-0,9000-20000", vec![9995..10_000, 0..1, 9000..10_000]),
            ("0-1,10000-,5-6,-0", vec![0..2, 5..7]),
            ("0-9,5-14,10-19", vec![0..10, 5..15, 10..20]),
        ] {
            assert_eq!(answer(Some(&format!("bytes={set}")), SIZE), Answer::Parts(want), "{set}");
        }
        for (set, why) in [
            ("0-1,x", "one is no range"),
            ("0-1,9-5", "one is no range"),
            ("0-1,items=5-6", "one is no range"),
            ("0-4999,5000-", "longer than the whole with its headers"),
            ("0-,0-,0-", "longer than the whole"),
            ("0-9,0-9,0-9,0-9", "overlaps"),
            ("30-39,0-99,20-29,10-19", "overlaps"),
        ] {
            assert_eq!(answer(Some(&format!("bytes={set}")), SIZE), Answer::Whole, "{set}: {why}");
        }
        assert_eq!(requested_len(Some("bytes=0-1,5-9,10000-"), SIZE), 7);
        assert_eq!(answer(Some("bytes=0-,0-"), u64::MAX), Answer::Whole, "the sum overflows");
    }

    #[test]
    fn an_empty_file_is_given_whole_from_its_beginning() {
        // As nginx 1.22 answers.
        for header in ["bytes=0-", "bytes=0-9", "bytes=-5", "bytes=-0", "bytes=0-0,1-1", "bytes=5-,0-"] {
            assert_eq!(answer(Some(header), 0), Answer::Whole, "{header}");
        }
        for header in ["bytes=5-", "bytes=1-9,2-"] {
            assert_eq!(answer(Some(header), 0), Answer::Unsatisfiable, "{header}");
        }
    }

    #[test]
    fn their_number_and_the_header_are_bounded() {
        let header = |count: u64, width: usize| {
            let specs: Vec<_> =
                (0..count).map(|n| format!("{:0width$}-{:0width$}", n * 10, n * 10 + 1)).collect();
            format!("bytes={}", specs.join(","))
        };
        let parts = |header: &str| match answer(Some(header), 1 << 40) {
            Answer::Parts(parts) => parts.len(),
            _ => 0,
        };
        assert_eq!(parts(&header(MAX_RANGES as u64, 11)), MAX_RANGES);
        assert_eq!(parts(&header(MAX_RANGES as u64 + 1, 1)), 0);
        assert_eq!(parts(&header(MAX_RANGES as u64, 12)), 0, "the header is too long");
        assert_eq!(answer(Some(&format!("bytes={}", ",".repeat(1 << 20))), 1000), Answer::Whole);
    }

    proptest::proptest! {
        #[test]
        fn parts_lie_within_the_file(
            header in "bytes=([0-9]{0,3}-[0-9]{0,22}|[0-9]{1,2}-[0-9]{2})((,| , |,,)([0-9]{0,4}-[0-9]{1,4})){0,8}",
            size in proptest::prop_oneof![0u64..5000, proptest::prelude::Just(u64::MAX)])
        {
            match answer(Some(&header), size) {
                Answer::Part(part) => proptest::prop_assert!(part.start < part.end && part.end <= size),
                Answer::Parts(parts) => {
                    proptest::prop_assert!(parts.len() > 1);
                    proptest::prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= size));
                    let sent = parts.iter().map(|part| u128::from(part.end - part.start) + u128::from(MAX_FRAMING));
                    proptest::prop_assert!(sent.sum::<u128>() <= u128::from(size));
                }
                Answer::Whole | Answer::Unsatisfiable => {}
            }
            proptest::prop_assert!(requested_len(Some(&header), size) <= size);
        }

        #[test]
        fn the_order_is_kept(asked in proptest::collection::vec((0u64..1 << 40, 0u64..1 << 20), 2..300)) {
            let set: Vec<_> = asked.iter().map(|(at, len)| format!("{at}-{}", at + len)).collect();
            if let Answer::Parts(parts) = answer(Some(&format!("bytes={}", set.join(","))), 1 << 41) {
                let want: Vec<_> = asked.iter().map(|(at, len)| *at..at + len + 1).collect();
                proptest::prop_assert_eq!(parts, want);
            } else {
                // 300 of 1 MiB fit well into 2 TiB: only overlaps, which are rare here, can prevent it.
                let mut sorted = asked.clone();
                sorted.sort_unstable();
                proptest::prop_assert!(sorted.windows(2).any(|pair| pair[1].0 <= pair[0].0 + pair[0].1));
            }
        }

        #[test]
        fn any_text(header in "bytes=\\PC{0,60}", size: u64) {
            proptest::prop_assert!(requested_len(Some(&header), size) <= size);
        }
    }
}
