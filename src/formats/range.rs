//! Byte ranges of RFC 9110 section 14, as apt, dnf, wget, curl and aria2 send them.
//!
//! One range is answered; several in one request are answered with the whole file, which the RFC allows.

use std::ops::Range;

/// What to send for a `Range` header, given the size of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No range, or one that must be ignored: 200.
    Whole,
    /// 206 with these bytes; never empty.
    Part(Range<u64>),
    /// 416 with `Content-Range: bytes */size`.
    Unsatisfiable,
}

/// Reads a `Range` header's value. Syntax errors and other units count as no range (RFC 9110 14.2).
pub fn answer(header: Option<&str>, size: u64) -> Answer {
    let Some(spec) = header.and_then(|value| value.trim().strip_prefix("bytes=")) else {
        return Answer::Whole;
    };
    if spec.contains(',') {
        return Answer::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Answer::Whole;
    };
    let part = match (number(first), number(last)) {
        (Some(first), None) if last.trim().is_empty() => first..size,
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (None, Some(suffix)) if first.trim().is_empty() => size.saturating_sub(suffix)..size,
        _ => return Answer::Whole,
    };
    if part.start < part.end { Answer::Part(part) } else { Answer::Unsatisfiable }
}

/// How many bytes a request asks for, for accounting.
pub fn requested_len(header: Option<&str>, size: u64) -> u64 {
    match answer(header, size) {
        Answer::Whole => size,
        Answer::Part(part) => part.end - part.start,
        Answer::Unsatisfiable => 0,
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
            (Some("bytes=0-1,5-6"), Answer::Whole),
            (Some("items=0-1"), Answer::Whole),
        ];
        for (header, want) in table {
            assert_eq!(answer(header, 1000), want, "{header:?}");
        }
        assert_eq!(answer(Some("bytes=0-"), 0), Answer::Unsatisfiable);
    }

    proptest::proptest! {
        #[test]
        fn a_part_lies_within_the_file(header in "bytes=[0-9]{0,22}-[0-9]{0,22}", size in 0u64..5000) {
            if let Answer::Part(part) = answer(Some(&header), size) {
                proptest::prop_assert!(part.start < part.end && part.end <= size);
            }
        }
    }
}
