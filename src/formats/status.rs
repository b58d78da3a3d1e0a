//! The status report of a server: what the admin API answers and `manyhands status --json` prints.
//!
//! Sizes are bytes, rates bytes per second. `..._secs` is a duration; a time of day is in seconds since 1970, and its
//! name says so (`..._unix_secs`) unless it can be nothing else: `date`, `valid_until`, `adopted`, `waits_until`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::{BlobId, VolunteerId};

/// Where the admin listener has the status, and the report on identical files.
pub const STATUS_PATH: &str = "/api/v1/status";
pub const DEDUP_PATH: &str = "/api/v1/dedup";
/// Where it says why a request goes where it goes: `?client=ADDRESS&path=/REPO/PATH`.
pub const WHY_PATH: &str = "/api/v1/why";

/// Where a client's request for a package would go now, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Why {
    pub client: IpAddr,
    pub repo: String,
    pub path: String,
    pub sha256: BlobId,
    pub size: u64,
    /// Whether the client was taken for one that can turn elsewhere when its volunteer fails.
    pub can_return: bool,
    /// Why the server would serve it itself.
    pub origin: Option<String>,
    /// The file's holders, in the order in which they would be chosen; those left out last.
    pub holders: Vec<WhyHolder>,
    /// Where programs at the client's address were sent for the file within the last minute: each is sent elsewhere
    /// when it asks again.
    #[serde(default)]
    pub asked_before: Vec<WhyAsked>,
}

/// One program's recent requests for the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WhyAsked {
    /// The last one last.
    pub sent_to: Vec<VolunteerId>,
    pub secs_ago: u64,
    /// It asked so often that it is taken for many behind one address: no request counts as a second try.
    pub is_crowd: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WhyHolder {
    pub id: VolunteerId,
    pub state: String,
    /// Why it is not considered.
    pub excluded: Option<String>,
    /// What the server's last test found wrong.
    pub problem: Option<String>,
    /// One more download would get less than its minimum share.
    pub is_saturated: bool,
    /// The server is at leisure, and so much faster that it serves itself.
    #[serde(default)]
    pub is_slow: bool,
    /// It is fetching the file, and passes on what it has.
    #[serde(default)]
    pub is_arriving: bool,
    /// Time to the end of this download and the delay it inflicts on others, estimated.
    pub cost_ms: f64,
    pub rate: u64,
    pub in_flight: u64,
    /// How long it is trusted to stay.
    #[serde(default)]
    pub stability: String,
}

/// Which files are identical, within and between repositories. Identical by SHA-256: files whose metadata
/// gives another digest count once their bytes were hashed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DedupReport {
    /// Files of this size and more are large.
    pub large_from_bytes: u64,
    /// Every path of every repository.
    pub paths: DedupCount,
    /// Distinct contents over all of them: what is stored and fetched.
    pub blobs: DedupCount,
    /// Distinct contents of each repository, in the order of the configuration.
    pub repos: Vec<(String, DedupCount)>,
    /// Contents that two repositories both have; pairs that share nothing are left out.
    pub pairs: Vec<DedupPair>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DedupCount {
    pub files: u64,
    pub bytes: u64,
    pub large_files: u64,
    pub large_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DedupPair {
    pub repos: [String; 2],
    pub identical: DedupCount,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: String,
    pub uptime_secs: u64,
    pub snapshots: Vec<SnapshotStatus>,
    pub catalog: CatalogStatus,
    pub cache: CacheStatus,
    pub trees: TreesStatus,
    pub volunteers: Vec<VolunteerStatus>,
    pub offload: OffloadStatus,
    /// Flash crowds that run, then the last ones that ended, newest first.
    pub crowds: Vec<CrowdStatus>,
}

/// Local trees: their files are read before they are served.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TreesStatus {
    /// Files and bytes read since the start, to know what they hold.
    pub read_files: u64,
    pub read_bytes: u64,
}

/// A flash crowd: many who want the same file, or files of the same release, at once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CrowdStatus {
    /// Counts from 1 since the server started.
    pub number: u64,
    /// A path of the file, or the release's name.
    pub what: String,
    pub is_over: bool,
    pub began_unix_secs: u64,
    /// What the figures below are of: the time since the last line in the log, or the whole of one that is over.
    pub span_secs: f64,
    pub requests: u64,
    /// Over the span, of the busiest slot, and as expected without a crowd.
    pub requests_per_sec: f64,
    pub peak_requests_per_sec: f64,
    pub usual_requests_per_sec: f64,
    /// Requests still to come, if it is like others.
    pub forecast_requests: u64,
    /// Bytes of the requests that volunteers were chosen for, and of those left to the server.
    pub redirected_bytes: u64,
    pub origin_bytes: u64,
    /// redirected / (redirected + origin).
    pub ratio: f64,
    /// Downloads of a file that run now.
    pub downloads_running: u64,
    /// What half and nine of ten of the downloads had at least that ended within the span, as their senders say.
    pub download_p50_bytes_per_sec: Option<u64>,
    pub download_p90_bytes_per_sec: Option<u64>,
    pub volunteers: u64,
}

