//! The failover zone: what a name server answers so that apt falls over from a volunteer to the server by
//! itself (DESIGN.md section 8). Messages in, messages out (RFC 1034, 1035, 2782, 2308, 6891).
//!
//! | name | records |
//! |---|---|
//! | the zone | SOA, NS `ns` |
//! | `<volunteer>`, and every other label that could be one: `ns`, `direct` | A, AAAA of the server |
//! | `_http._tcp.<volunteer>` | SRV: the volunteer first, if it is well, then `direct` |
//! | `at.<volunteer>` | A or AAAA of a volunteer that is well and known by its address |
//!
//! Who knows no SRV comes to the server, whichever volunteer is meant. Answers are small: no additional
//! records, at most [`MAX_ADDRESSES`] addresses, ANY gets one set (RFC 8482), transfers are refused.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::authority::Authority;
use crate::model::VolunteerId;

/// Seconds that an answer about a volunteer may be kept: it can die at any time. apt tries 1, 3 and 7 s after the
/// first time, and so asks anew twice. Also for what is not there.
pub const VOLUNTEER_TTL: u32 = 2;
/// Seconds that an answer about the server itself may be kept.
const SERVER_TTL: u32 = 300;
/// More would only make the answers long.
pub const MAX_ADDRESSES: usize = 8;
/// Longest zone: `_http._tcp.`, the longest volunteer and it make a name (RFC 1035 section 2.3.4).
const MAX_ZONE: usize = 170;
/// The server's own labels, which do not name volunteers.
const OWN_LABELS: [&str; 2] = ["direct", "ns"];
/// Bytes of an answer by UDP: without EDNS, and at most (what passes everywhere unfragmented).
const MIN_UDP: u16 = 512;
const MAX_UDP: u16 = 1232;

/// The zone of one server.
#[derive(Clone, Debug)]
pub struct Zone {
    origin: Name,
    /// Of the server.
    addresses: Vec<IpAddr>,
    /// Where the server answers requests.
    port: u16,
}

/// Why a text cannot be a zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a zone: use labels of a-z, 0-9 and inner hyphens, {MAX_ZONE} characters at most")]
pub struct ZoneNameError(String);

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// Where a volunteer serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(Name),
}

impl Place {
    /// The place of `http://HOST[:PORT]`; `None` for other URLs: an SRV record has neither scheme nor path.
    pub fn of(base_url: &str) -> Option<Self> {
        let authority = Authority::parse(base_url.strip_prefix("http://")?)?;
        let host = match authority.address() {
            Some(address) => Host::Address(address),
            None => Host::Name(absolute(&authority.host)?),
        };
        Some(Self { host, port: authority.port.unwrap_or(80) })
    }
}

