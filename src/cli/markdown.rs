//! Markdown to man(7), as far as this project's pages use it. A row of a table becomes a tagged paragraph, since
//! pages are read on narrow terminals; of a link only the text is left.

use std::mem::take;

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// A page's source. Headings of the first three levels are its sections.
pub fn to_roff(markdown: &str) -> Roff {
    let mut writer = Writer::default();
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        writer.take_event(event);
    }
    writer.roff
}

#[derive(Default)]
struct Writer {
    roff: Roff,
    /// The paragraph, heading or cell that is being read.
    line: Vec<Inline>,
    /// The cells of the table's row, and of its head.
    row: Vec<Vec<Inline>>,
    head: Vec<Vec<Inline>>,
    font: Font,
    in_code: bool,
    in_item: bool,
}

#[derive(Clone, Copy, Default)]
enum Font {
    #[default]
    Roman,
    Bold,
    Italic,
}

impl Writer {
    fn take_event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(&tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.in_code => {
                for line in text.lines() {
                    self.roff.text([roman(line)]);
                }
            }
            Event::Text(text) => self.line.push(match self.font {
                Font::Roman => roman(text.as_ref()),
                Font::Bold => bold(text.as_ref()),
                Font::Italic => italic(text.as_ref()),
            }),
            Event::Code(text) => self.line.push(bold(text.as_ref())),
            Event::SoftBreak | Event::HardBreak => self.line.push(roman(" ")),
            _ => {}
        }
    }

    fn start(&mut self, tag: &Tag<'_>) {
        match tag {
            Tag::Paragraph if !self.in_item => {
                self.roff.control("PP", []);
            }
            Tag::CodeBlock(_) => {
                self.in_code = true;
                self.roff.control("PP", []).control("RS", ["4"]).control("EX", []);
            }
            Tag::Item => {
                self.in_item = true;
                self.roff.control("IP", [r"\(bu", "2"]);
            }
            Tag::Strong => self.font = Font::Bold,
            Tag::Emphasis => self.font = Font::Italic,
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(level) => self.heading(level),
            TagEnd::Paragraph => self.flush(),
            TagEnd::CodeBlock => {
                self.in_code = false;
                self.roff.control("EE", []).control("RE", []);
            }
            TagEnd::Item => {
                self.in_item = false;
                self.flush();
            }
            TagEnd::TableCell => self.row.push(take(&mut self.line)),
            TagEnd::TableHead => self.head = take(&mut self.row),
            TagEnd::TableRow => self.row(),
            TagEnd::Strong | TagEnd::Emphasis => self.font = Font::Roman,
            _ => {}
        }
    }

    fn flush(&mut self) {
        if !self.line.is_empty() {
            self.roff.text(take(&mut self.line));
        }
    }

    /// Sections are in capitals, but for names of tables in files.
    fn heading(&mut self, level: HeadingLevel) {
        let text = plain(&take(&mut self.line));
        let title = match text.as_str() {
            "Example" => "EXAMPLES".to_owned(),
            name if name.starts_with('[') => text,
            _ => text.to_uppercase(),
        };
        self.roff.control(if level <= HeadingLevel::H3 { "SH" } else { "SS" }, [title.as_str()]);
    }

    /// The first cell is the tag. The last one is the text, below what short cells between them say.
    fn row(&mut self) {
        let mut cells = take(&mut self.row);
        let text = cells.pop().unwrap_or_default();
        let mut cells = cells.into_iter().zip(&self.head);
        self.roff.control("TP", []);
        if let Some((tag, _)) = cells.next() {
            self.roff.text(tag);
        }
        for (cell, name) in cells.filter(|(cell, _)| !cell.is_empty()) {
            let named = [name.clone(), vec![roman(": ")], cell].concat();
            self.roff.text(named).control("br", []);
        }
        self.roff.text(text);
    }
}

fn plain(line: &[Inline]) -> String {
    let text = |part: &Inline| match part {
        Inline::Roman(text) | Inline::Bold(text) | Inline::Italic(text) => text.clone(),
        Inline::LineBreak => " ".to_owned(),
    };
    line.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pages_use() {
        let cases = [
            (
                "## [server]\n\nOne *or*\n**two**, `a-b`.",
                ".SH [server]\n.PP\nOne \\fIor\\fR \\fBtwo\\fR, \\fBa\\-b\\fR.\n",
            ),
            ("# Exit status", ".SH \"EXIT STATUS\"\n"),
            ("### Example\n\n```\n.x\n\ny\n```", ".SH EXAMPLES\n.PP\n.RS 4\n.EX\n\\&.x\n\ny\n.EE\n.RE\n"),
            ("- see [that](a.md#b)\n- two", ".IP \\(bu 2\nsee that\n.IP \\(bu 2\ntwo\n"),
            (
                "| key | default | meaning |\n|---|---|---|\n| `a` | `1` | b |\n| `c` | | d |",
                ".TP\n\\fBa\\fR\ndefault: \\fB1\\fR\n.br\nb\n.TP\n\\fBc\\fR\nd\n",
            ),
        ];
        for (markdown, roff) in cases {
            assert_eq!(to_roff(markdown).to_roff(), roff, "{markdown}");
        }
    }
}
