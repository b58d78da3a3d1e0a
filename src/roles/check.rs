//! `manyhands check`: validates a server's configuration and says what would be served.

use std::io::Write;
use std::path::Path;

use crate::config::Origin;
use crate::io::config_file::read_serve_config;

/// Prints a summary, or fails with what is wrong.
pub fn run(path: &Path) -> anyhow::Result<()> {
    let config = read_serve_config(path)?;
    let mut out = std::io::stdout().lock();
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    writeln!(out, "{} is valid", path.display())?;
    writeln!(out, "listen     {}", listen.join(", "))?;
    writeln!(out, "admin      {}", config.admin)?;
    writeln!(out, "state_dir  {}", config.state_dir.display())?;
    writeln!(
        out,
        "cache      up to {}, {} of the disk left free",
        config.cache.max_size, config.cache.min_free
    )?;
    let mut missing = Vec::new();
    for repo in &config.repos {
        writeln!(out, "\n/{}/  ({})", repo.name, repo.profile.description)?;
        match &repo.origin {
            Origin::Tree(tree) => {
                writeln!(out, "  tree      {}", tree.display())?;
                if !tree.is_dir() {
                    missing.push(tree.display().to_string());
                }
            }
            Origin::Upstream(urls) => urls.iter().try_for_each(|url| writeln!(out, "  upstream  {url}"))?,
        }
        let suites = if repo.profile.suites.is_empty() {
            "as clients ask".to_owned()
        } else {
            repo.profile.suites.join(", ")
        };
        writeln!(out, "  suites    {suites}")?;
        writeln!(out, "  clients   {}", repo.client_hint(&config.shown_url()))?;
    }
    anyhow::ensure!(missing.is_empty(), "not a folder: {}", missing.join(", "));
    Ok(())
}
