//! The page of a directory, as nginx's autoindex writes it: one entry a line, a link, a date, a size. People read
//! it; `wget -m`, lftp, reposync-like crawlers and the scanners of redirectors parse it.

use std::cmp::Reverse;
use std::fmt::Write;

use quick_xml::escape::escape;

use crate::model::encode_path;

/// The column where dates begin, behind one space: nginx's.
const NAME_WIDTH: usize = 50;

/// One line of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Without a final slash.
    pub name: String,
    pub is_dir: bool,
    /// In bytes.
    pub size: Option<u64>,
    /// Seconds since 1970.
    pub modified_secs: Option<u64>,
}

/// Brings entries into the order of the page: directories first, then by name.
pub fn sort(entries: &mut [Entry]) {
    entries.sort_unstable_by(|a, b| (Reverse(a.is_dir), &a.name).cmp(&(Reverse(b.is_dir), &b.name)));
}

/// The page of the directory `title`, with a link to the one above unless it is the top. `note` is for people and
/// stands below the entries.
pub fn page(title: &str, is_top: bool, entries: &[Entry], note: &str) -> String {
    let title = escape(title);
    let mut out = String::with_capacity(512 + 160 * entries.len());
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html>\n<head><meta charset=\"utf-8\"><title>Index of {title}</title></head>\n\
         <body>\n<h1>Index of {title}</h1><hr><pre>"
    );
    if !is_top {
        out.push_str("<a href=\"../\">../</a>\n");
    }
    entries.iter().for_each(|entry| line(&mut out, entry));
    out.push_str("</pre><hr>\n");
    if !note.is_empty() {
        let _ = writeln!(out, "<pre>{}</pre>", escape(note));
    }
    out.push_str("</body>\n</html>\n");
    out
}

fn line(out: &mut String, entry: &Entry) {
    let slash = if entry.is_dir { "/" } else { "" };
    // A colon would make what stands before it a scheme (RFC 3986 section 4.2).
    let href = encode_path(&entry.name).replace(':', "%3A");
    let padding = NAME_WIDTH.saturating_sub(entry.name.chars().count() + slash.len());
    let _ = write!(
        out,
        "<a href=\"{}{slash}\">{}{slash}</a>{:padding$} {:>17} ",
        escape(&href),
        escape(&entry.name),
        "",
        entry.modified_secs.map_or_else(|| "-".to_owned(), date),
    );
    let _ = match entry.size.filter(|_| !entry.is_dir) {
        Some(size) => writeln!(out, "{size:>19}"),
        None => writeln!(out, "{:>19}", "-"),
    };
}

/// `20-Nov-2026 10:00`, in UTC.
fn date(secs: u64) -> String {
    let when = jiff::Timestamp::from_second(i64::try_from(secs).unwrap_or(0)).unwrap_or_default();
    when.strftime("%d-%b-%Y %H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_as_nginx_writes_it() {
        let entry = |name: &str, is_dir, size, modified_secs| Entry {
            name: name.to_owned(),
            is_dir,
            size,
            modified_secs,
        };
        let mut entries = [
            entry("libx++_1%3a2~rc1_all.deb", false, Some(1_234_567), Some(1_790_000_000)),
            entry("a<b>&\"c d\"", false, None, None),
            entry("1:2", true, Some(4096), Some(1_790_000_000)),
        ];
        sort(&mut entries);
        let text = page("/x&y/", false, &entries, "a < b");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[4], "<h1>Index of /x&amp;y/</h1><hr><pre><a href=\"../\">../</a>");
        assert_eq!(
            lines[5],
            format!("<a href=\"1%3A2/\">1:2/</a>{:46} 21-Sep-2026 14:13                   -", "")
        );
        assert_eq!(
            lines[6],
            format!(
                "<a href=\"a%3Cb%3E&amp;%22c%20d%22\">a&lt;b&gt;&amp;&quot;c d&quot;</a>{:40}                 -                   -",
                ""
            )
        );
        assert_eq!(
            lines[7],
            format!(
                "<a href=\"libx++_1%253a2~rc1_all.deb\">libx++_1%3a2~rc1_all.deb</a>{:26} 21-Sep-2026 14:13             1234567",
                ""
            )
        );
        assert_eq!(lines[8..10], ["</pre><hr>", "<pre>a &lt; b</pre>"]);
        assert!(!page("/", true, &[], "").contains("../"));
    }
}
