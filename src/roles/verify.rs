//! `manyhands verify`: hashes local files and asks the server what it publishes under their names.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use http::{HeaderMap, StatusCode};
use indicatif::{ProgressBar, ProgressStyle};

use crate::formats::control::{LOOKUP_PATH, LocalFile, LookupReply, LookupRequest, MAX_MESSAGE, Verdict};
use crate::io::hasher;
use crate::io::upstream::{Upstream, UpstreamError};
use crate::model::{Algorithm, BlobId};

/// Files asked about at a time: an answer each, well below the largest message.
const BATCH: usize = 500;

/// Checks every file; success if all are published as they are.
pub async fn run(server: &str, paths: &[PathBuf], json: bool) -> anyhow::Result<ExitCode> {
    let files = list(paths)?;
    anyhow::ensure!(!files.is_empty(), "the paths contain no files");
    let client = Upstream::new()?;
    let url = format!("{}{LOOKUP_PATH}", server.trim_end_matches('/'));
    let bar = progress(files.len());
    let mut tally = Tally::default();
    for batch in files.chunks(BATCH) {
        let described = batch.iter().map(|path| describe(path, &bar)).collect::<anyhow::Result<Vec<_>>>()?;
        let request = LookupRequest { files: described };
        let reply: Result<LookupReply, _> =
            client.post_json(&url, HeaderMap::new(), &request, MAX_MESSAGE as u64).await;
        let reply = reply.map_err(|e| not_the_server(e, server))?;
        anyhow::ensure!(
            reply.files.len() == batch.len(),
            "the server answered for other files than requested"
        );
        for (path, verdict) in batch.iter().zip(&reply.files) {
            bar.suspend(|| print(path, verdict, json))?;
            tally.count(verdict);
        }
    }
    bar.finish_and_clear();
    if !json {
        writeln!(
            std::io::stdout(),
            "{} good, {} different, {} unknown",
            tally.good,
            tally.different,
            tally.unknown
        )?;
    }
    Ok(if tally.different + tally.unknown == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says what to do about an address that does not answer as a server does.
fn not_the_server(error: UpstreamError, server: &str) -> anyhow::Error {
    match &error {
        UpstreamError::Status { status: StatusCode::MISDIRECTED_REQUEST, .. } => anyhow::anyhow!(
            "{server} is the address of the server's status (its `admin`): give the one for clients and volunteers (its \
             `listen`, by default port 8080)"
        ),
        UpstreamError::NotFound { .. } => {
            anyhow::anyhow!("{server} is not a manyhands server: it answers 404")
        }
        _ => anyhow::Error::new(error).context(format!("no answer from {server}")),
    }
}

#[derive(Default)]
struct Tally {
    good: u64,
    different: u64,
    unknown: u64,
}

impl Tally {
    fn count(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Good { .. } => self.good += 1,
            Verdict::Differs { .. } => self.different += 1,
            Verdict::Unknown => self.unknown += 1,
        }
    }
}

/// Named files, and every file below named folders, in order. Links inside folders are not followed.
fn list(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open: Vec<PathBuf> = paths.to_vec();
    while let Some(path) = open.pop() {
        let unreadable = || format!("cannot read {}", path.display());
        let is_named = paths.contains(&path);
        let meta =
            if is_named { path.metadata() } else { path.symlink_metadata() }.with_context(unreadable)?;
        if meta.is_dir() {
            for entry in std::fs::read_dir(&path).with_context(unreadable)? {
                open.push(entry.with_context(unreadable)?.path());
            }
        } else if meta.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn progress(files: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {wide_msg}")
        .unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(files as u64).with_style(style)
}

fn describe(path: &Path, bar: &ProgressBar) -> anyhow::Result<LocalFile> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    bar.set_message(name.clone());
    let hashed = File::open(path).and_then(hasher::hash);
    let (digests, size) = hashed.with_context(|| format!("cannot read {}", path.display()))?;
    bar.inc(1);
    Ok(LocalFile {
        name,
        size,
        sha1: digests.get(Algorithm::Sha1).to_hex(),
        sha256: BlobId(digests.sha256),
        sha512: digests.get(Algorithm::Sha512).to_hex(),
    })
}

fn print(path: &Path, verdict: &Verdict, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        let mut value = serde_json::to_value(verdict)?;
        value["file"] = path.to_string_lossy().into();
        writeln!(out, "{value}")?;
        return Ok(());
    }
    let path = path.display();
    match verdict {
        Verdict::Good { path: published } => writeln!(out, "good       {path}  ({published})")?,
        Verdict::Differs { path: published, expected, .. } => {
            writeln!(out, "DIFFERENT  {path}  ({published} is {expected})")?;
        }
        Verdict::Unknown => writeln!(out, "unknown    {path}")?,
    }
    Ok(())
}
