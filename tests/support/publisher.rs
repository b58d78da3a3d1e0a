//! A mirror's tree that changes all the time, in the orders that hurt most.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::generation::{self, Generation, Part, Piece, Signer};

/// From the beginning of one generation to that of the next.
const PERIOD: Duration = Duration::from_millis(500);
/// Between the files of a slow copy.
const DRIP: Duration = Duration::from_millis(15);
/// Packages stay this many generations: a client that has just read a list may fetch what it names, and a
/// server may keep a generation for a minute while the mirror is never whole.
const PACKAGES_KEPT: u32 = 150;

/// How a generation reaches the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As it should be: members, then roots; old members stay where a new one has not their name.
    Kept,
    /// Members, then roots; old members go at once.
    MembersFirst,
    /// Roots first; what they name comes later.
    RootsFirst,
    /// File after file by name, each written in place in two halves, with pauses.
    Slow,
    /// InRelease and repomd.xml long before Release and the detached signatures.
    RootBeforeSecond,
    /// The old members go before anything new comes.
    DeleteFirst,
}

/// A well-kept mirror.
pub const GENTLE: &[Order] = &[Order::Kept];
/// One generation each.
pub const HOSTILE: &[Order] =
    &[Order::MembersFirst, Order::RootsFirst, Order::Slow, Order::RootBeforeSecond, Order::DeleteFirst];

/// Publishes until it is dropped.
#[derive(Debug)]
pub struct Publisher {
    newest: Arc<AtomicU32>,
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    /// Publishes generation 1 whole, then the next ones beside the caller.
    pub fn start(tree: &Path, signer: Signer, by_hash: bool, orders: &'static [Order]) -> Self {
        let (stop, stopped) = sync_channel(1);
        let newest = Arc::new(AtomicU32::new(1));
        let mut tree = Tree { root: tree.to_owned(), stopped, members: Vec::new() };
        tree.publish(&generation::make(&signer, 1, by_hash), Order::MembersFirst);
        let shared = Arc::clone(&newest);
        let run = move || {
            for number in 2.. {
                let begin = Instant::now();
                let next = generation::make(&signer, number, by_hash);
                tree.publish(&next, orders[number as usize % orders.len()]);
                shared.store(number, Ordering::SeqCst);
                if !tree.pause(PERIOD.saturating_sub(begin.elapsed())) {
                    return;
                }
            }
        };
        Self { newest, stop: Some(stop), thread: Some(std::thread::spawn(run)) }
    }

    /// The last generation that is published whole.
    pub fn newest(&self) -> u32 {
        self.newest.load(Ordering::SeqCst)
    }

    /// Ends with a whole generation in the tree; its number.
    pub fn finish(mut self) -> u32 {
        self.end();
        self.newest()
    }

    fn end(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A failure of its thread shows as generations that do not come.
            let _ = thread.join();
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.end();
    }
}

struct Tree {
    root: PathBuf,
    stopped: Receiver<()>,
    /// What the newest generation consists of besides packages.
    members: Vec<String>,
}

impl Tree {
    /// False when the publisher is to end.
    fn pause(&self, time: Duration) -> bool {
        self.stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
    }

    fn publish(&mut self, next: &Generation, order: Order) {
        let members: Vec<String> =
            next.pieces.iter().filter(|p| p.part == Part::Member).map(|p| p.path.clone()).collect();
        let old = std::mem::replace(&mut self.members, members);
        self.put(next, &[Part::Package]);
        let roots = [Part::Root, Part::SecondRoot];
        match order {
            Order::Kept | Order::MembersFirst => {
                self.put(next, &[Part::Member]);
                self.put(next, &roots);
                if order == Order::MembersFirst {
                    self.delete(&old);
                }
            }
            Order::RootsFirst => {
                self.put(next, &roots);
                self.pause(5 * DRIP);
                self.put(next, &[Part::Member]);
                self.delete(&old);
            }
            Order::Slow => {
                let mut pieces: Vec<&Piece> =
                    next.pieces.iter().filter(|p| p.part != Part::Package).collect();
                pieces.sort_by(|a, b| a.path.cmp(&b.path));
                for piece in pieces {
                    self.drip(piece);
                }
                self.delete(&old);
            }
            Order::RootBeforeSecond => {
                self.put(next, &[Part::Member]);
                self.put(next, &[Part::Root]);
                self.delete(&old);
                self.pause(10 * DRIP);
                self.put(next, &[Part::SecondRoot]);
            }
            Order::DeleteFirst => {
                self.delete(&old);
                self.pause(5 * DRIP);
                self.put(next, &roots);
                self.put(next, &[Part::Member]);
            }
        }
        self.expire(next.number);
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().expect("a file has a folder"))
            .expect("the scratch folder is writable");
        path
    }

    /// A reader sees the old file or the new one.
    fn put(&self, next: &Generation, parts: &[Part]) {
        for piece in next.pieces.iter().filter(|piece| parts.contains(&piece.part)) {
            let path = self.path(&piece.path);
            let temporary = path.with_extension("tmp-copy");
            fs::write(&temporary, &piece.bytes)
                .and_then(|()| fs::rename(&temporary, &path))
                .expect("the scratch folder is writable");
        }
    }

    /// A reader may see half of the file.
    fn drip(&self, piece: &Piece) {
        use std::io::Write;
        let (first, second) = piece.bytes.split_at(piece.bytes.len() / 2);
        let mut file = fs::File::create(self.path(&piece.path)).expect("the scratch folder is writable");
        file.write_all(first).expect("the scratch folder is writable");
        self.pause(DRIP);
        file.write_all(second).expect("the scratch folder is writable");
    }

    fn delete(&self, old: &[String]) {
        for name in old.iter().filter(|name| !self.members.contains(name)) {
            // A name without hash has been overwritten, and is in both.
            let _ = fs::remove_file(self.root.join(name));
        }
    }

    /// Packages of long ago.
    fn expire(&self, number: u32) {
        let Some(gone) = number.checked_sub(PACKAGES_KEPT) else { return };
        for component in generation::COMPONENTS {
            for name in [
                format!("apt/pool/hands-{component}_{gone}_all.deb"),
                format!("rpm/Packages/hands-{component}-{gone}-1.noarch.rpm"),
            ] {
                let _ = fs::remove_file(self.root.join(name));
            }
        }
    }
}