impl Zone {
    /// `addresses` and `port` are the server's own, as clients reach it.
    pub fn new(name: &str, addresses: Vec<IpAddr>, port: u16) -> Result<Self, ZoneNameError> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        // The form of a volunteer's name is that of any label of a host.
        let is_sound =
            name.len() <= MAX_ZONE && name.split('.').all(|label| label.parse::<VolunteerId>().is_ok());
        match absolute(&name).filter(|_| is_sound) {
            Some(origin) => Ok(Self { origin, addresses, port }),
            None => Err(ZoneNameError(name.chars().take(80).collect())),
        }
    }

    /// Without the final dot.
    pub fn name(&self) -> String {
        self.origin.to_ascii().trim_end_matches('.').to_owned()
    }

    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host under which clients are sent to a volunteer; `None` where they must be given its place.
    pub fn host_of(&self, id: &VolunteerId, base_url: &str) -> Option<String> {
        let has_name = Place::of(base_url).is_some() && !OWN_LABELS.contains(&id.as_str());
        has_name.then(|| format!("{id}.{}", self.name()))
    }

    /// The volunteer that a host in this zone means. `host` is in lower case, without a final dot.
    pub fn volunteer(&self, host: &str) -> Option<VolunteerId> {
        host.strip_suffix(&self.name())?.strip_suffix('.')?.parse().ok()
    }

    /// The answers, with a volunteer at `place`, as lines of a zone file (RFC 1035 section 5).
    pub fn shown(&self, id: &VolunteerId, place: &Place) -> Vec<String> {
        let id = id.as_str();
        let names = [vec![], vec!["ns"], vec!["direct"], vec!["_http", "_tcp", id], vec!["at", id], vec![id]];
        let of_name = |labels: &Vec<&str>| {
            let below: Vec<&[u8]> = labels.iter().map(|label| label.as_bytes()).collect();
            let name = labels.iter().map(|label| format!("{label}.")).collect::<String>() + &self.name();
            let line = |(ttl, data): (u32, RData)| format!("{name}. {ttl} IN {} {data}", data.record_type());
            let records = self.records(&below, |_| Some(place.clone())).unwrap_or_default();
            records.into_iter().map(line).collect::<Vec<_>>()
        };
        names.iter().flat_map(of_name).collect()
    }

    /// Answers a message; `None` if nothing must be said. `place` gives the place of a volunteer that is
    /// well; only those ask for it who follow SRV records.
    pub fn answer(
        &self,
        message: &[u8],
        transport: Transport,
        place: impl FnOnce(&VolunteerId) -> Option<Place>,
    ) -> Option<Vec<u8>> {
        let header = Header::read(&mut BinDecoder::new(message)).ok()?;
        // Two servers would answer each other for ever.
        if header.message_type == MessageType::Response {
            return None;
        }
        let mut reply = Message::response(header.id, header.op_code);
        reply.metadata.recursion_desired = header.recursion_desired;
        let mut limit = MIN_UDP;
        match question(message, &header) {
            Err(code) => reply.metadata.response_code = code,
            Ok((query, edns)) => {
                reply.add_query(query.clone());
                if let Some(asked) = &edns {
                    limit = asked.max_payload().clamp(MIN_UDP, MAX_UDP);
                    let mut own = Edns::new();
                    own.set_max_payload(MAX_UDP).set_dnssec_ok(asked.flags().dnssec_ok);
                    reply.set_edns(own);
                }
                if edns.is_some_and(|edns| edns.version() > 0) {
                    reply.metadata.response_code = ResponseCode::BADVERS;
                } else {
                    self.fill(&mut reply, &query, place);
                }
            }
        }
        let bytes = reply.to_vec().ok()?;
        if transport == Transport::Tcp || bytes.len() <= usize::from(limit) {
            return Some(bytes);
        }
        reply.metadata.truncation = true;
        reply.answers.clear();
        reply.authorities.clear();
        reply.to_vec().ok()
    }

    fn fill(&self, reply: &mut Message, query: &Query, place: impl FnOnce(&VolunteerId) -> Option<Place>) {
        let asked = query.query_type();
        let lower = query.name().to_lowercase();
        let (labels, origin): (Vec<&[u8]>, Vec<&[u8]>) =
            (lower.iter().collect(), self.origin.iter().collect());
        let below = labels.strip_suffix(origin.as_slice());
        let (Some(below), DNSClass::IN, false) =
            (below, query.query_class(), matches!(asked, RecordType::AXFR | RecordType::IXFR))
        else {
            reply.metadata.response_code = ResponseCode::Refused;
            return;
        };
        reply.metadata.authoritative = true;
        let found = self.records(below, place);
        if found.is_none() {
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
        let mut found = found.unwrap_or_default();
        let wanted = match (asked, found.first()) {
            (RecordType::ANY, Some((_, first))) => first.record_type(),
            _ => asked,
        };
        found.retain(|(_, data)| data.record_type() == wanted);
        let record = |(ttl, data)| Record::from_rdata(query.name().clone(), ttl, data);
        reply.answers = found.into_iter().map(record).collect();
        if reply.answers.is_empty() {
            // RFC 2308: says how long the absence may be remembered.
            reply.add_authority(Record::from_rdata(self.origin.clone(), VOLUNTEER_TTL, self.soa()));
        }
    }

    /// All records of a name in the zone, of which only the labels before the zone are given; `None` if
    /// there is no such name.
    fn records(
        &self,
        below: &[&[u8]],
        place: impl FnOnce(&VolunteerId) -> Option<Place>,
    ) -> Option<Vec<(u32, RData)>> {
        let (kind, id) = match below {
            [] => {
                return Some(vec![(SERVER_TTL, self.soa()), (SERVER_TTL, RData::NS(NS(self.own("ns"))))]);
            }
            [kind @ .., label] => (kind, std::str::from_utf8(label).ok()?.parse::<VolunteerId>().ok()?),
        };
        let place = |id: &VolunteerId| place(id).filter(|_| !OWN_LABELS.contains(&id.as_str()));
        match kind {
            [] => Some(self.addresses.iter().map(|ip| (SERVER_TTL, address(*ip))).collect()),
            // Only something below it has records.
            [b"_tcp"] => Some(Vec::new()),
            [b"_http", b"_tcp"] => {
                let first = place(&id).map(|place| (10, place.port, self.target(&id, place.host)));
                let all = first.into_iter().chain([(20, self.port, self.own("direct"))]);
                let record = |(priority, port, target)| SRV::new(priority, 0, port, target);
                Some(all.map(|service| (VOLUNTEER_TTL, RData::SRV(record(service)))).collect())
            }
            [b"at"] => match place(&id)?.host {
                Host::Address(ip) => Some(vec![(VOLUNTEER_TTL, address(ip))]),
                Host::Name(_) => None,
            },
            _ => None,
        }
    }

    fn soa(&self) -> RData {
        // Nobody transfers this zone, so its serial number and its intervals mean nothing.
        let (refresh, retry, expire) = (3600, 600, 86_400);
        let (server, person) = (self.own("ns"), self.own("hostmaster"));
        RData::SOA(SOA::new(server, person, 1, refresh, retry, expire, VOLUNTEER_TTL))
    }

    fn target(&self, id: &VolunteerId, host: Host) -> Name {
        match host {
            Host::Address(_) => self.own(&format!("at.{id}")),
            Host::Name(name) => name,
        }
    }

    fn own(&self, below: &str) -> Name {
        // The zone is short enough for every name in it.
        absolute(&format!("{below}.{}", self.name())).unwrap_or_else(|| self.origin.clone())
    }
}

/// The question and the EDNS part of a query, or what is wrong with it.
fn question(message: &[u8], header: &Header) -> Result<(Query, Option<Edns>), ResponseCode> {
    if header.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    // Looked at first: the decoder makes room for as many as are announced.
    let counts = header.counts;
    if (counts.queries, counts.answers, counts.authorities) != (1, 0, 0) || counts.additionals > 1 {
        return Err(ResponseCode::FormErr);
    }
    let mut message = Message::from_vec(message).map_err(|_| ResponseCode::FormErr)?;
    message.queries.pop().map(|query| (query, message.edns)).ok_or(ResponseCode::FormErr)
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

/// A name without its final dot.
fn absolute(name: &str) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
