//! The public listener: requests taken apart, and carried to the room that answers them.
//!
//! [`target`] says what a request asks for, [`route`] has it answered, [`connect`] opens tunnels for proxy clients.
//! [`access`] writes the access log, [`traffic`] counts what was sent. [`hints`] are how to point clients here.

pub(super) mod access;
pub(super) mod connect;
pub(super) mod hints;
pub(super) mod route;
pub mod target;
pub(super) mod traffic;
