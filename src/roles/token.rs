//! `manyhands token`: the tokens with which volunteers join. Works while the server runs.

use std::io::Write;
use std::path::Path;

use anyhow::Context;

use crate::io::clock;
use crate::io::config_file::read_serve_config;
use crate::io::tokens::TokenFile;

/// Prints a new token, and nothing else.
pub fn issue(config: &Path, note: &str) -> anyhow::Result<()> {
    let token = file(config)?.issue(note, clock::now().as_secs()).context("cannot write the token file")?;
    writeln!(std::io::stdout(), "{token}")?;
    Ok(())
}

/// Prints ids, dates and notes.
pub fn list(config: &Path, json: bool) -> anyhow::Result<()> {
    let tokens = file(config)?.list().context("cannot read the token file")?;
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &tokens)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(out, "{:<10} {:<22} {:<22} NOTE", "ID", "ISSUED", "REVOKED")?;
    for token in tokens {
        let revoked = token.revoked_secs.map_or_else(|| "-".to_owned(), date);
        writeln!(out, "{:<10} {:<22} {:<22} {}", token.id, date(token.issued_secs), revoked, token.note)?;
    }
    Ok(())
}

/// Revokes one; the running server notices within seconds.
pub fn revoke(config: &Path, id: &str) -> anyhow::Result<()> {
    let revoked = file(config)?.revoke(id, clock::now().as_secs()).context("cannot write the token file")?;
    anyhow::ensure!(revoked, "no valid token has the id {id:?}: `manyhands token list` shows them");
    Ok(())
}

fn file(config: &Path) -> anyhow::Result<TokenFile> {
    Ok(TokenFile::in_state_dir(&read_serve_config(config)?.state_dir))
}

fn date(secs: u64) -> String {
    let secs = i64::try_from(secs).unwrap_or(0);
    jiff::Timestamp::from_second(secs).unwrap_or_default().to_string()
}
