//! Which addresses are our own network's: where no upstream and no client may lead us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Loopback, link-local, private (RFC 1918, RFC 4193, RFC 6598), unspecified, multicast or broadcast; an
/// IPv6 address that stands for such an IPv4 one too (RFC 4291, RFC 6052).
pub fn is_inside(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let is_shared = first == 100 && second & 0xc0 == 64;
            v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || first == 0
                || is_shared
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || translated(v6).is_some_and(|v4| is_inside(v4.into()))
        }
    }
}

/// The IPv4 address in one of NAT64's well-known prefix.
fn translated(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = address.segments() else { return None };
    Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_and_outside() {
        let check = |text: &str| is_inside(text.parse().expect("an address"));
        for inside in [
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "100.64.0.1",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
        ] {
            assert!(check(inside), "{inside}");
        }
        for outside in
            ["192.0.2.1", "100.128.0.1", "172.32.0.1", "2001:db8::1", "::ffff:192.0.2.1", "64:ff9b::c000:201"]
        {
            assert!(!check(outside), "{outside}");
        }
    }
}
