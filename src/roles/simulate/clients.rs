//! Clients: they come, ask the server, are served by it or by a volunteer, and try again when that fails.

use std::net::{IpAddr, Ipv6Addr};

use rand::RngExt;

use super::engine::{Nanos, secs};
use super::figures::{Download, STALL};
use super::line::Kind;
use super::nodes::Presence;
use super::world::{Client, Event, NodeIndex, To, Transfer, World};
use crate::policy::{Asker, Request};

/// An address for each client.
fn asker(number: u32) -> Asker {
    // Below 2001:db8::/32, the prefix of documentation (RFC 3849).
    let address = 0x2001_0db8_u128 << 96 | u128::from(number) << 64 | 1;
    Asker { address: IpAddr::V6(Ipv6Addr::from_bits(address)), agent: 0 }
}

impl World<'_> {
    pub fn arrive(&mut self) {
        let mut wants = self.files.popularity.draw_set(self.scenario.clients.files, &mut self.streams.wants);
        let can_return = self.streams.wants.random::<f64>() < self.scenario.clients.can_return;
        wants.reverse();
        let Some(file) = wants.pop() else { return };
        let number = self.arrived as u32;
        self.arrived += 1;
        self.schedule_arrival();
        let bytes = wants.iter().chain([&file]).map(|file| self.files.sizes[*file as usize]).sum::<u64>();
        self.account.wanted_bytes += bytes as f64;
        self.account.longest_alone = self.account.longest_alone.max(bytes as f64 / self.fastest);
        self.account.first_request.get_or_insert(self.queue.now());
        let client = self.clients.insert(Client { number, rest: wants, can_return, ..Client::default() });
        self.want(client, file);
    }

    /// The client turns to a file.
    fn want(&mut self, client: u32, file: u32) {
        let now = self.queue.now();
        self.account.running(1, now);
        if let Some(client) = self.clients.get_mut(client) {
            client.file = file;
            client.asked = now;
            client.idle_since = now;
            (client.got, client.by_volunteers) = (0.0, 0.0);
            (client.is_stalled, client.is_spoilt) = (false, false);
            (client.retries, client.last) = (0, None);
        }
        self.ask(client);
    }

    /// A client asks the server, which decides.
    pub fn ask(&mut self, number: u32) {
        let Some(client) = self.clients.get(number) else { return };
        let blob = self.files.blob(client.file);
        let request = Request {
            blob,
            len: (blob.size as f64 - client.got).ceil().max(1.0) as u64,
            origin_load: self.server_load,
            client: asker(client.number),
            can_return: client.can_return,
            is_segment: false,
            is_sent_back: false,
        };
        let last = client.last;
        let node = self.choose(&request, last);
        let round_trip = self.scenario.clients.round_trip.nanos();
        match node {
            // A redirect costs a round trip more.
            Some(node) => self.begin_after(number, Some(node), 2 * round_trip),
            None => self.begin_after(number, None, round_trip),
        }
    }

    /// The client's next bytes come from there; `None` is the server.
    fn begin_after(&mut self, number: u32, node: Option<NodeIndex>, after: Nanos) {
        let Some(client) = self.clients.get_mut(number) else { return };
        client.last = node.or(client.last);
        let (line, session) = node.map_or((0, 0), |node| (node + 1, self.nodes[node as usize].session));
        let len = self.files.sizes[client.file as usize] as f64 - client.got;
        let to = To::Client(number);
        let transfer = Transfer { line, session, file: client.file, len, to, is_relayed: false };
        let transfer = self.transfers.insert(transfer);
        if after == 0 {
            self.begin(transfer);
        } else {
            self.queue.after(after, Event::Begin { transfer });
        }
    }

    /// A request has reached the host that should serve it.
    pub fn begin(&mut self, number: u32) {
        let Some(&transfer) = self.transfers.get(number) else { return };
        let now = self.queue.now();
        let sender = transfer.line.checked_sub(1);
        let gone = |node: NodeIndex| self.nodes[node as usize].session != transfer.session;
        let is_relayed =
            |node: NodeIndex| !self.files.has(transfer.file, node) && self.relays(node, transfer.file);
        let lacks = |node: NodeIndex| {
            let is_leaving = self.nodes[node as usize].presence == Presence::Leaving;
            is_leaving || !(self.files.has(transfer.file, node) || self.relays(node, transfer.file))
        };
        let has_left = |node: NodeIndex, session: u32| {
            let node = &self.nodes[node as usize];
            node.presence != Presence::Up || node.session != session
        };
        match (transfer.to, sender) {
            // A copy that was given up before it began.
            (To::Volunteer { node, session }, _) if has_left(node, session) => {
                self.transfers.remove(number);
            }
            (_, Some(node)) if gone(node) => self.broken(number, transfer.len),
            (To::Volunteer { .. }, Some(node)) if lacks(node) => self.broken(number, transfer.len),
            (To::Client(client), Some(node)) if lacks(node) => {
                self.transfers.remove(number);
                self.go_direct(client);
            }
            (to, _) => {
                let is_relayed = sender.is_some_and(is_relayed);
                if let Some(transfer) = self.transfers.get_mut(number) {
                    transfer.is_relayed = is_relayed;
                }
                let kind = match to {
                    To::Client(client) => {
                        self.is_served(client, now);
                        Kind::Client
                    }
                    To::Volunteer { .. } => Kind::Sync,
                };
                self.lines[transfer.line as usize].add(kind, number, transfer.len, now);
                self.look_after(transfer.line);
            }
        }
    }

    fn is_served(&mut self, client: u32, now: Nanos) {
        if let Some(client) = self.clients.get_mut(client) {
            client.is_stalled |= now - client.idle_since >= STALL;
        }
    }

    /// To be called after each change of a line. Schedules a look at it for when its next transfer ends, unless an
    /// earlier one is due.
    pub fn look_after(&mut self, line: u32) {
        let now = self.queue.now();
        let state = &mut self.lines[line as usize];
        self.first_minute.idle.look(line, state, self.account.first_request, now);
        if let Some(end) = state.next_end(now)
            && end < state.wake
        {
            state.wake = end;
            self.queue.at(end, Event::Wake { line });
        }
    }

    pub fn wake(&mut self, line: u32) {
        let now = self.queue.now();
        let state = &mut self.lines[line as usize];
        // An earlier look was scheduled after this one; or there was one at this very time.
        if state.wake != now {
            return;
        }
        state.wake = Nanos::MAX;
        while let Some(transfer) = self.lines[line as usize].ended(now) {
            self.transferred(transfer);
        }
        self.look_after(line);
    }

    pub fn transferred(&mut self, number: u32) {
        let Some(&transfer) = self.transfers.get(number) else { return };
        let sender = transfer.line.checked_sub(1);
        let is_coming = |node: &NodeIndex| transfer.is_relayed && !self.files.has(transfer.file, *node);
        if let Some(node) = sender.filter(is_coming) {
            return self.passed_on(number, node, transfer.file);
        }
        let wrong = sender.filter(|sender| self.sends_wrong(*sender));
        match (transfer.to, wrong) {
            (To::Volunteer { node, .. }, Some(sender)) => self.copy_wrong(number, &transfer, (sender, node)),
            (To::Volunteer { node, .. }, None) => {
                self.transfers.remove(number);
                self.copied(number, &transfer, node);
            }
            (To::Client(client_no), _) => {
                self.transfers.remove(number);
                let client = self.clients.get(client_no);
                if wrong.is_some() || client.is_some_and(|client| client.is_spoilt) {
                    self.spoilt(client_no, &transfer);
                } else {
                    self.downloaded(client_no, &transfer);
                }
            }
        }
    }

    /// The client has got other bytes than those it asked for: it throws them away and tries again.
    pub fn spoilt(&mut self, number: u32, transfer: &Transfer) {
        let now = self.queue.now();
        let Some(client) = self.clients.get_mut(number) else { return };
        self.account.wasted += transfer.len + client.got;
        (client.got, client.by_volunteers, client.idle_since) = (0.0, 0.0, now);
        client.is_spoilt = false;
        client.retries += 1;
        if client.can_return {
            self.ask(number);
        } else {
            self.go_direct(number);
        }
    }

    fn downloaded(&mut self, number: u32, transfer: &Transfer) {
        let now = self.queue.now();
        let Some(client) = self.clients.get_mut(number) else { return };
        let is_volunteers = transfer.line > 0;
        if is_volunteers {
            client.by_volunteers += transfer.len;
            self.nodes[transfer.line as usize - 1].served += 1;
        }
        let size = self.files.sizes[transfer.file as usize];
        let line = self.scenario.clients.line.map_or(f64::INFINITY, |line| line.0 as f64);
        let download = Download {
            seconds: secs(now - client.asked),
            alone: size as f64 / self.mean_rate.min(line),
            size,
            by_volunteers: client.by_volunteers.round() as u64,
            is_volunteers,
            is_retried: client.retries > 0,
            is_stalled: client.is_stalled,
        };
        let asked = client.asked;
        let next = client.rest.pop();
        let measured_from = self.opened.unwrap_or(0) + self.scenario.warmup.nanos();
        if asked >= measured_from {
            self.tally.ended(&download);
        }
        self.first_minute.ended(&download, asked, self.account.first_request.unwrap_or(0));
        self.account.running(-1, now);
        self.account.time_sum += download.seconds;
        self.account.received += size as f64;
        self.account.downloads += 1;
        self.account.last_byte = now;
        match next {
            Some(file) => self.want(number, file),
            None => drop(self.clients.remove(number)),
        }
    }

    /// A transfer broke off, or never began, with so many bytes left.
    pub fn broken(&mut self, number: u32, left: f64) {
        let Some(&transfer) = self.transfers.get(number) else { return };
        match transfer.to {
            To::Volunteer { node, .. } => self.copy_broken(number, left, node),
            To::Client(client) => {
                self.transfers.remove(number);
                let received = transfer.len - left;
                let sender = transfer.line.checked_sub(1).filter(|_| received > 0.0);
                let is_wrong = sender.is_some_and(|sender| self.sends_wrong(sender));
                self.cut_off(client, received, is_wrong);
            }
        }
    }

    /// The client's volunteer has gone; it notices after its timeout.
    fn cut_off(&mut self, number: u32, received: f64, is_wrong: bool) {
        let now = self.queue.now();
        let Some(client) = self.clients.get_mut(number) else { return };
        if self.scenario.clients.resume {
            client.got += received;
            client.by_volunteers += received;
            client.is_spoilt |= is_wrong;
        } else {
            self.account.wasted += received + client.got;
            (client.got, client.by_volunteers) = (0.0, 0.0);
        }
        if received > 0.0 {
            client.idle_since = now;
        }
        client.retries += 1;
        let timeout = self.scenario.clients.timeout.nanos();
        if client.can_return {
            self.queue.after(timeout, Event::Ask { client: number });
        } else {
            self.direct_after(number, timeout);
        }
    }

    /// A volunteer sends the client back to the server's own URL.
    fn go_direct(&mut self, number: u32) {
        self.direct_after(number, 0);
    }

    fn direct_after(&mut self, number: u32, after: Nanos) {
        let Some(client) = self.clients.get(number) else { return };
        let (asker, blob) = (asker(client.number), self.files.blob(client.file));
        let now = self.now();
        self.policy.came_back(asker, blob, now);
        self.begin_after(number, None, after + self.scenario.clients.round_trip.nanos());
    }
}
