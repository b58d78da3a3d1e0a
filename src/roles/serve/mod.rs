//! `manyhands serve`: the central server.
//!
//! Five rooms around [`state`], the parts that they share: [`http`] turns requests into calls of the others,
//! [`metadata`] owns repositories and snapshots, [`packages`] finds and sends files, [`volunteers`] talks with
//! those who carry the downloads, [`admin`] tells of it all. [`handover`] lets another process take over. Decisions
//! are the policy's, two layers below.

mod admin;
mod handover;
pub mod http;
mod metadata;
mod packages;
mod state;
mod volunteers;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::mpsc;

use self::admin::{api, crowds};
use self::handover::Reload;
use self::http::access::AccessLog;
use self::http::{hints, reply, route, traffic};
use self::metadata::repo::Repo;
use self::metadata::{ranks, records, refresh};
use self::packages::{learnt, passed, tree_scrub};
use self::state::{Parts, Server};
use self::volunteers::{control, dispatch, orders, popularity, probe, zone};
use crate::catalog::Trust;
use crate::config::{Origin, RepoConfig, ServeConfig};
use crate::io::config_file::{read_keyring, read_serve_config};
use crate::io::db::Db;
use crate::io::fetch::Fetcher;
use crate::io::handover::{End, Start};
use crate::io::index_dir::IndexDir;
use crate::io::listen::Bounds;
use crate::io::shutdown::{DRAIN, HELD_DRAIN, Shutdown};
use crate::io::sockets::{ADMIN, PUBLIC};
use crate::io::store::{BlobStore, Change, Limits, OnChange};
use crate::io::upstream::{Sites, Upstream};
use crate::io::{self, clock, confined, listen, scrub};
use crate::model::Blob;
use crate::policy::KEPT_FOR;

/// Bytes of metadata kept: some generations of every suite of several distributions.
const METADATA_MAX: u64 = 32 << 30;
/// Connections on the admin listener.
const ADMIN_CONNECTIONS: usize = 64;
/// How long volunteers' sessions get to end cleanly.
const SESSIONS_END: std::time::Duration = std::time::Duration::from_secs(2);
/// How long the line that says what is served waits for local trees to be read.
const ANNOUNCE_AFTER: std::time::Duration = std::time::Duration::from_secs(10);
/// Commits waiting to be placed.
const COMMITS: usize = 1024;

/// Runs the server until it is told to stop or another process has taken over.
pub async fn run(path: &Path, mut start: Start) -> anyhow::Result<()> {
    let config = read_serve_config(path)?;
    let repos = open_repos(&config)?;
    let public = start.sockets.open(PUBLIC, &config.listen)?;
    let admin = start.sockets.open(ADMIN, &[config.admin])?;
    let drain = if start.sockets.is_held(PUBLIC) { HELD_DRAIN } else { DRAIN };
    let shutdown = Shutdown::on_signals(drain)?;
    let life = start.may_open().await?;
    let (commits, committed) = mpsc::channel(COMMITS);
    let server = Arc::new(open(config, repos, commits, shutdown.clone())?);
    let public_addresses = addresses(&public)?;
    let admin_address = addresses(&admin)?;

    restore(&server).await;
    let is_awaited = life.is_awaited();
    let reading = spawn_work(&server, committed);
    // Shared with the process before: what arrives at this socket must find somebody.
    let dns = zone::bind(&server)?;

    let control = control::router(server.clone());
    let (max, shared) = (server.config.max_connections, server.clone());
    let answer = move |request, ends| route::handle(shared.clone(), control.clone(), request, ends);
    let public = listen::serve(public, Bounds::of_server(max), answer, shutdown.clone());
    let admin_router = api::router(server.clone());
    let answer_admin = move |request: ::http::Request<hyper::body::Incoming>, _| {
        let router = admin_router.clone();
        async move {
            let Ok(response) = tower::ServiceExt::oneshot(router, request.map(axum::body::Body::new)).await;
            response.map(reply::from_axum)
        }
    };
    let admin = listen::serve(admin, Bounds::of_server(ADMIN_CONNECTIONS), answer_admin, shutdown.clone());
    let reload = Arc::new(Reload { server: server.clone(), config: path.to_owned() });
    let (superseded, is_superseded) = tokio::sync::oneshot::channel();
    let life = async {
        let end = life.run(reload, shutdown).await;
        if matches!(end, Ok(End::Succeeded)) {
            let _ = superseded.send(());
        }
        end
    };
    let announcing = async {
        // What is announced is what there is, if that takes a moment only. Clients are answered meanwhile.
        if !is_awaited {
            let _ = tokio::time::timeout(ANNOUNCE_AFTER, reading).await;
        }
        announce(&server, &public_addresses, &admin_address);
    };
    let end = tokio::select! {
        (_, _, end, ()) = async { tokio::join!(public, admin, life, announcing) } => end,
        // To the end of the drain, because clients sent to a volunteer need its name, or until another does it.
        end = zone::serve(server.clone(), dns, is_superseded) => match end {},
    };
    let _ = tokio::time::timeout(SESSIONS_END, server.fleet.sessions.all_ended()).await;
    if !matches!(end, Ok(End::Succeeded)) {
        let keeping = server.clone();
        let keep = move || {
            keeping.fleet.keep_holdings(&keeping.config.state_dir);
            popularity::write(&keeping);
        };
        let _ = tokio::task::spawn_blocking(keep).await;
    }
    tree_scrub::save_now(&server).await;
    passed::save_now(&server).await;
    scrub::save_use(&server.packages.store).await;
    end?;
    tracing::info!("stopped");
    Ok(())
}

