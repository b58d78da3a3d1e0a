//! What the server has told this volunteer about itself, for its administrator. No decision depends on it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::io::clock;
use crate::model::{OrdersStatus, Seen, Time};

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Told(Mutex<Words>);

/// What the status shows.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// When the session began.
    pub joined: Option<Time>,
    /// Why there is no session.
    pub problem: Option<String>,
    /// How the server sees it in this session.
    pub seen: Option<Seen>,
    pub orders: OrdersStatus,
}

impl Told {
    pub fn joined(&self) {
        let mut words = self.lock();
        (words.joined, words.problem, words.seen) = (Some(clock::now()), None, None);
    }

    /// The session has ended, or none came about.
    pub fn parted(&self, problem: Option<String>) {
        let mut words = self.lock();
        (words.joined, words.problem, words.seen) = (None, problem, None);
    }

    pub fn seen(&self, seen: Seen) {
        self.lock().seen = Some(seen);
    }

    pub fn ordered(&self) {
        self.lock().orders.open += 1;
    }

    /// An order was carried out, or could not be.
    pub fn carried_out(&self, problem: Option<&str>) {
        let orders = &mut self.lock().orders;
        orders.open = orders.open.saturating_sub(1);
        match problem {
            None => orders.done += 1,
            Some(problem) => {
                orders.failed += 1;
                orders.last_problem = Some(problem.to_owned());
            }
        }
    }

    pub fn words(&self) -> Words {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Words> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
