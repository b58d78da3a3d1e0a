//! Messages between server and volunteer over the control connection (a WebSocket, RFC 6455).
//!
//! Text messages are JSON values of the enums here. Holdings travel as binary messages: one operation byte
//! and whole SHA-256 digests, 32 bytes each, so that a million of them is 32 MB and not 70. Unknown JSON
//! fields are ignored, so that either side may be newer; a changed meaning needs a new [`PROTOCOL`].

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{Blob, BlobId, Pieces, Rate, Size, VolunteerId};

/// Copies that a volunteer sends to others at a time; further requests are redirected to the server.
pub const MAX_SYNC_UPLOADS: usize = 8;

/// Version of this protocol, sent in the hello.
pub const PROTOCOL: u32 = 1;
/// Where the server accepts control connections.
pub const SESSION_PATH: &str = "/_mh/v1/session";
/// Where a volunteer asks which of its files the catalog knows.
pub const MATCH_PATH: &str = "/_mh/v1/match";
/// Where `manyhands verify` asks what the server knows of a file.
pub const LOOKUP_PATH: &str = "/_mh/v1/lookup";
/// Header with which a volunteer shows the server that it fetches on order: its id and a ticket path of its own,
/// signed for size 0. Other volunteers are told its id alone, which they cannot check: it makes them send more
/// slowly, never faster.
pub const SYNC_HEADER: &str = "x-manyhands-sync";
/// Largest control message: bounds what either side buffers for the other.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Digests in one holdings message, so that it stays below [`MAX_MESSAGE`].
pub const MAX_HOLDINGS: usize = 16_384;
/// Files in one match or lookup request.
pub const MAX_BATCH: usize = 1000;
/// Running uploads listed in a report; the busiest volunteer only summarises the rest.
pub const MAX_UPLOADS: usize = 256;
/// Downloads named in one report that ended: a sample of them.
pub const MAX_ENDED: usize = 64;
/// Orders that a volunteer carries out at a time; the rest wait.
pub const MAX_FETCHES: usize = 4;
/// Other volunteers named as sources of one order. The server comes after them, and a fetch continues elsewhere five
/// times at most.
pub const MAX_SOURCES: usize = 4;
/// Longest URL of a source: a base URL has 255 characters, a ticket 120, a file name as many as file systems take.
pub const MAX_SOURCE_URL: usize = 1200;

/// Less is not worth a redirect.
pub const MIN_DONATE: Rate = Rate(128 << 10);
/// 100 Gbit/s: a volunteer that claims more would get every request, and dominate the fleet's mean.
pub const MAX_DONATE: Rate = Rate(12_500_000_000);

/// Networks that a volunteer may name.
pub const MAX_NETWORKS: usize = 64;
/// Where a volunteer answers whether it is the one that the server means: the path and a nonce.
pub const WHO_PATH: &str = "/_mh/v1/who/";

/// From a volunteer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToServer {
    Hello(Hello),
    Report(Report),
    Done {
        blob: BlobId,
        #[serde(default)]
        error: Option<String>,
        /// Those of its order's sources whose bytes were, or were part of, a wrong file. At most [`MAX_SOURCES`].
        #[serde(default)]
        bad: Vec<VolunteerId>,
    },
    /// Clean drain: no more redirects; running downloads finish here.
    Leaving,
}

/// The first message on a control connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    pub id: VolunteerId,
    pub version: String,
    /// Base URL that clients can reach; without it the server uses the peer address and `port`.
    #[serde(default)]
    pub advertise: Option<String>,
    pub port: u16,
    pub donate: Rate,
    pub max_size: Size,
    /// The only networks whose clients it serves; empty is all. At most [`MAX_NETWORKS`].
    #[serde(default)]
    pub clients: Vec<IpNet>,
    /// Drawn by each process, so that two with one identity are told apart.
    #[serde(default)]
    pub instance: u64,
    /// It comes and goes: send only clients there that can turn elsewhere.
    #[serde(default)]
    pub volatile: bool,
    /// Changes of holdings that it can repeat.
    #[serde(default)]
    pub journal: Option<JournalSpan>,
}