/// A file of a unit's metadata that the origin does not have as the metadata says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FlawStatus {
    /// A package list without its compression suffix, a kind of rpm-md metadata, or a path.
    pub member: String,
    pub reason: String,
    pub since_unix_secs: u64,
}

/// The current generation of one unit of a repository; generation 0 is none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotStatus {
    pub repo: String,
    /// `dists/stable`, the directory of a `repodata/`, ...
    pub unit: String,
    pub kind: String,
    pub generation: u64,
    pub date: Option<u64>,
    pub valid_until: Option<u64>,
    /// When this generation was adopted.
    pub adopted: Option<u64>,
    pub paths: u64,
    /// Entries of the metadata that were unusable.
    pub skipped: u64,
    /// Why the first of them was.
    pub first_skipped: Option<String>,
    /// Oddities of the metadata that is served nevertheless: a file and what is odd about it.
    pub warnings: Vec<String>,
    /// Why the last look at the origin brought nothing.
    pub problem: Option<String>,
    /// Files of its metadata that the origin has wrong or not at all: requests for these fail.
    pub flaws: Vec<FlawStatus>,
    /// The next generation is whole, and waits for so many copies of its hot files until then at the latest.
    pub waits_for_copies: Option<u64>,
    pub waits_until: Option<u64>,
}

/// Names and blobs over all repositories.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CatalogStatus {
    pub paths: u64,
    pub blobs: u64,
    pub bytes: u64,
    pub blob_bytes: u64,
    /// What one blob for several names saves.
    pub saved_bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheStatus {
    pub blobs: u64,
    pub bytes: u64,
    pub max_bytes: u64,
    pub upstream_fetches: u64,
    pub upstream_bytes: u64,
    /// Kept packages and metadata that were reread and found right, since the start.
    pub scrubbed_blobs: u64,
    /// Those found altered or unreadable, and removed.
    pub bad_blobs: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolunteerStatus {
    pub id: VolunteerId,
    pub address: String,
    pub state: String,
    pub holdings: u64,
    /// Fetch orders not yet reported on.
    pub orders: u64,
    /// Running uploads, as the volunteer reported them.
    pub uploads: u32,
    /// Downloads that the server's own ledger counts as running.
    pub in_flight: u64,
    /// Estimated upload rate, and what it donates.
    pub rate: u64,
    pub donate: u64,
    /// Package bytes that it sent to clients since its process started, as it reported: each time anew, as it hands
    /// them to its system, whether or not they arrive.
    pub served_bytes: u64,
    /// The part of `served_bytes` that went to this server's own tests, which look like clients.
    #[serde(default)]
    pub tested_bytes: u64,
    pub served_requests: u64,
    pub redirected_bytes: u64,
    /// When it last sent a heartbeat.
    #[serde(default)]
    pub last_report_unix_secs: u64,
    /// What the server's last test found wrong.
    #[serde(default)]
    pub problem: Option<String>,
    /// It went away without a word recently: only clients that can turn elsewhere are sent there.
    #[serde(default)]
    pub is_volatile: bool,
    /// Clients that asked again for what it should have sent.
    #[serde(default)]
    pub complaints: u64,
    /// Package bytes sent to other volunteers, and uploads to them that run now, as the volunteer reported.
    #[serde(default)]
    pub sync_bytes: u64,
    #[serde(default)]
    pub sync_uploads: u64,
    /// Bytes that it fetched on order, from other volunteers and from the server, as it reported.
    #[serde(default)]
    pub peer_bytes: u64,
    #[serde(default)]
    pub fetched_bytes: u64,
    /// Bytes in its store, as it reported, and the most that it keeps there. Adopted files are not in it.
    #[serde(default)]
    pub store_bytes: u64,
    #[serde(default)]
    pub max_size: u64,
    /// Holdings that are files of adopted trees.
    #[serde(default)]
    pub adopted_holdings: u64,
}

/// Package bytes by who carries them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OffloadStatus {
    /// Bytes of the downloads that were redirected to volunteers.
    pub redirected_bytes: u64,
    /// Package bytes that the server sent to clients.
    pub served_bytes: u64,
    /// redirected / (redirected + served).
    pub ratio: f64,
    pub redirects: u64,
    /// Redirected requests that came to the server after all, under the volunteer's name in the failover zone.
    pub failovers: u64,
    pub served_requests: u64,
    pub metadata_bytes: u64,
    /// Package bytes that the server sent to volunteers.
    pub sync_bytes: u64,
    /// Package bytes that volunteers fetched from each other, as they reported.
    pub peer_bytes: u64,
    /// Bytes of files that no metadata names, passed through.
    pub passed_bytes: u64,
    /// Bytes to clients through tunnels.
    pub tunnel_bytes: u64,
}
