//! What is known of each volunteer, and of all of them together: sessions, holdings, conduct, running uploads, orders.

pub(super) mod capacity;
pub(super) mod ledger;
pub(super) mod node;
pub(super) mod orders;
pub(super) mod position;
pub(super) mod resume;
pub(super) mod roster;
pub(super) mod stability;
pub(super) mod standing;
pub(super) mod tracker;
