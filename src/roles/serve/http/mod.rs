//! The public listener: requests taken apart, and carried to the room that answers them.
//!
//! [`target`] says what a request asks for, [`route`] has it answered, [`connect`] opens tunnels for proxy clients.
//! [`request`] is what the other
//! parts need of a request, [`reply`] has answers that several give. [`access`] writes the access log, [`traffic`] counts what was sent. [`hints`] are how to point clients here.

pub(super) mod access;
pub(super) mod connect;
pub(super) mod hints;
pub(super) mod reply;
pub(super) mod request;
pub(super) mod route;
pub mod target;
pub(super) mod traffic;
