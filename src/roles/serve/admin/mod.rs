//! The admin listener: what the server knows and does, for people and monitoring. It reads, and changes nothing.
//!
//! [`api`] has the routes, [`why`] explains a decision, [`crowds`] tells of bursts of demand and how they were met;
//! [`crowd_status`] keeps that for the status.

pub mod api;
pub mod crowd_status;
pub mod crowds;
pub mod why;
