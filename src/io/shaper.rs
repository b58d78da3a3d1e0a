//! One upload rate for everything together: a queue of reservations on a virtual line.
//!
//! Each chunk reserves its time on the line and waits for it. Reservations are served in the order of
//! asking and chunks are equal, so downloads share the line equally. An idle line lends a short burst.
//!
//! What goes to other volunteers ([`Class::Sync`]) is one chunk at a time, whatever the number of uploads. While a
//! client downloads, these chunks are as far apart as their share of the rate says; otherwise they have the line.
//! Among many downloads one chunk in the queue would be less than that share, so several are reserved ahead: what
//! everybody wants must spread most of all where everybody asks for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Rate;

/// What an idle line may send at once: enough for one small package, little against a second.
const BURST: Duration = Duration::from_millis(50);
/// What other volunteers get at most while clients download, in percent (reference policy, section E.2).
const SYNC_PERCENT: u32 = 20;
/// The most that a server may ask for: half of the line stays with clients.
const MAX_SYNC_PERCENT: u32 = 50;

/// Chunks for volunteers reserved ahead at most: half of the line among as many downloads.
const MAX_AHEAD: usize = 4096;
/// A reservation that is unused for this long is given up.
const UNUSED: Duration = Duration::from_secs(1);

/// Whom an upload is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Client,
    /// Another volunteer.
    Sync,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Shaper {
    rate: f64,
    /// When the line is free again.
    free_at: Mutex<Instant>,
    /// Uploads to clients that run.
    clients: AtomicUsize,
    sync_percent: AtomicU32,
    /// Whose turn it is among uploads to volunteers.
    sync: tokio::sync::Mutex<Turn>,
}

/// What uploads to volunteers have ahead of them while clients download.
#[derive(Debug)]
struct Turn {
    /// When the next chunk may go.
    next_at: Instant,
    /// Reserved times on the line, and for how many bytes.
    reserved: VecDeque<(Instant, u64)>,
}

/// One upload; it runs until it is dropped.
#[derive(Debug)]
pub struct Flow {
    shaper: Arc<Shaper>,
    class: Class,
}

impl Shaper {
    pub fn new(rate: Rate) -> Self {
        let now = Instant::now();
        Self {
            rate: (rate.0 as f64).max(1.0),
            free_at: Mutex::new(now),
            clients: AtomicUsize::new(0),
            sync_percent: AtomicU32::new(SYNC_PERCENT),
            sync: tokio::sync::Mutex::new(Turn { next_at: now, reserved: VecDeque::new() }),
        }
    }

    /// Begins an upload.
    pub fn flow(self: &Arc<Self>, class: Class) -> Flow {
        if class == Class::Client {
            self.clients.fetch_add(1, Relaxed);
        }
        Flow { shaper: self.clone(), class }
    }

    /// How much volunteers get at most while clients download; more than half counts as half.
    pub fn set_sync_share(&self, percent: u8) {
        self.sync_percent.store(u32::from(percent).clamp(1, MAX_SYNC_PERCENT), Relaxed);
    }

    /// As much as they get where no server says otherwise.
    pub fn set_usual_sync_share(&self) {
        self.sync_percent.store(SYNC_PERCENT, Relaxed);
    }

    fn time_of(&self, len: u64) -> Duration {
        Duration::from_secs_f64(len as f64 / self.rate)
    }

    /// Reserves the line for `len` bytes; when they may be sent.
    fn reserve(&self, len: u64, now: Instant) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let start = (*free_at).max(now.checked_sub(BURST).unwrap_or(now));
        *free_at = start + self.time_of(len);
        start
    }

    async fn take_for_client(&self, len: u64) {
        let now = Instant::now();
        let send_at = self.reserve(len, now);
        if send_at > now {
            tokio::time::sleep_until(send_at).await;
        }
    }

    async fn take_for_sync(&self, len: u64) {
        // A fair lock, kept until the chunk goes: a client that comes now waits for one such chunk at most.
        let mut turn = self.sync.lock().await;
        let clients = self.clients.load(Relaxed);
        if clients > 0 {
            tokio::time::sleep_until(turn.next_at).await;
        }
        let share = f64::from(self.sync_percent.load(Relaxed)) / 100.0;
        let send_at = self.turn_among(clients, share, &mut turn.reserved, len);
        tokio::time::sleep_until(send_at).await;
        let apart = self.time_of(len).div_f64(share);
        // What the queue held up is made good, by one chunk at most.
        let earliest = send_at.checked_sub(apart).unwrap_or(send_at);
        turn.next_at = if clients > 0 { turn.next_at.max(earliest) } else { send_at } + apart;
    }

    /// The next reservation; those behind it grow to `share` of the queue.
    fn turn_among(
        &self,
        clients: usize,
        share: f64,
        reserved: &mut VecDeque<(Instant, u64)>,
        len: u64,
    ) -> Instant {
        let now = Instant::now();
        let ahead = (clients as f64 * share / (1.0 - share)) as usize;
        while reserved.front().is_some_and(|(at, _)| *at + UNUSED < now) {
            reserved.pop_front();
        }
        // By one more each time: who copies a chunk or two keeps nobody else's place, and downloads never wait for
        // all of them at once.
        for _ in 0..2 {
            if reserved.len() <= ahead.min(MAX_AHEAD) {
                reserved.push_back((self.reserve(len, now), len));
            }
        }
        let Some((at, booked)) = reserved.pop_front() else { return now };
        if len > booked {
            self.reserve(len - booked, now);
        }
        at.max(now)
    }
}