fn open(
    config: ServeConfig,
    repos: Vec<Repo>,
    commits: mpsc::Sender<Blob>,
    shutdown: Shutdown,
) -> anyhow::Result<Server> {
    let dir = config.state_dir.clone();
    let named = |what: &str| format!("cannot open {} in state_dir {}", what, dir.display());
    confined::writable_folder(&dir).with_context(|| format!("cannot use state_dir {}", dir.display()))?;
    let db = Db::open(&dir.join("manyhands.redb"))
        .with_context(|| format!("{}; is another server using it?", named("the database")))?;
    let db = Arc::new(db);
    // A full queue loses a placement, not a blob: the next request asks again.
    let tell = OnChange(Box::new(move |change| {
        if let Change::Added(blob) = change {
            let _ = commits.try_send(blob);
        }
    }));
    let limits = Limits::new(config.cache.max_size.0, config.cache.min_free.0);
    let cache = BlobStore::open(&dir.join("cache"), limits, tell).with_context(|| named("the cache"))?;
    cache.tell_limits(limits);
    // What the cache leaves free, metadata may use.
    let metadata = BlobStore::open(&dir.join("metadata"), Limits::new(METADATA_MAX, 0), OnChange::ignore())
        .with_context(|| named("the metadata"))?;
    let indexes = IndexDir::open(&dir.join("index")).with_context(|| named("the indexes"))?;
    let upstream = Upstream::with_sites(sites(&config)?)?;
    let access = match &config.access_log {
        Some(path) => Some(
            AccessLog::open(path)
                .map_err(|e| confined::explain(path, e))
                .with_context(|| format!("cannot open access_log {}", path.display()))?,
        ),
        None => None,
    };
    let parts = Parts {
        packages: Fetcher::new(cache, db.clone(), upstream.clone()),
        metadata: Fetcher::new(metadata, db.clone(), upstream.clone()),
        config,
        repos,
        upstream,
        db,
        access,
        indexes,
        shutdown,
    };
    let server = Server::new(parts)?;
    server.fleet.import_demand(popularity::read(&dir), clock::now());
    Ok(server)
}

/// Restores what the database knows.
async fn restore(server: &Arc<Server>) {
    records::restore(server).await;
    if let Err(e) = server.learnt.withdrawn.restore() {
        tracing::warn!(error = %e, "cannot load the list of wrong files in local trees");
    }
    if let Err(e) = passed::restore(server) {
        tracing::warn!(error = %e, "cannot load what was known of upstreams' files that no metadata names");
    }
}

/// The repositories with their keyrings, before anything of theirs is read.
fn open_repos(config: &ServeConfig) -> anyhow::Result<Vec<Repo>> {
    (0..).zip(&config.repos).map(|(index, repo)| open_repo(index, repo)).collect()
}

