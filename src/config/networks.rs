//! `[[network]]` and `[[volunteer]]`: which clients may be sent to which volunteers.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::ConfigError;
use crate::model::VolunteerId;

/// All rules about networks. Default: none, so every client may be sent to every volunteer.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    clients: Vec<NetworkRule>,
    volunteers: Vec<VolunteerRule>,
}

/// How the clients of some networks are treated.
#[derive(Clone, Debug)]
pub struct NetworkRule {
    clients: Vec<IpNet>,
    /// Whether they may be redirected at all. Default: true.
    pub redirect: bool,
    /// Volunteers of the same site: these serve while one of them holds the file and has room. Default: none.
    prefer: Vec<Pattern>,
}

/// Which clients some volunteers serve.
#[derive(Clone, Debug)]
struct VolunteerRule {
    id: Pattern,
    clients: Vec<IpNet>,
}

/// An id, or the beginning of ids: `berlin-*`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Id(String),
    Prefix(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNetwork {
    clients: Vec<String>,
    #[serde(default = "yes")]
    redirect: bool,
    #[serde(default)]
    prefer: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVolunteer {
    id: String,
    clients: Vec<String>,
}

fn yes() -> bool {
    true
}

impl Networks {
    pub(super) fn from_raw(
        networks: Vec<RawNetwork>,
        volunteers: Vec<RawVolunteer>,
    ) -> Result<Self, ConfigError> {
        let clients = networks.into_iter().map(NetworkRule::from_raw).collect::<Result<_, _>>()?;
        let rule = |raw: RawVolunteer| {
            let key = format!("volunteer {:?}", raw.id);
            let (id, clients) = (Pattern::parse(&key, &raw.id)?, networks_of(&key, &raw.clients)?);
            Ok::<_, ConfigError>(VolunteerRule { id, clients })
        };
        let volunteers = volunteers.into_iter().map(rule).collect::<Result<_, _>>()?;
        Ok(Self { clients, volunteers })
    }

    /// The rule for a client: of those that name its network, the one with the longest prefix.
    pub fn of(&self, client: IpAddr) -> Option<&NetworkRule> {
        let longest = |rule: &NetworkRule| {
            rule.clients.iter().filter(|net| net.contains(&client)).map(IpNet::prefix_len).max()
        };
        let named = self.clients.iter().filter_map(|rule| Some((longest(rule)?, rule)));
        named.max_by_key(|(prefix, _)| *prefix).map(|(_, rule)| rule)
    }

    /// Whether a rule says which clients this volunteer serves.
    pub fn limit(&self, id: &VolunteerId) -> bool {
        self.volunteers.iter().any(|rule| rule.id.matches(id))
    }

    /// Whether there is any rule about which clients volunteers serve.
    pub fn limit_volunteers(&self) -> bool {
        !self.volunteers.is_empty()
    }

    /// Whether a volunteer serves a client; every rule about it counts.
    pub fn serves(&self, volunteer: &VolunteerId, client: IpAddr) -> bool {
        let mut about = self.volunteers.iter().filter(|rule| rule.id.matches(volunteer));
        about.all(|rule| contain(&rule.clients, client))
    }
}

impl NetworkRule {
    fn from_raw(raw: RawNetwork) -> Result<Self, ConfigError> {
        let key = format!("network {:?}", raw.clients.first().map_or("", String::as_str));
        let prefer = raw.prefer.iter().map(|id| Pattern::parse(&key, id)).collect::<Result<_, _>>()?;
        Ok(Self { clients: networks_of(&key, &raw.clients)?, redirect: raw.redirect, prefer })
    }

    pub fn has_preferences(&self) -> bool {
        !self.prefer.is_empty()
    }

    pub fn prefers(&self, volunteer: &VolunteerId) -> bool {
        self.prefer.iter().any(|pattern| pattern.matches(volunteer))
    }
}

impl Pattern {
    fn parse(key: &str, text: &str) -> Result<Self, ConfigError> {
        let (stem, pattern) = match text.strip_suffix('*') {
            Some(stem) => (stem, Self::Prefix(stem.to_owned())),
            None => (text, Self::Id(text.to_owned())),
        };
        // An id may not end in a hyphen; the beginning of one may.
        let id = stem.trim_end_matches('-').parse::<VolunteerId>();
        match id {
            Ok(_) => Ok(pattern),
            Err(_) if text == "*" => Ok(pattern),
            Err(e) => Err(ConfigError::value(key, format!("{e}, and perhaps a final *"))),
        }
    }

    fn matches(&self, id: &VolunteerId) -> bool {
        match self {
            Self::Id(own) => own == id.as_str(),
            Self::Prefix(stem) => id.as_str().starts_with(stem.as_str()),
        }
    }
}

/// Reads networks as people write them; a single address is a network of one.
pub(super) fn networks_of(key: &str, texts: &[String]) -> Result<Vec<IpNet>, ConfigError> {
    if texts.is_empty() {
        return Err(ConfigError::value(key, "clients names no network: set, for example, [\"10.0.0.0/8\"]"));
    }
    let one = |text: &String| {
        let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        net.ok_or_else(|| {
            let problem =
                format!("{text:?} is not a network: write ADDRESS/BITS, such as 10.0.0.0/8 or 2001:db8::/32");
            ConfigError::value(key, problem)
        })
    };
    texts.iter().map(one).collect()
}

/// Whether one of the networks has the address.
pub fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|net| net.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        network: Vec<RawNetwork>,
        #[serde(default)]
        volunteer: Vec<RawVolunteer>,
    }

    fn parse(text: &str) -> Result<Networks, ConfigError> {
        let file: File = toml::from_str(text)?;
        Networks::from_raw(file.network, file.volunteer)
    }

    #[test]
    fn the_longest_prefix_counts_and_patterns_match() {
        let networks = parse(
            "[[network]]\nclients=['10.0.0.0/8','2001:db8::/32']\nredirect=false\n\
             [[network]]\nclients=['10.1.0.0/16']\nprefer=['berlin-*','x1']\n\
             [[volunteer]]\nid='campus-*'\nclients=['10.1.2.0/24', '10.9.9.9']",
        )
        .expect("valid");
        let of = |address: &str| networks.of(address.parse().expect("an address"));
        for (address, redirect) in [
            ("10.2.0.1", Some(false)),
            ("10.1.0.1", Some(true)),
            ("2001:db8::1", Some(false)),
            ("192.0.2.1", None),
        ] {
            assert_eq!(of(address).map(|rule| rule.redirect), redirect, "{address}");
        }
        let id = |text: &str| text.parse::<VolunteerId>().expect("an id");
        let rule = of("10.1.0.1").expect("a rule");
        assert!(rule.prefers(&id("berlin-7")) && rule.prefers(&id("x1")) && !rule.prefers(&id("x11")));
        let serves = |volunteer: &str, client: &str| {
            networks.serves(&id(volunteer), client.parse().expect("an address"))
        };
        assert!(serves("campus-1", "10.1.2.3") && serves("campus-1", "10.9.9.9"));
        assert!(!serves("campus-1", "10.1.3.3") && serves("other", "10.1.3.3"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("[[network]]\nclients=['10.0.0.0/33']", "is not a network"),
            ("[[network]]\nclients=[]", "names no network"),
            ("[[network]]\nclients=['::/0']\nprefer=['Upper']", "cannot name a volunteer"),
            ("[[network]]\nclients=['::/0']\nredirct=true", "redirct"),
            ("[[volunteer]]\nid='a b'\nclients=['::/0']", "cannot name a volunteer"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
