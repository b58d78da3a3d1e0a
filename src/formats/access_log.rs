//! Access-log lines in Apache's combined format (mod_log_config's documentation), so that every log
//! analyser reads them. Text from clients is escaped: a line is always one line.

use std::fmt::Write;
use std::net::IpAddr;

/// One answered request.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    pub client: IpAddr,
    pub unix_secs: u64,
    pub method: &'a str,
    pub target: &'a str,
    pub status: u16,
    /// Bytes of the body as announced.
    pub bytes: u64,
    pub referer: Option<&'a str>,
    pub user_agent: Option<&'a str>,
}

impl Line<'_> {
    /// Appends the line with its final newline.
    pub fn write(&self, out: &mut String) {
        let seconds = i64::try_from(self.unix_secs).unwrap_or(0);
        let when = jiff::Timestamp::from_second(seconds).unwrap_or_default();
        let _ = write!(out, "{} - - [{}] \"", self.client, when.strftime("%d/%b/%Y:%H:%M:%S +0000"));
        escape(self.method, out);
        out.push(' ');
        escape(self.target, out);
        let _ = write!(out, " HTTP/1.1\" {} {} \"", self.status, self.bytes);
        escape(self.referer.unwrap_or("-"), out);
        out.push_str("\" \"");
        escape(self.user_agent.unwrap_or("-"), out);
        out.push_str("\"\n");
    }
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combined_format() {
        let mut out = String::new();
        let line = Line {
            client: "192.0.2.7".parse().expect("address"),
            unix_secs: 1_790_000_000,
            method: "GET",
            target: "/debian/pool/a\"b.deb",
            status: 302,
            bytes: 0,
            referer: None,
            user_agent: Some("Debian APT-HTTP/1.3 (2.6.1)\n"),
        };
        line.write(&mut out);
        assert_eq!(
            out,
            "192.0.2.7 - - [21/Sep/2026:14:13:20 +0000] \"GET /debian/pool/a\\\"b.deb HTTP/1.1\" 302 0 \"-\" \
             \"Debian APT-HTTP/1.3 (2.6.1)\\x0a\"\n"
        );
    }
}
