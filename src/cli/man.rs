//! `manyhands man`: the man pages. Synopsis and options are the command line's own, the configuration's keys are
//! chapters of `docs/configuration.md`, and the rest is in `packaging/man/`.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::markdown;
use crate::io::clock;

const VERSION: &str = concat!("manyhands ", env!("CARGO_PKG_VERSION"));
const MANUAL: &str = "manyhands manual";

/// What each command's page says after its options: exit status, files, examples.
const COMMANDS: &[(&str, &str)] = &[
    ("manyhands", include_str!("../../packaging/man/manyhands.md")),
    ("manyhands-check", include_str!("../../packaging/man/check.md")),
    ("manyhands-demo", include_str!("../../packaging/man/demo.md")),
    ("manyhands-serve", include_str!("../../packaging/man/serve.md")),
    ("manyhands-simulate", include_str!("../../packaging/man/simulate.md")),
    ("manyhands-status", include_str!("../../packaging/man/status.md")),
    ("manyhands-token", include_str!("../../packaging/man/token.md")),
    ("manyhands-token-issue", include_str!("../../packaging/man/token-issue.md")),
    ("manyhands-token-list", include_str!("../../packaging/man/token-list.md")),
    ("manyhands-token-revoke", include_str!("../../packaging/man/token-revoke.md")),
    ("manyhands-verify", include_str!("../../packaging/man/verify.md")),
    ("manyhands-volunteer", include_str!("../../packaging/man/volunteer.md")),
];

const CONFIGURATION: &str = include_str!("../../docs/configuration.md");

/// A page about a configuration file.
struct FilePage {
    name: &'static str,
    about: &'static str,
    /// Headings in `docs/configuration.md`; the empty one is what stands before them.
    chapters: &'static [&'static str],
    rest: &'static str,
}

const FILES: &[FilePage] = &[
    FilePage {
        name: "manyhands-serve.toml",
        about: "configuration of the manyhands server",
        chapters: &["", "Server"],
        rest: include_str!("../../packaging/man/serve.toml.md"),
    },
    FilePage {
        name: "manyhands-volunteer.toml",
        about: "configuration of a manyhands volunteer",
        chapters: &["", "Volunteer"],
        rest: include_str!("../../packaging/man/volunteer.toml.md"),
    },
    FilePage {
        name: "manyhands-profile.toml",
        about: "what manyhands knows of a distribution's archive",
        chapters: &["Profiles"],
        rest: include_str!("../../packaging/man/profile.toml.md"),
    },
];

/// Writes all of them to a folder. Their date is `SOURCE_DATE_EPOCH`, where it is set, so that packages are reproducible
/// (reproducible-builds.org).
pub fn write(mut command: Command, dir: &Path) -> io::Result<()> {
    let date = date(std::env::var("SOURCE_DATE_EPOCH").ok());
    command.build();
    write_commands(&command, dir, &date)?;
    for page in FILES {
        fs::write(dir.join(format!("{}.5", page.name)), file_page(page, &date)?)?;
    }
    Ok(())
}

/// The day of this time, in seconds since 1970, or today.
fn date(epoch: Option<String>) -> String {
    let secs = epoch.and_then(|text| text.parse().ok()).unwrap_or_else(|| clock::now().as_secs());
    let secs = i64::try_from(secs).unwrap_or_default();
    jiff::Timestamp::from_second(secs).unwrap_or_default().strftime("%Y-%m-%d").to_string()
}

/// The page of a command and those of its subcommands.
fn write_commands(command: &Command, dir: &Path, date: &str) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write_commands(subcommand, dir, date)?;
    }
    let man = Man::new(command.clone()).date(date).source(VERSION).manual(MANUAL);
    let mut page = Vec::new();
    man.render(&mut page)?;
    let name = man.get_filename();
    let rest = COMMANDS.iter().find(|(command, _)| name.strip_suffix(".1") == Some(command));
    let (_, rest) = rest.ok_or_else(|| io::Error::other(format!("packaging/man/ has nothing for {name}")))?;
    markdown::to_roff(rest).to_writer(&mut page)?;
    fs::write(dir.join(name), page)
}

fn file_page(page: &FilePage, date: &str) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let title = format!("{} - {}", page.name, page.about);
    let mut head = Roff::new();
    head.control("TH", [page.name, "5", date, VERSION, MANUAL]);
    head.control("SH", ["NAME"]).text([roman(title)]).control("SH", ["DESCRIPTION"]);
    head.to_writer(&mut out)?;
    for heading in page.chapters {
        markdown::to_roff(chapter(heading)?).to_writer(&mut out)?;
    }
    markdown::to_roff(page.rest).to_writer(&mut out)?;
    Ok(out)
}

/// What stands below a heading of the second level, or before the first one.
fn chapter(heading: &str) -> io::Result<&'static str> {
    let mut chapters = CONFIGURATION.split("\n## ").filter_map(|text| text.split_once('\n'));
    let found =
        chapters.find(|(title, _)| *title == heading || (heading.is_empty() && title.starts_with("# ")));
    let missing = || io::Error::other(format!("docs/configuration.md has no chapter {heading:?}"));
    found.map(|(_, text)| text).ok_or_else(missing)
}