impl Flow {
    /// Waits until `len` bytes may be sent.
    pub async fn take(&self, len: u64) {
        match self.class {
            Class::Client => self.shaper.take_for_client(len).await,
            Class::Sync => self.shaper.take_for_sync(len).await,
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if self.class == Class::Client {
            self.shaper.clients.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use tokio::task::JoinHandle;

    const CHUNK: u64 = 32 << 10;
    const RATE: u64 = 1 << 20;

    fn line() -> Arc<Shaper> {
        Arc::new(Shaper::new(Rate(RATE)))
    }

    /// An upload without end, and what it has sent.
    fn upload(shaper: &Arc<Shaper>, class: Class) -> (Arc<AtomicU64>, JoinHandle<()>) {
        let sent = Arc::<AtomicU64>::default();
        let (flow, count) = (shaper.flow(class), sent.clone());
        let run = async move {
            loop {
                flow.take(CHUNK).await;
                count.fetch_add(CHUNK, Relaxed);
            }
        };
        (sent, tokio::spawn(run))
    }

    /// What uploads send within `secs`, of the rate.
    async fn shares(uploads: &[&AtomicU64], secs: u64) -> Vec<f64> {
        let before: Vec<u64> = uploads.iter().map(|sent| sent.load(Relaxed)).collect();
        tokio::time::sleep(Duration::from_secs(secs)).await;
        let of = |(sent, before): (&&AtomicU64, u64)| (sent.load(Relaxed) - before) as f64;
        uploads.iter().zip(before).map(|pair| of(pair) / (RATE * secs) as f64).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn four_takers_share_the_rate() {
        let shaper = line();
        let start = Instant::now();
        let takers: Vec<_> = (0..4)
            .map(|_| {
                let flow = shaper.flow(Class::Client);
                tokio::spawn(async move {
                    for _ in 0..32 {
                        flow.take(CHUNK).await;
                    }
                    Instant::now()
                })
            })
            .collect();
        for taker in takers {
            let took = (taker.await.expect("no panic") - start).as_secs_f64();
            assert!((3.7..4.1).contains(&took), "4 MiB at 1 MiB/s took {took} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn volunteers_get_their_share_while_clients_download_and_the_line_when_none_does() {
        let shaper = line();
        let syncs: Vec<_> = (0..3).map(|_| upload(&shaper, Class::Sync)).collect();
        let synced = |shares: &[f64]| shares.iter().take(3).sum::<f64>();
        let alone: Vec<&AtomicU64> = syncs.iter().map(|(sent, _)| &**sent).collect();
        let idle = shares(&alone, 60).await;
        assert!((0.97..1.01).contains(&synced(&idle)), "all of the idle line: {idle:?}");
        assert!(idle.iter().all(|share| (0.3..0.37).contains(share)), "in turn: {idle:?}");

        let (client, download) = upload(&shaper, Class::Client);
        let all = [&alone[..], &[&*client]].concat();
        for (percent, at_most, least) in [(20, 0.2, 0.18), (50, 0.5, 0.45), (90, 0.5, 0.45)] {
            shaper.set_sync_share(percent);
            let both = shares(&all, 60).await;
            assert!((least..=at_most + 0.01).contains(&synced(&both)), "{percent} %: {both:?}");
            assert!(both[3] >= 1.0 - at_most - 0.01, "clients lose no more: {percent} %: {both:?}");
            assert!(both.iter().sum::<f64>() < 1.01, "never above the donated rate: {both:?}");
        }
        download.abort();
        assert!(download.await.is_err_and(|e| e.is_cancelled()));
        assert!(synced(&shares(&alone, 60).await) > 0.97, "the line is theirs again");
        syncs.iter().for_each(|(_, upload)| upload.abort());
    }

    #[tokio::test(start_paused = true)]
    async fn volunteers_get_their_share_among_many_clients_too() {
        let shaper = line();
        let downloads: Vec<_> = (0..60).map(|_| upload(&shaper, Class::Client)).collect();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let syncs: Vec<_> = (0..3).map(|_| upload(&shaper, Class::Sync)).collect();
        let of = |uploads: &[(Arc<AtomicU64>, JoinHandle<()>)]| -> Vec<Arc<AtomicU64>> {
            uploads.iter().map(|(sent, _)| sent.clone()).collect()
        };
        let (clients, volunteers) = (of(&downloads), of(&syncs));
        let all: Vec<&AtomicU64> = clients.iter().chain(&volunteers).map(|sent| &**sent).collect();
        // Those who were in the queue before come first.
        let first = shares(&all, 5).await;
        assert!(first.iter().sum::<f64>() < 1.03, "never above the donated rate: {first:?}");
        let later = shares(&all, 60).await;
        let synced = later[60..].iter().sum::<f64>();
        assert!((0.18..=0.21).contains(&synced), "{synced}");
        assert!((0.97..1.01).contains(&later.iter().sum()), "{later:?}");
        downloads.iter().chain(&syncs).for_each(|(_, upload)| upload.abort());
    }

    #[tokio::test(start_paused = true)]
    async fn few_and_short_copies_keep_no_place_that_they_do_not_use() {
        let shaper = line();
        let downloads: Vec<_> = (0..20).map(|_| upload(&shaper, Class::Client)).collect();
        let copies = shaper.clone();
        let now_and_then = tokio::spawn(async move {
            for part in (1..=4).cycle() {
                let flow = copies.flow(Class::Sync);
                flow.take(CHUNK / part).await;
                flow.take(CHUNK).await;
                drop(flow);
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        });
        tokio::time::sleep(Duration::from_secs(10)).await;
        let all: Vec<&AtomicU64> = downloads.iter().map(|(sent, _)| &**sent).collect();
        let sent = shares(&all, 60).await.iter().sum::<f64>();
        assert!((0.93..1.0).contains(&sent), "{sent}");
        now_and_then.abort();
        downloads.iter().for_each(|(_, upload)| upload.abort());
    }

    #[tokio::test(start_paused = true)]
    async fn chunks_of_many_lengths_are_never_more_than_the_rate() {
        let shaper = line();
        let downloads: Vec<_> = (0..30).map(|_| upload(&shaper, Class::Client)).collect();
        let sent = Arc::new(AtomicU64::new(0));
        let (copies, count) = (shaper.clone(), sent.clone());
        let copy = tokio::spawn(async move {
            let flow = copies.flow(Class::Sync);
            for len in [CHUNK / 64, CHUNK / 64, CHUNK, CHUNK, CHUNK, CHUNK].into_iter().cycle() {
                flow.take(len).await;
                count.fetch_add(len, Relaxed);
            }
        });
        let all: Vec<&AtomicU64> = downloads.iter().map(|(sent, _)| &**sent).chain([&*sent]).collect();
        for _ in 0..12 {
            let now = shares(&all, 5).await;
            assert!(now.iter().sum::<f64>() < 1.03, "{now:?}");
        }
        let later = shares(&all, 60).await;
        // A third of them are next to nothing, which a copy has at its end only, and each has the place of a whole one.
        assert!((0.13..=0.21).contains(&later[30]), "{later:?}");
        assert!((0.95..1.01).contains(&later.iter().sum()), "{later:?}");
        copy.abort();
        downloads.iter().for_each(|(_, upload)| upload.abort());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_alone_lose_nothing_and_wait_for_one_chunk_at_most() {
        let shaper = line();
        let syncs: Vec<_> = (0..16).map(|_| upload(&shaper, Class::Sync)).collect();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let begin = Instant::now();
        shaper.flow(Class::Client).take(CHUNK).await;
        assert!(begin.elapsed() <= 2 * shaper.time_of(CHUNK), "waited {:?}", begin.elapsed());
        syncs.iter().for_each(|(_, upload)| upload.abort());
        for (_, upload) in syncs {
            let _ = upload.await;
        }
        let (client, download) = upload(&shaper, Class::Client);
        assert!(shares(&[&*client], 60).await[0] > 0.98);
        download.abort();
    }
}
