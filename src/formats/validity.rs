//! When an X.509 certificate is valid (RFC 5280 section 4.1.2.5). Nothing else of it is read here: TLS judges it.

use crate::model::Time;

/// DER tags (ITU-T X.690).
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, before the serial number of all but the oldest certificates.
const VERSION: u8 = 0xa0;

/// First and last second of validity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub begin: Time,
    pub end: Time,
}

/// The validity of a certificate in DER; `None` if it is none.
pub fn of_certificate(der: &[u8]) -> Option<Validity> {
    let certificate = element(&mut &*der, SEQUENCE)?;
    let mut fields = element(&mut &*certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        any_element(&mut fields)?;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        any_element(&mut fields)?;
    }
    let mut validity = element(&mut fields, SEQUENCE)?;
    Some(Validity { begin: time(&mut validity)?, end: time(&mut validity)? })
}

/// Takes the next element, which must have this tag.
fn element<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    any_element(rest).filter(|(found, _)| *found == tag).map(|(_, content)| content)
}

/// Takes the next element: its tag and its content.
fn any_element<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, first], mut after) = rest.split_first_chunk::<2>()?;
    let len = if first < 0x80 {
        usize::from(first)
    } else {
        // No certificate has more than 2^32 bytes.
        let (digits, behind) =
            after.split_at_checked(usize::from(first & 0x7f)).filter(|(d, _)| d.len() <= 4)?;
        after = behind;
        digits.iter().fold(0, |len, &digit| len << 8 | usize::from(digit))
    };
    let (content, behind) = after.split_at_checked(len)?;
    *rest = behind;
    Some((tag, content))
}

/// `YYMMDDHHMMSSZ` of 1950 to 2049, or `YYYYMMDDHHMMSSZ`.
fn time(rest: &mut &[u8]) -> Option<Time> {
    let (tag, text) = any_element(rest)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i16 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let two = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
    let civil = jiff::civil::DateTime::new(year, two(0)?, two(2)?, two(4)?, two(6)?, two(8)?, 0).ok()?;
    let seconds = civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second();
    // Before 1970 is long over, whenever it was.
    (rest.len() == 10).then(|| Time::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
        let len = u16::try_from(content.len()).expect("short").to_be_bytes();
        [&[tag, 0x82], &len[..], content].concat()
    }

    fn certificate(begin: Vec<u8>, end: Vec<u8>, has_version: bool) -> Vec<u8> {
        let version = if has_version { tagged(VERSION, &[2, 1, 2]) } else { Vec::new() };
        let (serial, other) = (tagged(2, &[1]), tagged(SEQUENCE, b"abc"));
        let validity = tagged(SEQUENCE, &[begin, end].concat());
        let fields = [version, serial, other.clone(), other.clone(), validity, other].concat();
        tagged(SEQUENCE, &tagged(SEQUENCE, &fields))
    }

    #[test]
    fn both_forms_of_time_are_read() {
        let utc = |text: &str| tagged(UTC_TIME, text.as_bytes());
        let general = |text: &str| tagged(GENERALIZED_TIME, text.as_bytes());
        let one = |begin: Vec<u8>, end: Vec<u8>| {
            let validity = of_certificate(&certificate(begin, end, true))?;
            Some((validity.begin.as_secs(), validity.end.as_secs()))
        };
        assert_eq!(one(utc("700101000001Z"), utc("260102030405Z")), Some((1, 1_767_323_045)));
        assert_eq!(one(utc("500101000000Z"), general("20500101000000Z")), Some((0, 2_524_608_000)));
        for wrong in
            ["", "Z", "260102030405", "261302030405Z", "2601020304Z", "26010203040-Z", "260102030405+0100"]
        {
            assert_eq!(one(utc("700101000001Z"), utc(wrong)), None, "{wrong}");
        }
        let der = certificate(utc("700101000001Z"), utc("260102030405Z"), false);
        assert!(of_certificate(&der).is_some());
        for cut in 0..der.len() {
            assert_eq!(of_certificate(&der[..cut]), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = of_certificate(&bytes);
        }
    }
}
