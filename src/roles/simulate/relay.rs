//! Volunteers that pass on what they are still fetching.
//!
//! Whoever takes from one has the file when both have ended: the copy, and its own share of that volunteer's line. This
//! is kind where copies come more slowly than the line sends: what waits for them leaves its share to others, as if its
//! bytes had been sent before they were there.

use super::world::{NodeIndex, To, World};

impl World<'_> {
    /// Whether it is fetching the file and passes it on.
    pub fn relays(&self, node: NodeIndex, file: u32) -> bool {
        let is_of = |number: &u32| self.transfers.get(*number).is_some_and(|transfer| transfer.file == file);
        self.params.cut_through && self.is_up(node) && self.nodes[node as usize].fetching.iter().any(is_of)
    }

    /// A transfer has had its share of the line; what it lacks ends with the copy.
    pub fn passed_on(&mut self, number: u32, node: NodeIndex, file: u32) {
        if self.relays(node, file) {
            self.held.entry((node, file)).or_default().push(number);
        } else {
            self.lost(number);
        }
    }

    /// A copy has ended: those who wait for it have the file, or not.
    pub fn settle(&mut self, node: NodeIndex, file: u32) {
        if self.relays(node, file) {
            return;
        }
        let is_there = self.files.has(file, node);
        for number in self.held.remove(&(node, file)).unwrap_or_default() {
            let Some(&transfer) = self.transfers.get(number) else { continue };
            let has_left = match transfer.to {
                To::Volunteer { node, session } => {
                    !self.is_up(node) || self.nodes[node as usize].session != session
                }
                To::Client(_) => false,
            };
            if has_left {
                self.transfers.remove(number);
                self.account.wasted_copies += transfer.len;
            } else if is_there {
                self.transferred(number);
            } else {
                self.lost(number);
            }
        }
    }

    /// The copy never came whole: what was passed on of it is nothing.
    fn lost(&mut self, number: u32) {
        let Some(&transfer) = self.transfers.get(number) else { return };
        match transfer.to {
            To::Volunteer { node, .. } => self.copy_broken(number, 0.0, node),
            To::Client(client) => {
                self.transfers.remove(number);
                self.spoilt(client, &transfer);
            }
        }
    }

    /// The volunteer is gone, and with it what waited for its copies.
    pub fn drop_held(&mut self, node: NodeIndex) {
        let of_it: Vec<(NodeIndex, u32)> =
            self.held.range((node, 0)..=(node, u32::MAX)).map(|(key, _)| *key).collect();
        for key in of_it {
            for number in self.held.remove(&key).unwrap_or_default() {
                self.lost(number);
            }
        }
    }
}
