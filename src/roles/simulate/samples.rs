//! What is recorded about the world as it runs: samples for curves and windows, accounts of bytes and clients. At its
//! end they become figures, if they agree with what the lines have sent.

use anyhow::ensure;

use super::engine::{Nanos, secs};
use super::figures::{Curves, Figures, Sample, Totals, WINDOW};
use super::line::Line;
use super::nodes::{Node, Presence};
use super::world::World;

/// What of all bytes may be lost in roundings.
const ROUNDING: f64 = 1e-6;

/// Bytes as the receivers see them, and the clients in the system: checked against the lines at the end.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Of whole files, to clients and to volunteers.
    pub received: f64,
    pub copied: f64,
    /// Sent to clients and to volunteers, and thrown away.
    pub wasted: f64,
    pub wasted_copies: f64,
    pub downloads: u64,
    pub wanted_bytes: f64,
    pub longest_alone: f64,
    pub first_request: Option<Nanos>,
    pub last_byte: Nanos,
    /// Integral of running downloads over time, and the sum of their times, in seconds (Little's law).
    pub area: f64,
    pub time_sum: f64,
    pub running: u64,
    pub changed: Nanos,
}

impl Account {
    pub fn running(&mut self, change: i64, now: Nanos) {
        self.area += self.running as f64 * secs(now - self.changed);
        self.running = self.running.saturating_add_signed(change);
        self.changed = now;
    }
}

/// What the lines had sent when samples were taken last.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    pub second: f64,
    bin_due: Nanos,
    bin: (f64, f64, f64),
    /// When the next window ends; the first one begins then.
    pub window_due: Nanos,
    has_window: bool,
}

/// What a run gives.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub figures: Figures,
    pub curves: Curves,
    pub distribution: Vec<f64>,
    /// True rate in bytes/s and use over the run of each volunteer, the fastest first.
    pub volunteers: Vec<(f64, f64)>,
    pub crowds: Vec<String>,
    pub events: u64,
}

