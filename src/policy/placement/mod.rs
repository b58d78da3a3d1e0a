//! Which volunteers should hold what: orders to fetch and to drop, within their budgets.

pub(super) mod budget;
pub(super) mod evict;
pub(super) mod lint;
pub(super) mod placer;
pub(super) mod rings;
pub(super) mod scene;
