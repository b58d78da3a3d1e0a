//! `manyhands check` of a volunteer's file.

use std::fmt::{self, Write as _};

use crate::config::VolunteerConfig;
use crate::io::config_file::read_token;
use crate::io::confined;

/// What would be donated, and what keeps the volunteer from that.
pub(super) fn describe(config: &VolunteerConfig) -> Result<(String, Vec<String>), fmt::Error> {
    let (mut out, mut problems) = (String::new(), Vec::new());
    writeln!(out, "server     {}", config.server)?;
    writeln!(out, "listen     {}", config.listen)?;
    if let Some(admin) = config.admin {
        writeln!(out, "admin      {admin}")?;
    }
    writeln!(
        out,
        "advertise  {}",
        config.advertise.as_deref().unwrap_or("the address that the server sees")
    )?;
    writeln!(out, "donate     {} ({})", config.donate, config.donate.in_bits())?;
    let (max_size, min_free) = (config.max_size, config.min_free);
    writeln!(
        out,
        "store      {}: up to {max_size}, {min_free} of the disk left free",
        config.store.display()
    )?;
    for tree in &config.adopt {
        writeln!(out, "adopt      {}", tree.display())?;
        problems.extend(confined::no_folder(tree).map(|problem| format!("adopt: {problem}")));
    }
    for network in &config.clients {
        writeln!(out, "clients    {network}")?;
    }
    if config.volatile {
        writeln!(out, "volatile   only clients that can turn elsewhere are sent here")?;
    }
    match read_token(config) {
        Ok(_) => writeln!(out, "token      is there")?,
        Err(e) => problems.push(format!("{:#}", anyhow::Error::from(e))),
    }
    Ok((out, problems))
}
