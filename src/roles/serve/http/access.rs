//! The access log: lines go through a bounded queue to one writing thread, so that a slow disk costs lines,
//! not requests.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Lines waiting for the disk.
const QUEUE: usize = 16_384;

/// See the module's documentation.
#[derive(Debug)]
pub struct AccessLog {
    lines: SyncSender<String>,
    lost: AtomicU64,
}

impl AccessLog {
    /// Opens the file for appending, so that rotation by copying and truncating works.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let file = File::options().append(true).create(true).open(path)?;
        let (lines, queue) = sync_channel(QUEUE);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write(&queue, file))?;
        Ok(Self { lines, lost: AtomicU64::new(0) })
    }

    pub fn write(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            let lost = self.lost.fetch_add(1, Relaxed) + 1;
            if lost.is_power_of_two() {
                tracing::warn!(lost, "the disk is too slow for the access log; lines are lost");
            }
        }
    }
}

fn write(queue: &Receiver<String>, file: File) {
    let mut out = BufWriter::new(file);
    while let Ok(line) = queue.recv() {
        let mut written = out.write_all(line.as_bytes());
        // Flush only when the queue is drained: many lines, one system call.
        while let Ok(line) = queue.try_recv() {
            written = written.and_then(|()| out.write_all(line.as_bytes()));
        }
        if let Err(e) = written.and_then(|()| out.flush()) {
            tracing::warn!(error = %e, "cannot write the access log");
        }
    }
}