impl World<'_> {
    pub fn sample(&mut self) {
        let now = self.queue.now();
        if now >= self.marks.bin_due {
            self.sample_bin(now);
        }
        if self.opened.is_some() && now >= self.marks.window_due {
            self.sample_window(now);
        }
    }

    fn sample_bin(&mut self, now: Nanos) {
        let (server, server_copies) = self.sent_by(0, now);
        let (mut volunteers, mut copies) = (0.0, server_copies);
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for index in 0..self.nodes.len() {
            let (clients, sync) = self.sent_by(index as u32 + 1, now);
            volunteers += clients;
            copies += sync;
            let node = &mut self.nodes[index];
            nodes.push((clients - node.bin_mark, node.rate));
            node.bin_mark = clients;
        }
        nodes.sort_by(|a, b| b.1.total_cmp(&a.1));
        let before = std::mem::replace(&mut self.marks.bin, (volunteers, server, copies));
        self.curves.push(&Sample {
            volunteers: volunteers - before.0,
            server: server - before.1,
            copies: copies - before.2,
            nodes,
        });
        self.marks.bin_due = now + self.curves.width();
    }

    pub fn sent_by(&mut self, line: u32, now: Nanos) -> (f64, f64) {
        let line = &mut self.lines[line as usize];
        line.advance(now);
        line.sent()
    }

    /// How evenly the volunteers that were there all the time were used, as long as clients come.
    fn sample_window(&mut self, now: Nanos) {
        let end = self.opened.unwrap_or(0) + self.scenario.duration.nanos();
        let begun = now.saturating_sub(WINDOW);
        if self.marks.has_window && now <= end && self.arrived > 0 {
            let (mut uses, mut peak_use) = (Vec::with_capacity(self.nodes.len()), 0.0_f64);
            for index in 0..self.nodes.len() {
                let (sent, copies) = self.sent_by(index as u32 + 1, now);
                let node = &self.nodes[index];
                if node.presence == Presence::Up && node.since <= begun {
                    let capacity = node.rate * secs(WINDOW);
                    uses.push((sent - node.window_mark.0) / capacity);
                    let all = sent + copies - node.window_mark.0 - node.window_mark.1;
                    peak_use = peak_use.max(all / capacity);
                }
            }
            self.tally.window(&uses, peak_use);
        }
        self.marks.window_due = now + WINDOW;
        self.marks.has_window = true;
        for index in 0..self.nodes.len() {
            self.nodes[index].window_mark = self.sent_by(index as u32 + 1, now);
        }
    }

    pub fn finish(mut self) -> anyhow::Result<Outcome> {
        let now = self.queue.now();
        let (mut clients, mut copies, mut by_server) = (0.0, 0.0, 0.0);
        let mut unfinished = 0.0;
        for line in 0..self.lines.len() {
            let (to_clients, to_volunteers) = self.sent_by(line as u32, now);
            clients += to_clients;
            copies += to_volunteers;
            if line == 0 {
                by_server = to_clients + to_volunteers;
            }
            for (transfer, left) in self.lines[line].clear(now) {
                unfinished += self.transfers.get(transfer).map_or(0.0, |transfer| transfer.len) - left;
            }
        }
        // Sent, but the copy that they were forwarded from has not arrived.
        let waiting = self.held.values().flatten().filter_map(|number| self.transfers.get(*number));
        unfinished += waiting.map(|transfer| transfer.len).sum::<f64>();
        self.check_conservation(clients, copies, unfinished)?;
        let is_wrong = |node: &Node| self.scenario.volunteers[node.group].wrong > 0.0;
        ensure!(
            self.nodes.iter().all(|node| node.found.is_none() || is_wrong(node)),
            "a volunteer that sends nothing wrong is quarantined; this is a fault of the policy"
        );
        let account = &self.account;
        let all_rates: f64 = self.lines.iter().map(Line::rate).sum();
        let last_arrival = self.arrivals.last().map_or(0.0, |last| secs(*last));
        let run = (account.first_request.unwrap_or(0), account.last_byte);
        let totals = Totals {
            first_request: run.0,
            last_byte: run.1,
            fluid_bound: (account.wanted_bytes / all_rates).max(account.longest_alone).max(last_arrival),
            to_clients: clients,
            to_volunteers: copies,
            by_server,
            wasted: account.wasted + account.wasted_copies,
            found: self.nodes.iter().filter(|node| is_wrong(node)).map(|node| node.found).collect(),
            early: self.first_minute.summary(run, all_rates, self.fastest),
        };
        let span = secs(account.last_byte.saturating_sub(totals.first_request)).max(1e-9);
        let mut volunteers: Vec<(f64, f64)> = (0_u32..)
            .zip(&self.nodes)
            .map(|(index, node)| (node.rate, self.lines[index as usize + 1].sent().0 / (node.rate * span)))
            .collect();
        let uses: Vec<f64> = volunteers.iter().map(|(_, used)| *used).collect();
        volunteers.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
        let figures = self.tally.figures(&uses, &totals);
        Ok(Outcome {
            figures,
            curves: self.curves,
            distribution: self.tally.distribution(),
            volunteers,
            crowds: self.crowds.lines(),
            events: self.queue.handled(),
        })
    }

    /// What was sent was received or wasted; the mean number of clients is their rate times their time.
    fn check_conservation(&self, clients: f64, copies: f64, unfinished: f64) -> anyhow::Result<()> {
        let account = &self.account;
        let sent = clients + copies;
        let kept = account.received + account.copied + account.wasted + account.wasted_copies + unfinished;
        ensure!(
            (sent - kept).abs() <= ROUNDING * sent.max(1e6),
            "bytes are not conserved: {sent:.0} sent, {kept:.0} received or wasted; this is a fault of the simulator"
        );
        ensure!(
            (account.area - account.time_sum).abs() <= ROUNDING * account.area.max(1.0),
            "Little's law does not hold: {} and {}; this is a fault of the simulator",
            account.area,
            account.time_sum
        );
        Ok(())
    }
}