/// Changes of holdings are numbered. Those from `first` on can be repeated; `next` comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalSpan {
    /// A volunteer that has forgotten its numbers begins another journal.
    pub id: u64,
    pub first: u64,
    pub next: u64,
}

/// A heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Running uploads, and what is left of each; at most [`MAX_UPLOADS`] are listed.
    pub uploads: u32,
    pub remaining: Vec<Blob>,
    /// Package bytes sent to clients since the process started.
    pub served_bytes: u64,
    pub served_requests: u64,
    /// Requests answered with a redirect back to the server.
    pub returned_requests: u64,
    /// Bytes in the store. Adopted files are not in it: they do not count against `max_size`.
    pub store_bytes: u64,
    /// Files held, adopted ones included; and how many of them are adopted.
    pub holdings: u64,
    #[serde(default)]
    pub adopted: u64,
    /// All changes of holdings before this number of the journal have been announced.
    #[serde(default)]
    pub announced: Option<u64>,
    /// Package bytes sent to other volunteers since the process started; not part of `served_bytes`.
    #[serde(default)]
    pub sync_bytes: u64,
    /// What is left of the uploads to other volunteers that run now; at most [`MAX_UPLOADS`] are listed. Not part
    /// of `uploads`.
    #[serde(default)]
    pub sync_uploads: Vec<Blob>,
    /// Bytes fetched on order since the process started, from other volunteers and from the server.
    #[serde(default)]
    pub peer_bytes: u64,
    #[serde(default)]
    pub fetched_bytes: u64,
    /// A sample of the clients' downloads that ended as a whole since the last report; at most [`MAX_ENDED`].
    #[serde(default)]
    pub ended: Vec<Ended>,
}

/// How one download fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub blob: BlobId,
    /// From the answer to the last byte, as the sender saw it.
    pub bytes_per_sec: u64,
}

/// From the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToVolunteer {
    Welcome(Welcome),
    Fetch(FetchOrder),
    /// This copy is not needed any more: remove it from the store unless it is being read. Never from an
    /// adopted tree. Answered by a [`ToServer::Done`].
    Drop {
        blob: BlobId,
    },
    /// How much of the donated rate may go to other volunteers while clients download, in percent.
    SyncShare {
        percent: u8,
    },
    /// Why the server ends the session; the volunteer logs it and tries again later.
    Refused {
        reason: String,
    },
    /// The server's test of this volunteer gave another result than before: why it gets no clients, or
    /// nothing if it gets them again.
    Standing {
        problem: Option<String>,
    },
    /// The answer to [`ToServer::Leaving`]: how long ago a client was last sent here. No other will be.
    Farewell {
        #[serde(default)]
        last_redirect_secs_ago: Option<u64>,
    },
}

/// A file to fetch. Answered by a [`ToServer::Done`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FetchOrder {
    pub blob: Blob,
    pub file_name: String,
    /// Volunteers to ask before the server, in this order. At most [`MAX_SOURCES`] are asked.
    #[serde(default)]
    pub sources: Vec<PeerSource>,
    /// What other volunteers send is compared with these as it comes, and only then passed on; without them it is not
    /// passed on before the whole is verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pieces: Option<PieceDigests>,
}

/// A volunteer that holds what another one is to fetch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerSource {
    pub id: VolunteerId,
    /// Signed by the server with that volunteer's key. At most [`MAX_SOURCE_URL`] characters.
    pub url: String,
}

/// The SHA-256 digests of equal parts of a file; the last part may be shorter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PieceDigests {
    /// Bytes of each part.
    pub len: u64,
    pub sha256: Vec<BlobId>,
}

impl PieceDigests {
    /// As the digests themselves, if they are those of a file of this size and in parts as we cut them.
    pub fn of_size(&self, size: u64) -> Option<Vec<[u8; BlobId::LEN]>> {
        let is_ours =
            self.len == Pieces::len_for(size) && self.sha256.len() as u64 == size.div_ceil(self.len);
        is_ours.then(|| self.sha256.iter().map(|digest| digest.0).collect())
    }
}

