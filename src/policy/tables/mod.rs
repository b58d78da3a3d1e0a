//! Compact tables that know nothing of decisions: blobs to values, blobs to holders, hashes.

pub(super) mod buckets;
pub(super) mod hash;
pub(super) mod holdings;
pub(super) mod shelves;
