//! The volunteers: who they are, what they hold, what they are told.
//!
//! The [`fleet`] owns the policy and answers for it, [`dispatch`] carries its decisions out.
//! [`control`] lets them join and [`session`] talks with each, through [`sessions`] the rest of the server does; [`orders`] are what they are told, [`probe`] tests
//! them and [`standing`] keeps what the tests showed, [`status`] says how each is seen. [`holdings`] keeps what they have announced for the next
//! process, [`popularity`] what is asked for. [`enrolment`] says which token
//! may use which name. [`zone`] answers under the names that the server's DNS gives them, with [`failover`], which
//! remembers who was sent there.

pub mod control;
pub mod dispatch;
pub mod enrolment;
pub mod failover;
pub mod fleet;
pub mod holdings;
pub mod orders;
pub mod popularity;
pub mod probe;
pub mod session;
pub mod sessions;
pub mod standing;
pub mod status;
pub mod zone;
