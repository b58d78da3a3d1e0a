//! `manyhands volunteer`: donates a server's bandwidth and disk.
//!
//! [`edge`] is the state, [`http`] serves signed requests from it, [`session`] keeps the control connection
//! and carries out orders, [`adopt`] takes in an existing mirror tree. What it lacks or must not serve now,
//! it sends back to the server: it never answers a client with an error of its own.

mod adopt;
mod edge;
mod http;
mod session;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use self::edge::Edge;
use crate::config::{VolunteerConfig, VolunteerOptions};
use crate::io::config_file::read_volunteer_options;
use crate::io::shutdown::{DRAIN, Shutdown};
use crate::io::sockets::{PUBLIC, Sockets};
use crate::io::{listen, manager, scrub};

/// After saying that it leaves, a volunteer still answers those who were sent to it just before.
const LINGER: Duration = Duration::from_secs(1);

/// Merges flags over the file, if one is given, and validates.
pub fn read_config(file: Option<&Path>, flags: VolunteerOptions) -> anyhow::Result<VolunteerConfig> {
    let base = match file {
        None => VolunteerOptions::default(),
        Some(path) => read_volunteer_options(path)?,
    };
    flags.over(base).validate().context("the configuration is not complete")
}

/// Runs the volunteer until it is told to stop.
pub async fn run(config: VolunteerConfig, mut sockets: Sockets) -> anyhow::Result<()> {
    let token = token(&config)?;
    let mut shutdown = Shutdown::on_signals()?;
    let listeners = sockets.open(PUBLIC, &[config.listen])?;
    // The listeners are all that is needed of them.
    drop(sockets);
    let address = listen::local_addresses(&listeners)?[0];
    let max_connections = config.max_connections;
    let opening = tokio::task::spawn_blocking(move || Edge::open(config, address, token));
    let edge = Arc::new(opening.await??);
    let (blobs, bytes) = edge.totals();
    tracing::info!(
        listen = %address, id = %edge.id, server = edge.config.server, donate = %edge.config.donate, blobs, bytes,
        version = env!("CARGO_PKG_VERSION"), "ready"
    );
    let control = tokio::spawn(session::keep(edge.clone(), shutdown.clone()));
    if !edge.config.adopt.is_empty() {
        tokio::spawn(adopt::keep(edge.clone()));
    }
    scrub::keep(&edge.fetcher.store, edge.config.scrub_days);
    manager::ready();
    let watched = edge.clone();
    manager::watchdog(move || _ = (watched.running_uploads(), watched.totals()));

    let serving = edge.clone();
    let drained = {
        let (edge, mut shutdown) = (edge.clone(), shutdown.clone());
        Shutdown::when(async move {
            shutdown.begun().await;
            edge.drain();
            let _ = tokio::time::timeout(DRAIN, edge.idle()).await;
            tokio::time::sleep(LINGER).await;
        })
    };
    let answer = move |request: ::http::Request<hyper::body::Incoming>, _| {
        let edge = serving.clone();
        async move { http::answer(&edge, &request) }
    };
    listen::serve(listeners, max_connections, answer, drained, DRAIN).await;
    shutdown.begun().await;
    manager::stopping();
    let _ = control.await;
    scrub::save_use(&edge.fetcher.store).await;
    tracing::info!("stopped");
    Ok(())
}

fn token(config: &VolunteerConfig) -> anyhow::Result<String> {
    if let Some(token) = &config.token {
        return Ok(token.trim().to_owned());
    }
    let path: PathBuf = config.token_file.clone().unwrap_or_else(|| config.store.join("token"));
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read the token from {}: get one from the server's administrator \
             (`manyhands token issue`) and give it with --token-file",
            path.display()
        )
    })?;
    let token = text.trim();
    anyhow::ensure!(
        !token.is_empty() && !token.contains(char::is_whitespace),
        "{} holds no token",
        path.display()
    );
    Ok(token.to_owned())
}
