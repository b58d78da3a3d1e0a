//! `manyhands volunteer`: donates a server's bandwidth and disk.
//!
//! [`edge`] is the state, [`http`] serves signed requests from it, [`uploads`] counts what that sends. [`session`]
//! keeps the control connection, [`orders`] carries out what it brings, [`journal`] numbers what it is told of,
//! [`adopt`] takes in an existing mirror tree. What a volunteer lacks or must not serve now, it sends back to the
//! server: it never answers a client with an error of its own.
//! [`admin`] shows its administrator what it does and what it was [`told`], [`traffic`] writes that into the log.

mod admin;
mod adopt;
mod edge;
mod http;
mod journal;
mod orders;
mod returners;
mod session;
mod told;
mod traffic;
mod uploads;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use self::edge::Edge;
use crate::config::{VolunteerConfig, VolunteerOptions};
use crate::io::config_file::{read_token, read_volunteer_options};
use crate::io::handover::{Role, Start};
use crate::io::listen::{Bounds, Ends};
use crate::io::patience::Patience;
use crate::io::shaper::Class;
use crate::io::shutdown::{DRAIN, Shutdown};
use crate::io::sockets::{ADMIN, PUBLIC};
use crate::io::{listen, scrub};

/// After saying that it leaves, a volunteer still answers clients that were sent to it just before, by sending
/// them on: covers a lost packet or two.
const LINGER: Duration = Duration::from_secs(5);
/// A client that gets less goes to the server instead when it returns: its line to
/// here is bad. The kernel holds little back, so that this shows soon.
const PATIENCE: Patience =
    Patience { bytes_per_sec: 8 << 10, time: Duration::from_secs(4), unsent: Some(16 << 10) };

/// What the configuration is made of: flags over a file, if one is given.
#[derive(Clone, Debug)]
pub struct Options {
    pub file: Option<PathBuf>,
    pub flags: VolunteerOptions,
}

impl Options {
    /// Reads the file, merges and validates.
    fn read(&self) -> anyhow::Result<VolunteerConfig> {
        let base = match &self.file {
            None => VolunteerOptions::default(),
            Some(path) => read_volunteer_options(path)?,
        };
        self.flags.clone().over(base).validate().context("the configuration is not complete")
    }
}

/// Runs the volunteer until it is told to stop or another process has taken over.
pub async fn run(options: Options, mut start: Start) -> anyhow::Result<()> {
    let config = options.read()?;
    let token = read_token(&config)?;
    let listeners = start.sockets.open(PUBLIC, &[config.listen])?;
    let address = listen::local_addresses(&listeners)?[0];
    let admin_listeners = start.sockets.open(ADMIN, config.admin.as_slice())?;
    let admin = listen::local_addresses(&admin_listeners)?.first().map(ToString::to_string);
    let shutdown = Shutdown::on_signals(DRAIN)?;
    let life = start.may_open().await?;
    let max_connections = config.max_connections;
    let opening = tokio::task::spawn_blocking(move || Edge::open(config, address, token));
    let edge = Arc::new(opening.await??);
    let (blobs, bytes) = edge.totals();
    tracing::info!(
        listen = %address, id = %edge.id, server = edge.config.server, donate = %edge.config.donate, blobs, bytes, admin,
        version = env!("CARGO_PKG_VERSION"), "ready"
    );
    let control = tokio::spawn(session::keep(edge.clone(), shutdown.clone()));
    if !edge.config.adopt.is_empty() {
        tokio::spawn(adopt::keep(edge.clone()));
    }
    scrub::keep(&edge.fetcher.store, edge.config.scrub_days);
    tokio::spawn(traffic::report(edge.clone()));
    // Who leaves still answers, by sending on; who is succeeded makes way at once.
    let (closing, mut begun) = (edge.clone(), shutdown.clone());
    let closed = Shutdown::when(async move {
        begun.begun().await;
        closing.drain();
        if !closing.has_let_go() {
            let _ = tokio::time::timeout(DRAIN, closing.uploads.idle()).await;
            // Sooner if the server says that nobody is on the way.
            let _ = tokio::time::timeout(LINGER, closing.nobody_comes.notified()).await;
        }
    });
    let serving = edge.clone();
    let answer = move |request: ::http::Request<hyper::body::Incoming>, ends: Ends| {
        let edge = serving.clone();
        let (request, _) = request.into_parts();
        async move { http::answer(&edge, &request, ends.peer.ip().to_canonical()).await }
    };
    let slow = edge.clone();
    let cut_off = Arc::new(move |peer: SocketAddr| slow.returners.is_slow(peer.ip().to_canonical()));
    let bounds = Bounds { connections: max_connections, patience: PATIENCE, cut_off };
    let admin = admin::serve(edge.clone(), admin_listeners, closed.clone());
    let serve = listen::serve(listeners, bounds, answer, closed);
    let reload = Arc::new(Reload { edge: edge.clone(), options });
    let (_, (), end) = tokio::join!(serve, admin, life.run(reload, shutdown));
    let _ = control.await;
    scrub::save_use(&edge.fetcher.store).await;
    end?;
    tracing::info!("stopped");
    Ok(())
}

/// A volunteer and the options that configure it.
#[derive(Debug)]
struct Reload {
    edge: Arc<Edge>,
    options: Options,
}

impl Role for Reload {
    fn check(&self) -> Result<(), String> {
        let checked = self.options.read().and_then(|config| Ok(read_token(&config)?));
        checked.map(drop).map_err(|e| format!("{e:#}"))
    }

    fn let_go(&self) {
        self.edge.let_go();
    }

    fn take_back(&self) -> Result<(), String> {
        self.edge.take_back().map_err(|e| format!("{e:#}"))
    }

    fn probe(&self) {
        let _ = (self.edge.uploads.running(Class::Client), self.edge.totals());
    }
}
