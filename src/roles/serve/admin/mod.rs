//! The admin listener: what the server knows and does, for people and monitoring. It reads, and changes nothing.
//!
//! [`api`] has the routes, [`why`] explains a decision, [`crowds`] tells of bursts of demand and how they were met.

pub mod api;
pub mod crowds;
pub mod why;
