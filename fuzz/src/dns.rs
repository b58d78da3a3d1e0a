//! Questions to the failover zone: every answer is small and one of ours.

use std::sync::LazyLock;

use manyhands::formats::zone::{Place, Transport, Zone};

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let addresses = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().expect("an address"));
    Zone::new("v.mirror.example", addresses.to_vec(), 8080).expect("valid")
});

/// A DNS message, as it comes by UDP.
pub fn dns(data: &[u8]) -> usize {
    let ask = |transport| {
        ZONE.answer(data, transport, |id| match id.as_str() {
            "v1" => Place::of("http://10.0.0.7:8090"),
            "named" => Place::of("http://edge.example"),
            _ => None,
        })
    };
    let (udp, tcp) = (ask(Transport::Udp), ask(Transport::Tcp));
    assert_eq!(udp.is_some(), tcp.is_some());
    let (Some(udp), Some(tcp)) = (udp, tcp) else { return 0 };
    let is_cut = udp[2] & 2 != 0;
    assert!(is_cut || udp == tcp);
    for answer in [&udp, &tcp] {
        assert!((12..=data.len().max(12) + 300).contains(&answer.len()), "{} bytes", answer.len());
        assert_eq!(answer[..2], data[..2], "the number");
        assert_eq!(answer[2] & 0xf8, data[2] & 0x78 | 0x80, "an answer, of the same operation");
        assert_eq!(answer[3] & 0x80, 0, "no recursion");
    }
    // NOERROR, NXDOMAIN.
    usize::from(matches!(udp[3] & 15, 0 | 3))
}
