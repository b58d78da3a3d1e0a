//! Control messages and configuration: what is read is written back the same, and is within its bounds.

use std::fmt::Debug;
use std::sync::LazyLock;

use manyhands::config::{Origin, Profiles, ServeConfig, VolunteerOptions};
use manyhands::formats::control::{self, ToServer, ToVolunteer};
use manyhands::formats::status::Status;
use manyhands::roles::serve::http::target::Door;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A control message, in JSON or binary.
pub fn control(data: &[u8]) -> usize {
    if let Some((change, blobs)) = control::decode_holdings(data) {
        let blobs: Vec<_> = blobs.collect();
        assert!(blobs.len() <= control::MAX_HOLDINGS);
        assert_eq!(control::encode_holdings(change, &blobs), data);
        return 1;
    }
    let messages = [
        round_trip::<ToServer>(data),
        round_trip::<ToVolunteer>(data),
        round_trip::<control::MatchRequest>(data),
        round_trip::<control::MatchReply>(data),
        round_trip::<control::LookupRequest>(data),
        round_trip::<control::LookupReply>(data),
    ];
    let status = serde_json::from_slice::<Status>(data).is_ok();
    messages.into_iter().chain([status]).map(usize::from).sum()
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) -> bool {
    let Ok(message) = serde_json::from_slice::<T>(data) else { return false };
    let text = serde_json::to_string(&message).expect("serialises");
    assert_eq!(serde_json::from_str::<T>(&text).expect("its own form"), message);
    true
}

static PROFILES: LazyLock<Profiles> = LazyLock::new(|| Profiles::built_in().expect("built in"));

/// A configuration file of a server or a volunteer, or a profile.
pub fn config(data: &[u8]) -> usize {
    let Ok(text) = std::str::from_utf8(data) else { return 0 };
    let mut read = 0;
    if let Ok(config) = ServeConfig::parse(text, &PROFILES) {
        assert!(ServeConfig::distros_dir(text).is_ok());
        assert!(!config.listen.is_empty() && config.max_connections > 0);
        for repo in &config.repos {
            assert!(!repo.name.starts_with('.') && !repo.name.contains(['/', '%', '_']), "{:?}", repo.name);
            assert!(repo.keyring.iter().all(|path| path.is_absolute()));
            match &repo.origin {
                Origin::Tree(path) => assert!(path.is_absolute()),
                Origin::Upstream(urls) => assert!(urls.iter().all(|url| !url.ends_with('/'))),
            }
            repo.client_hint(&config.shown_url());
        }
        Door::new(&config);
        read += 1;
    }
    if let Ok(options) = VolunteerOptions::parse(text) {
        read += 1;
        if let Ok(config) = options.over(VolunteerOptions::default()).validate() {
            assert!(config.max_connections > 0 && config.adopt.iter().all(|path| path.is_absolute()));
        }
    }
    let mut profiles = PROFILES.clone();
    if profiles.add("new", text).is_ok() {
        assert!(profiles.get("new").is_ok());
        read += 1;
    }
    read
}
