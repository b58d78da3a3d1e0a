//! Every row with every client, straight from the origin and through a server over it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::clients::{Client, Outcome, Seen};
use super::{Files, Kit, Reach, Row, Trust, page, write};
use crate::support::{
    BINARY, Scratch, Server, ServerConfig, copy_tree, is_soak, overlay_tree, poll, try_get,
};

/// Clients at a time: they wait for their answers as often as they work.
const SIDE_BY_SIDE: usize = 8;
/// How long a server may take to say what it thinks of a second generation.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rows that share a server; it has four repositories for each.
const ROWS: usize = 30;

/// Which repository a client was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// The origin itself.
    Straight,
    /// Through a server that reads the origin's tree, or asks the origin.
    Tree,
    Upstream,
    /// The same, and the defect came with a second generation.
    TreeAfterGood,
    UpstreamAfterGood,
}

impl Way {
    /// What the server calls the repository.
    fn suffix(self) -> &'static str {
        match self {
            Self::Straight => "",
            Self::Tree => ".tree",
            Self::Upstream => ".upstream",
            Self::TreeAfterGood => ".tree-2",
            Self::UpstreamAfterGood => ".upstream-2",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Straight => "straight",
            Self::Tree => "tree",
            Self::Upstream => "upstream",
            Self::TreeAfterGood => "tree, after a good one",
            Self::UpstreamAfterGood => "upstream, after a good one",
        }
    }
}

/// When a row is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    First,
    AfterGood,
}

/// How a row is looked at by itself.
pub const FIRST: [Way; 2] = [Way::Tree, Way::Upstream];
/// How a row is looked at where there was a good one before.
pub const AFTER_GOOD: [Way; 2] = [Way::TreeAfterGood, Way::UpstreamAfterGood];

/// Both of two ways in the long form; else one of them, by turns of two rows.
fn some(ways: [Way; 2], at: usize) -> Vec<Way> {
    if is_soak() { ways.to_vec() } else { vec![ways[at / 2 % 2]] }
}

/// By the row's place, the client and the way.
pub type Results = BTreeMap<(usize, Client, Way), Seen>;

/// The rows with their repositories written, and servers over all of them.
#[derive(Debug)]
pub struct Table<'a> {
    rows: &'a [Row],
    kit: Kit,
    scratch: &'a Scratch,
    /// What the page says that clients make of rows straight from the origin.
    known: BTreeMap<(Client, String), Outcome>,
    /// One for each [`ROWS`] rows, with the folder that its configuration is in.
    servers: Vec<(Scratch, Server)>,
}

impl<'a> Table<'a> {
    pub fn start(scratch: &'a Scratch, rows: &'a [Row]) -> Self {
        let kit = Kit::new(scratch);
        let mut table = Self { rows, kit, scratch, known: page::known(), servers: Vec::new() };
        // All good ones of a kind are alike.
        let mut good: BTreeMap<String, Files> = BTreeMap::new();
        for row in rows {
            good.entry(kind(row)).or_insert_with(|| row.good(&table.kit, 1));
        }
        each(rows, |row| table.prepare(row, &good[&kind(row)]));
        table.servers = std::thread::scope(|scope| {
            let started: Vec<_> = rows.chunks(ROWS).map(|rows| scope.spawn(|| table.serve(rows))).collect();
            started.into_iter().map(|server| server.join().expect("a server starts")).collect()
        });
        table
    }

    /// Writes a row's repositories: one with the defect, and a good one.
    fn prepare(&self, row: &Row, good: &Files) {
        let name = &row.name;
        let bad = row.bad(&self.kit, 1, &self.url_of(name));
        for (name, files) in [(name, &bad), (&format!("{name}.good"), good)] {
            let root = self.kit.root.join(name);
            std::fs::create_dir_all(&root).expect("the scratch folder is writable");
            write(&root, files);
            // Of its own, since a server may mind what it finds beside its tree.
            copy_tree(&root, &self.tree_of(name));
        }
    }

    fn url_of(&self, name: &str) -> String {
        self.kit.origin.url(&format!("{name}/"))
    }

    fn tree_of(&self, name: &str) -> PathBuf {
        self.scratch.path("trees").join(name)
    }

