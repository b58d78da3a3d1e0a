//! Errors in metadata that cannot be read or must not be shown.

use crate::formats::FormatError;

/// Why metadata is refused. The unit's last good generation stays.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error("{path}: {source}")]
    Format { path: String, source: FormatError },
    #[error("{path}: {problem}")]
    Member { path: String, problem: String },
    #[error("{path}, decompressed: {problem}")]
    Opened { path: String, problem: String },
    #[error("clients would refuse what they accept now: {problem}")]
    Refused { problem: String },
    #[error("{dir}: neither InRelease nor Release is there")]
    NoRelease { dir: String },
    #[error("{dir}: InRelease and Release are of different generations")]
    Mixed { dir: String },
    #[error("{dir}: repomd.xml is missing")]
    NoRepomd { dir: String },
    #[error("{dir}: no checksum file is there")]
    NoChecksums { dir: String },
}
