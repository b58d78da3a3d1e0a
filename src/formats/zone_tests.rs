//! Tables of questions and answers of a failover zone, and hostile messages.

use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use proptest::prelude::*;

use super::*;

fn zone() -> Zone {
    let addresses = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().expect("an address"));
    Zone::new("V.mirror.example.", addresses.to_vec(), 8080).expect("valid")
}

/// `v1` is known by its address, `v6` by one of IPv6, `named` by a name; all others are not well.
fn places(id: &VolunteerId) -> Option<Place> {
    let base_url = match id.as_str() {
        "v1" | "direct" => "http://10.0.0.7:8090",
        "v6" => "http://[2001:db8::7]",
        "named" => "http://edge.example:8091",
        _ => return None,
    };
    Place::of(base_url)
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 0x1234;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

fn ask(message: &Message) -> Message {
    let bytes = message.to_vec().expect("a question can be written");
    let answer = zone().answer(&bytes, Transport::Udp, places).expect("an answer");
    Message::from_vec(&answer).expect("a readable answer")
}

/// Code, answers and authorities in words.
fn shown(answer: &Message) -> String {
    let record = |r: &Record| format!("{} {} {} {}", r.name, r.ttl, r.record_type(), r.data);
    let all = answer
        .answers
        .iter()
        .map(record)
        .chain(answer.authorities.iter().map(|r| format!("({} {} {})", r.name, r.ttl, r.record_type())));
    format!("{:?} {}", answer.metadata.response_code, all.collect::<Vec<_>>().join(", "))
}

const NO_DATA: &str = "NoError (v.mirror.example. 2 SOA)";
const NO_NAME: &str = "NXDomain (v.mirror.example. 2 SOA)";
const REFUSED: &str = "Refused ";

/// Asks for names and types; `@` in the answer is the name as it was asked for.
fn check(table: &[(&str, RecordType, &str)]) {
    for (name, kind, want) in table {
        let asked = query(name, *kind);
        let answer = ask(&asked);
        assert_eq!(shown(&answer), want.replace('@', name), "{name} {kind}");
        let head = &answer.metadata;
        assert_eq!((head.id, head.message_type), (0x1234, MessageType::Response), "{name}");
        assert!(head.recursion_desired && !head.recursion_available && !head.truncation, "{name}");
        assert_eq!(head.authoritative, head.response_code != ResponseCode::Refused, "{name}");
        assert!(answer.queries[0].name().eq_case(asked.queries[0].name()), "{name}: the case is kept");
        assert!(answer.edns.is_none(), "{name}");
    }
}

#[test]
fn names_of_volunteers() {
    use RecordType::{A, AAAA, ANY, CNAME, SRV, TXT};
    let both =
        "NoError @ 2 SRV 10 0 8090 at.v1.v.mirror.example., @ 2 SRV 20 0 8080 direct.v.mirror.example.";
    let both6 = "NoError @ 2 SRV 10 0 80 at.v6.v.mirror.example., @ 2 SRV 20 0 8080 direct.v.mirror.example.";
    let named = "NoError @ 2 SRV 10 0 8091 edge.example., @ 2 SRV 20 0 8080 direct.v.mirror.example.";
    let alone = "NoError @ 2 SRV 20 0 8080 direct.v.mirror.example.";
    check(&[
        ("v1.v.mirror.example.", A, "NoError @ 300 A 192.0.2.1"),
        ("v1.v.mirror.example.", AAAA, "NoError @ 300 AAAA 2001:db8::1"),
        ("v1.v.mirror.example.", ANY, "NoError @ 300 A 192.0.2.1"),
        ("v1.v.mirror.example.", TXT, NO_DATA),
        ("v1.v.mirror.example.", CNAME, NO_DATA),
        ("unknown.v.mirror.example.", A, "NoError @ 300 A 192.0.2.1"),
        ("_http._tcp.v1.v.mirror.example.", SRV, both),
        ("_HTTP._tcp.V1.v.Mirror.example.", SRV, both),
        ("_http._tcp.v6.v.mirror.example.", SRV, both6),
        ("_http._tcp.named.v.mirror.example.", SRV, named),
        ("_http._tcp.down.v.mirror.example.", SRV, alone),
        ("_http._tcp.v1.v.mirror.example.", A, NO_DATA),
        ("_tcp.v1.v.mirror.example.", SRV, NO_DATA),
        ("_https._tcp.v1.v.mirror.example.", SRV, NO_NAME),
        ("at.v1.v.mirror.example.", A, "NoError @ 2 A 10.0.0.7"),
        ("at.v1.v.mirror.example.", AAAA, NO_DATA),
        ("at.v6.v.mirror.example.", AAAA, "NoError @ 2 AAAA 2001:db8::7"),
        ("at.named.v.mirror.example.", A, NO_NAME),
        ("at.down.v.mirror.example.", A, NO_NAME),
    ]);
}

#[test]
fn names_of_the_server_and_others() {
    use RecordType::{A, AXFR, IXFR, NS, SOA, SRV};
    let soa = "NoError @ 300 SOA ns.v.mirror.example. hostmaster.v.mirror.example. 1 3600 600 86400 2";
    check(&[
        ("v.mirror.example.", NS, "NoError @ 300 NS ns.v.mirror.example."),
        ("v.mirror.example.", SOA, soa),
        ("v.mirror.example.", A, NO_DATA),
        ("ns.v.mirror.example.", A, "NoError @ 300 A 192.0.2.1"),
        ("direct.v.mirror.example.", A, "NoError @ 300 A 192.0.2.1"),
        ("_http._tcp.direct.v.mirror.example.", SRV, "NoError @ 2 SRV 20 0 8080 direct.v.mirror.example."),
        ("at.direct.v.mirror.example.", A, NO_NAME),
        ("a.b.c.v.mirror.example.", A, NO_NAME),
        ("not_a_volunteer.v.mirror.example.", A, NO_NAME),
        ("v.mirror.example.", AXFR, REFUSED),
        ("v.mirror.example.", IXFR, REFUSED),
        ("mirror.example.", A, REFUSED),
        ("v1.vv.mirror.example.", A, REFUSED),
        ("v.mirror.example.other.", A, REFUSED),
        (".", NS, REFUSED),
    ]);
}

#[test]
fn only_the_internet_is_answered_for() {
    let mut chaos = query("v1.v.mirror.example.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(shown(&ask(&chaos)), REFUSED);
}

#[test]
fn other_operations_and_broken_questions() {
    let sound = query("v1.v.mirror.example.", RecordType::A).to_vec().expect("written");
    let changed = |at: usize, to: u8| {
        let mut bytes = sound.clone();
        bytes[at] = to;
        bytes
    };
    let long = |extra: &[u8]| [sound.clone(), extra.to_vec()].concat();
    let update = 5 << 3;
    let mut two = query("v1.v.mirror.example.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("v2.v.mirror.example.").expect("a name"), RecordType::A));
    for (what, bytes, want) in [
        ("nothing", vec![], None),
        ("half a header", sound[..11].to_vec(), None),
        ("an answer", changed(2, 0x80), None),
        ("an update", changed(2, update), Some(ResponseCode::NotImp)),
        ("an unknown operation", changed(2, 15 << 3), Some(ResponseCode::NotImp)),
        ("no question", sound[..12].to_vec(), Some(ResponseCode::FormErr)),
        ("none announced", changed(5, 0), Some(ResponseCode::FormErr)),
        ("many announced", changed(4, 0xff), Some(ResponseCode::FormErr)),
        ("two", two.to_vec().expect("written"), Some(ResponseCode::FormErr)),
        ("an answer in it", changed(7, 1), Some(ResponseCode::FormErr)),
        ("an authority in it", changed(9, 1), Some(ResponseCode::FormErr)),
        ("more than EDNS", changed(11, 2), Some(ResponseCode::FormErr)),
        ("a label that is too long", changed(12, 64), Some(ResponseCode::FormErr)),
        (
            "a pointer to itself",
            [&changed(12, 0xc0)[..13], &[12, 0, 1, 0, 1]].concat(),
            Some(ResponseCode::FormErr),
        ),
        ("bytes behind it", long(b"behind"), Some(ResponseCode::NoError)),
    ] {
        let answer = zone().answer(&bytes, Transport::Udp, places);
        let code = answer.map(|bytes| {
            assert_eq!(bytes[..2], [0x12, 0x34], "{what}");
            Message::from_vec(&bytes).expect("a readable answer").metadata.response_code
        });
        assert_eq!(code, want, "{what}");
    }
}

#[test]
fn edns() {
    let mut asked = query("_http._tcp.v1.v.mirror.example.", RecordType::SRV);
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    edns.options_mut().insert(EdnsOption::Unknown(10, vec![7; 8]));
    asked.set_edns(edns.clone());
    let answer = ask(&asked);
    let own = answer.edns.clone().expect("EDNS is answered by EDNS");
    assert_eq!((own.version(), own.max_payload(), own.flags().dnssec_ok), (0, MAX_UDP, true));
    assert!(own.option(EdnsCode::Cookie).is_none(), "options that mean nothing here are left out");
    assert_eq!(answer.answers.len(), 2);
    // RFC 6891 section 6.1.3: another version is told which one there is, and no more.
    edns.set_version(1);
    asked.set_edns(edns);
    let bytes = zone().answer(&asked.to_vec().expect("written"), Transport::Udp, places).expect("an answer");
    let answer = Message::from_vec(&bytes).expect("readable");
    let own = answer.edns.clone().expect("EDNS");
    assert_eq!((own.version(), own.rcode_high(), bytes[3] & 15, answer.answers.len()), (0, 1, 0, 0));
}

#[test]
fn what_does_not_fit_is_asked_for_again_by_tcp() {
    let name = format!("{}.example", ["a"; 60].join("."));
    let zone = Zone::new(&name, vec!["192.0.2.1".parse().expect("an address")], 8080).expect("valid");
    let long = format!("http://{}.example:8090", ["b".repeat(60), "c".repeat(60), "d".repeat(60)].join("."));
    let id = "x".repeat(63);
    for (payload, transport, is_whole) in [
        (None, Transport::Udp, false),
        (Some(100), Transport::Udp, false),
        (Some(1232), Transport::Udp, true),
        (None, Transport::Tcp, true),
    ] {
        let mut asked = query(&format!("_http._tcp.{id}.{name}."), RecordType::SRV);
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            asked.set_edns(edns);
        }
        let bytes = zone.answer(&asked.to_vec().expect("written"), transport, |_| Place::of(&long));
        let bytes = bytes.expect("an answer");
        let answer = Message::from_vec(&bytes).expect("readable");
        assert_eq!(answer.metadata.truncation, !is_whole, "{payload:?} {transport:?}");
        assert_eq!(answer.answers.len(), if is_whole { 2 } else { 0 });
        assert!(is_whole && bytes.len() > 512 || bytes.len() <= 512, "{} bytes", bytes.len());
        assert_eq!(answer.edns.is_some(), payload.is_some());
    }
}

#[test]
fn hosts_and_places() {
    let id = |text: &str| text.parse::<VolunteerId>().expect("valid");
    let host = |name, base_url| zone().host_of(&id(name), base_url);
    assert_eq!(host("v1", "http://10.0.0.7:8090").as_deref(), Some("v1.v.mirror.example"));
    assert_eq!(host("v1", "http://edge.example").as_deref(), Some("v1.v.mirror.example"));
    for (name, base_url) in [
        ("v1", "https://edge.example"),
        ("v1", "http://edge.example/below"),
        ("v1", "http://edge..example"),
        ("direct", "http://10.0.0.7:8090"),
        ("ns", "http://10.0.0.7:8090"),
    ] {
        assert_eq!(host(name, base_url), None, "{name} {base_url}");
    }
    let volunteer = |host: &str| zone().volunteer(host).map(String::from);
    assert_eq!(volunteer("v1.v.mirror.example").as_deref(), Some("v1"));
    for host in [
        "v.mirror.example",
        "a.b.v.mirror.example",
        "v1v.mirror.example",
        "mirror.example",
        "_x.v.mirror.example",
    ] {
        assert_eq!(volunteer(host), None, "{host}");
    }
}

#[test]
fn zone_names() {
    let new = |name: &str| Zone::new(name, Vec::new(), 80).map(|zone| zone.name());
    assert_eq!(new("v.mirror.example").as_deref(), Ok("v.mirror.example"));
    assert_eq!(new("V.Mirror.Example.").as_deref(), Ok("v.mirror.example"));
    for bad in
        ["", ".", "a..example", "-a.example", "a b.example", "*.example", "ä.example", &"a.".repeat(86)]
    {
        assert!(new(bad).is_err(), "{bad}");
    }
}

/// Bytes that are a sound question but for some.
fn nearly_sound() -> impl Strategy<Value = Vec<u8>> {
    let names = ["v1.v.mirror.example.", "_http._tcp.v6.v.mirror.example.", "other."];
    let changes = proptest::collection::vec((0usize..64, any::<u8>()), 0..6);
    (proptest::sample::select(names.to_vec()), any::<u16>(), any::<bool>(), changes).prop_map(
        |(name, kind, has_edns, changes)| {
            let mut message = query(name, RecordType::from(kind));
            if has_edns {
                message.set_edns(Edns::new());
            }
            let mut bytes = message.to_vec().expect("written");
            for (at, to) in changes {
                let at = at % bytes.len();
                bytes[at] = to;
            }
            bytes
        },
    )
}

proptest! {
    #[test]
    fn any_bytes_get_a_small_sound_answer_or_none(
        bytes in prop_oneof![proptest::collection::vec(any::<u8>(), 0..600), nearly_sound()], by_tcp: bool)
    {
        let transport = if by_tcp { Transport::Tcp } else { Transport::Udp };
        if let Some(answer) = zone().answer(&bytes, transport, places) {
            prop_assert!(answer.len() <= bytes.len().max(12) + 300, "{} bytes for {}", answer.len(), bytes.len());
            prop_assert_eq!(&answer[..2], &bytes[..2]);
            let read = Message::from_vec(&answer).expect("a readable answer");
            prop_assert_eq!(read.metadata.message_type, MessageType::Response);
            prop_assert!(!read.metadata.recursion_available);
        }
    }
}