impl From<Pieces> for PieceDigests {
    fn from(pieces: Pieces) -> Self {
        Self { len: pieces.len, sha256: pieces.sha256.into_iter().map(BlobId).collect() }
    }
}

/// The answer to a hello.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The key for tickets, hexadecimal.
    pub key: String,
    /// The server's clock, so that a wrong local clock does not void tickets.
    pub now_secs: u64,
    pub heartbeat_secs: u64,
    /// The number of the first change of holdings to announce; without it, everything that is held.
    #[serde(default)]
    pub announce_from: Option<u64>,
}

/// A change of holdings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldingsChange {
    Add,
    Remove,
}

/// Encodes digests; the caller splits at [`MAX_HOLDINGS`].
pub fn encode_holdings(change: HoldingsChange, blobs: &[BlobId]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + blobs.len() * BlobId::LEN);
    out.push(match change {
        HoldingsChange::Add => 1,
        HoldingsChange::Remove => 2,
    });
    for blob in blobs {
        out.extend_from_slice(&blob.0);
    }
    out
}

/// Reads a binary message; `None` if it is not one of ours.
pub fn decode_holdings(bytes: &[u8]) -> Option<(HoldingsChange, impl Iterator<Item = BlobId> + '_)> {
    let (operation, digests) = bytes.split_first()?;
    let change = match operation {
        1 => HoldingsChange::Add,
        2 => HoldingsChange::Remove,
        _ => return None,
    };
    let (digests, rest) = digests.as_chunks::<{ BlobId::LEN }>();
    (rest.is_empty() && digests.len() <= MAX_HOLDINGS).then(|| (change, digests.iter().copied().map(BlobId)))
}

/// A file of a tree that a volunteer wants to adopt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TreeFile {
    pub path: String,
    pub size: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatchRequest {
    pub files: Vec<TreeFile>,
}

/// One answer per file asked, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatchReply {
    pub blobs: Vec<Option<BlobId>>,
}

/// A local file, as `verify` describes it: what it is called and what it hashes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalFile {
    pub name: String,
    pub size: u64,
    pub sha1: String,
    pub sha256: BlobId,
    pub sha512: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LookupRequest {
    pub files: Vec<LocalFile>,
}

/// What the catalog knows of one local file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// These bytes are published, under this path.
    Good { path: String },
    /// The name is published, with other bytes.
    Differs { path: String, expected: String, size: Option<u64> },
    /// Neither name nor bytes are known.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LookupReply {
    pub files: Vec<Verdict>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holdings_round_trip_and_refusals() {
        let blobs = [BlobId([1; 32]), BlobId([2; 32])];
        let bytes = encode_holdings(HoldingsChange::Remove, &blobs);
        let (change, read) = decode_holdings(&bytes).expect("own form");
        assert_eq!((change, read.collect::<Vec<_>>()), (HoldingsChange::Remove, blobs.to_vec()));
        assert!(decode_holdings(&[]).is_none());
        assert!(decode_holdings(&[9]).is_none());
        assert!(decode_holdings(&bytes[..bytes.len() - 1]).is_none());
        assert!(
            decode_holdings(&encode_holdings(HoldingsChange::Add, &vec![blobs[0]; MAX_HOLDINGS + 1]))
                .is_none()
        );
        const { assert!(MAX_HOLDINGS * BlobId::LEN < MAX_MESSAGE) };
    }

    #[test]
    fn messages_are_tagged_json() {
        let json = serde_json::to_string(&ToServer::Leaving).expect("serialises");
        assert_eq!(json, r#"{"type":"leaving"}"#);
        let newer = r#"{"type":"refused","reason":"full","hint":"later"}"#;
        assert!(matches!(serde_json::from_str(newer), Ok(ToVolunteer::Refused { .. })));
    }
}
