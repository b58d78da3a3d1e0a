//! Metadata: repositories, their snapshots, and what these name.
//!
//! A [`repo`] shows one snapshot at a time. [`refresh`] brings new generations in from an [`origin`], [`records`]
//! brings them back after a restart, [`ranks`] tells the stores what they still name. [`answer`] sends a client a
//! member; [`pins`] keep each client within one generation, [`nested`] reads members that are indexes themselves.
//! [`listing`] shows directories to crawlers, from a
//! [`listing_cache`]. A [`validator`] tells whether an upstream's file has changed.

pub mod answer;
pub mod listing;
pub mod listing_cache;
pub mod nested;
pub mod origin;
pub mod pins;
pub mod ranks;
pub mod records;
pub mod refresh;
pub mod repo;
pub mod validator;
