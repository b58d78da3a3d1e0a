//! What the server does when another process takes over, or fails to.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use super::open_repos;
use super::packages::passed;
use super::state::Server;
use super::volunteers::popularity;
use crate::io::config_file::read_serve_config;
use crate::io::handover::Role;

/// A server and its configuration file.
#[derive(Debug)]
pub struct Reload {
    pub server: Arc<Server>,
    pub config: PathBuf,
}

impl Role for Reload {
    fn check(&self) -> Result<(), String> {
        let checked = read_serve_config(&self.config).map_err(anyhow::Error::from);
        checked.and_then(|config| open_repos(&config)).map(drop).map_err(|e| format!("{e:#}"))
    }

    fn let_go(&self) {
        let Server { config, packages, metadata, indexes, db, .. } = &*self.server;
        self.server.fleet.keep_holdings(&config.state_dir);
        popularity::write(&self.server);
        packages.store.save_use();
        packages.store.leave();
        metadata.store.leave();
        indexes.lock().unwrap_or_else(PoisonError::into_inner).is_left = true;
        if let Err(e) = self.server.trees.save() {
            tracing::warn!(error = %e, "cannot save the digests of local trees");
        }
        passed::save(&self.server);
        // Last: whoever opens it takes the rest as given.
        db.close();
    }

    fn take_back(&self) -> Result<(), String> {
        let Server { packages, metadata, indexes, db, .. } = &*self.server;
        db.reopen().map_err(|e| e.to_string())?;
        for store in [&packages.store, &metadata.store] {
            store.take_back().map_err(|e| e.to_string())?;
        }
        indexes.lock().unwrap_or_else(PoisonError::into_inner).is_left = false;
        Ok(())
    }

    fn probe(&self) {
        self.server.fleet.wait_for_policy();
    }
}