    fn serve(&self, rows: &[Row]) -> (Scratch, Server) {
        let mut config = ServerConfig::default();
        for row in rows {
            let (bad, good) = (&row.name, &format!("{}.good", row.name));
            for (name, tree, upstream) in
                [(bad, Way::Tree, Way::Upstream), (good, Way::TreeAfterGood, Way::UpstreamAfterGood)]
            {
                let (distro, more) = (distro(row), more(row, &self.kit, tree));
                config = config.tree(&(row.name.clone() + tree.suffix()), distro, &self.tree_of(name), &more);
                let (named, url) = (row.name.clone() + upstream.suffix(), self.url_of(name));
                config = config.upstream(&named, distro, url.trim_end_matches('/'), &more);
            }
        }
        let scratch = Scratch::new();
        let file = config.write(&scratch);
        let mut command = Command::new(BINARY);
        command.arg("serve").arg("--config").arg(&file).args(["--log", "info", "--log-format", "json"]);
        let server = Server::start_command(&mut command, &file);
        (scratch, server)
    }

    fn server(&self, at: usize) -> &Server {
        &self.servers[at / ROWS].1
    }

    /// Every row by itself, then, of those that no client takes, as a second generation after a good one.
    pub fn run(&self) -> Results {
        let mut jobs = Vec::new();
        for (at, row) in self.rows.iter().enumerate() {
            let straight = [Way::Straight].into_iter().filter(|_| self.is_measured(at));
            let by_itself = some(FIRST, at).into_iter().filter(|_| self.is_seen(at, Round::First));
            let ways = straight.chain(by_itself);
            jobs.extend(ways.flat_map(|way| row.clients().iter().map(move |client| (at, *client, way))));
        }
        // The slow ones begin first.
        jobs.sort_by_key(|(_, client, way)| (*client == Client::Apt, *way));
        let results = Mutex::new(Results::new());
        each(&jobs, |job| self.see(*job, &results));
        let is_refused = |at: &usize| self.is_refused(&results.lock().expect("no thread panics"), *at);
        let is_seen = |at: &usize| self.is_seen(*at, Round::AfterGood);
        let refused: Vec<usize> = (0..self.rows.len()).filter(is_refused).filter(is_seen).collect();
        each(&refused, |at| self.see_after_good(*at, &results));
        results.into_inner().expect("no thread panics")
    }

    /// Whether clients are asked what they make of the row straight from the origin. In the short form a third of the
    /// rows is: what the page says of the others was measured with the same clients.
    fn is_measured(&self, at: usize) -> bool {
        is_soak()
            || at.is_multiple_of(3)
            || !self.known.contains_key(&self.key(at, self.rows[at].clients()[0]))
    }

    /// Whether a row is looked at in this round. In the short form every other one of those that no client takes, as far
    /// as is known, is looked at by itself, and the others after a good one.
    fn is_seen(&self, at: usize, round: Round) -> bool {
        let row = &self.rows[at];
        let refuses = |client: &Client| self.known.get(&self.key(at, *client)) == Some(&Outcome::Refuses);
        let is_known = row.reach == Reach::Generation && row.clients().iter().all(refuses);
        is_soak() || !is_known || (round == Round::First) == at.is_multiple_of(2)
    }

    fn key(&self, at: usize, client: Client) -> (Client, String) {
        (client, self.rows[at].defect.clone())
    }

    /// What a client makes of a row straight from the origin.
    pub fn straight(&self, results: &Results, at: usize, client: Client) -> Outcome {
        let measured = results.get(&(at, client, Way::Straight)).map(|seen| seen.outcome);
        measured.unwrap_or_else(|| self.known[&self.key(at, client)])
    }

    /// Clients that make something else of a row than the page says.
    pub fn changed(&self, results: &Results) -> Vec<String> {
        let straight = results.iter().filter(|((_, _, way), _)| *way == Way::Straight);
        let is_other = |((at, client, _), seen): &(&(usize, Client, Way), &Seen)| {
            self.known.get(&self.key(*at, *client)).is_some_and(|known| *known != seen.outcome)
        };
        let told = |((at, client, _), seen): (&(usize, Client, Way), &Seen)| {
            format!(
                "{}: {} {}, which the page does not say",
                self.rows[*at].name,
                client.name(),
                seen.outcome
            )
        };
        straight.filter(is_other).map(told).collect()
    }

