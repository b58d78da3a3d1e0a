//! The volunteers: who they are, what they hold, what they are told.
//!
//! [`control`] lets them join and [`session`] talks with each, [`orders`] are what they are told, [`probe`] tests
//! them and [`standing`] keeps what the tests showed. [`holdings`] keeps what they have announced for the next
//! process, [`popularity`] what is asked for. [`zone`] answers under the names that the server's DNS gives them.

pub mod control;
pub mod holdings;
pub mod orders;
pub mod popularity;
pub mod probe;
pub mod session;
pub mod standing;
pub mod zone;