fn open_repo(index: usize, config: &RepoConfig) -> anyhow::Result<Repo> {
    if let Origin::Tree(tree) = &config.origin
        && let Some(problem) = confined::no_folder(tree)
    {
        anyhow::bail!("repo {:?}: the tree {problem}", config.name);
    }
    let keyring = read_keyring(&config.keyring).with_context(|| format!("repo {:?}", config.name))?;
    let trust = Trust { keyring, check_valid_until: config.check_valid_until };
    Ok(Repo::new(index, config.clone(), trust))
}

/// The upstreams as their repositories' tables describe them.
fn sites(config: &ServeConfig) -> anyhow::Result<Sites> {
    let mut sites = Vec::new();
    for repo in &config.repos {
        let reached =
            io::access::read(repo, clock::now()).with_context(|| format!("repo {:?}", repo.name))?;
        for warning in reached.warnings {
            tracing::warn!(repo = repo.name, "{warning}");
        }
        sites.extend(reached.sites);
    }
    Ok(Sites::new(sites))
}

/// Starts everything that runs beside requests. What is returned ends when local trees that were never read have been.
fn spawn_work(server: &Arc<Server>, mut committed: mpsc::Receiver<Blob>) -> impl Future<Output = ()> + use<> {
    let placer = server.clone();
    tokio::spawn(async move {
        while let Some(blob) = committed.recv().await {
            // It came because somebody asked: let volunteers have it before the next one does.
            dispatch::place(&placer, blob);
        }
    });
    let tending = server.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(tending.fleet.params.heartbeat);
        loop {
            tick.tick().await;
            dispatch::tend(&tending);
        }
    });
    for fetcher in [&server.packages, &server.metadata] {
        scrub::keep(&fetcher.store, server.config.cache.scrub_days);
    }
    tree_scrub::keep(server);
    tokio::spawn(learnt::recall(server.clone()));
    tokio::spawn(passed::keep(server.clone()));
    tokio::spawn(ranks::keep(server.clone()));
    tokio::spawn(crowds::keep(server.clone()));
    tokio::spawn(popularity::keep(server.clone()));
    tokio::spawn(orders::keep_share(server.clone()));
    tokio::spawn(probe::keep(server.clone()));
    let forgetting = server.clone();
    tokio::spawn(async move {
        tokio::time::sleep(KEPT_FOR).await;
        forgetting.fleet.forget_kept();
    });
    let counting = server.clone();
    let up = move || counting.fleet.count_up(clock::now());
    tokio::spawn(traffic::report(server.traffic.clone(), up));
    let mut reading = Vec::new();
    for (index, repo) in server.repos.iter().enumerate() {
        let warming = server.clone();
        let warm_up = tokio::spawn(async move { refresh::warm_up(&warming, &warming.repos[index]).await });
        if repo.tree().is_some() && repo.snapshot().units().next().is_none() {
            reading.push(warm_up);
        }
        tokio::spawn(refresh::poll(server.clone(), index));
    }
    async { _ = futures_util::future::join_all(reading).await }
}

fn addresses(listeners: &[tokio::net::TcpListener]) -> anyhow::Result<String> {
    let all = listen::local_addresses(listeners)?;
    Ok(all.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

/// Says what is served and how to use it.
fn announce(server: &Server, addresses: &str, admin: &str) {
    let url = match &server.config.public_url {
        Some(url) => url.clone(),
        None => shown(addresses).unwrap_or_else(|| server.config.shown_url()),
    };
    for repo in &server.repos {
        let origin = match &repo.config.origin {
            Origin::Tree(tree) => tree.display().to_string(),
            Origin::Upstream(urls) => urls.join(", "),
        };
        tracing::info!(repo = repo.config.name, distro = repo.config.distro, origin, "serving");
        for hint in hints::of_repo(repo, &url) {
            tracing::info!("  {hint}");
        }
    }
    let has_token = server.tokens.list().is_ok_and(|tokens| tokens.iter().any(|t| t.revoked_secs.is_none()));
    if !has_token {
        tracing::info!("no volunteer can join yet: `manyhands token issue --config FILE` issues a token");
    }
    tracing::info!(listen = addresses, admin, version = env!("CARGO_PKG_VERSION"), "ready");
}

/// The first bound address as a URL, if it is one that clients can use.
fn shown(addresses: &str) -> Option<String> {
    let first: std::net::SocketAddr = addresses.split(',').next()?.parse().ok()?;
    (!first.ip().is_unspecified()).then(|| format!("http://{first}"))
}