    /// Whether no client gets anything of the generation. One that is signed by a key that has expired has no good
    /// one before it.
    fn is_refused(&self, results: &Results, at: usize) -> bool {
        let row = &self.rows[at];
        row.reach == Reach::Generation
            && row.trust != Trust::ExpiredKey
            && row.clients().iter().all(|client| self.straight(results, at, *client) == Outcome::Refuses)
    }

    fn see(&self, job: (usize, Client, Way), results: &Mutex<Results>) {
        let (at, client, way) = job;
        let row = &self.rows[at];
        let url = match way {
            Way::Straight => self.kit.origin.url(&row.name),
            way => self.server(at).url(&(row.name.clone() + way.suffix())),
        };
        let seen = row.see(&self.kit, client, &url);
        println!("{:40} {:8} {:28} {}", row.name, client.name(), way.name(), seen.outcome);
        results.lock().expect("no thread panics").insert(job, seen);
    }

    /// A client reads the good generation, so that the server knows what clients rely on; then the defect comes. What
    /// the server makes of it is looked at within the time for which it holds a generation back.
    fn see_after_good(&self, at: usize, results: &Mutex<Results>) {
        let row = &self.rows[at];
        let ways = some(AFTER_GOOD, at);
        for way in &ways {
            let url = self.server(at).url(&(row.name.clone() + way.suffix()));
            let seen = row.see(&self.kit, row.clients()[0], &url);
            assert!(!seen.outcome.differs(Outcome::Works), "{}: a good one: {}", row.name, seen.said);
        }
        self.publish(row);
        for way in ways {
            self.wait_looked(self.server(at), &(row.name.clone() + way.suffix()));
            row.clients().iter().for_each(|client| self.see((at, *client, way), results));
        }
    }

    /// Publishes the defect over the good generation.
    fn publish(&self, row: &Row) {
        let name = format!("{}.good", row.name);
        let next = self.scratch.path("next").join(&row.name);
        std::fs::create_dir_all(&next).expect("the scratch folder is writable");
        write(&next, &row.bad(&self.kit, 2, &self.url_of(&name)));
        for root in [self.kit.root.join(&name), self.tree_of(&name)] {
            overlay_tree(&next, &root);
        }
    }

    /// Waits until the server has said what it thinks of a second generation.
    fn wait_looked(&self, server: &Server, repo: &str) {
        let is_verdict = |line: &String| {
            let fields: Value = serde_json::from_str(line).unwrap_or_default();
            let fields = &fields["fields"];
            let is_kept = fields["message"] == "keeping the last good generation";
            fields["repo"] == repo && (is_kept || fields["generation"].as_u64() > Some(1))
        };
        let told = poll(PATIENCE, || {
            // A client that asks makes it look.
            for root in ["dists/stable/InRelease", "InRelease", "repodata/repomd.xml"] {
                let _ = try_get(&server.url(&format!("{repo}/{root}")));
            }
            server.process.lines().iter().any(is_verdict).then_some(())
        });
        assert!(told.is_some(), "{repo}: the server said nothing of a second generation");
    }
}

/// Does this with all of them, some at a time.
fn each<T: Sync>(all: &[T], act: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::SeqCst)) {
                    act(one);
                }
            });
        }
    });
}

/// Which good repository is a row's.
fn kind(row: &Row) -> String {
    format!("{:?} {:?}", row.spoil, row.trust)
}

fn distro(row: &Row) -> &'static str {
    if row.is_rpm() { "generic-rpm" } else { "generic-deb" }
}

/// Lines of the repository's configuration.
fn more(row: &Row, kit: &Kit, way: Way) -> String {
    let suites = match &row.spoil {
        super::Spoil::Deb(_) => "suites = [\"stable\"]",
        _ => "suites = [\"./\"]",
    };
    let keyring = match row.key(kit) {
        Some(key) if row.trust != Trust::Blind => format!("keyring = {:?}\n", key.display().to_string()),
        _ => String::new(),
    };
    // Three polls are what a generation is held back for: a minute, in which the clients have had their look.
    let poll = if AFTER_GOOD.contains(&way) { "poll_secs = 20\n" } else { "" };
    format!("{suites}\n{keyring}{poll}{}", row.serve)
}
