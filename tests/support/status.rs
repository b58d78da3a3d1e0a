//! The server's status as tests ask for it.

use serde_json::Value;

/// One answer of the admin API.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    /// The number at a JSON pointer; a missing one is a failure, not a zero.
    pub fn number(&self, pointer: &str) -> u64 {
        let value = self.0.pointer(pointer).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("no number at {pointer} in {}", self.pretty()))
    }

    pub fn offload(&self, field: &str) -> u64 {
        self.number(&format!("/offload/{field}"))
    }

    pub fn volunteers(&self) -> &[Value] {
        self.0.pointer("/volunteers").and_then(Value::as_array).expect("status has volunteers")
    }

    pub fn volunteer(&self, id: &str) -> Option<&Value> {
        self.volunteers().iter().find(|v| v["id"] == id)
    }

    /// One field of one volunteer; 0 while the server does not know it.
    pub fn of(&self, id: &str, field: &str) -> u64 {
        let Some(volunteer) = self.volunteer(id) else { return 0 };
        volunteer[field].as_u64().unwrap_or_else(|| panic!("volunteer {id} has no {field}: {volunteer}"))
    }

    pub fn state(&self, id: &str) -> &str {
        self.volunteer(id).and_then(|v| v["state"].as_str()).unwrap_or("gone")
    }

    /// A field summed over all volunteers.
    pub fn sum(&self, field: &str) -> u64 {
        self.volunteers().iter().map(|v| v[field].as_u64().expect("a number")).sum()
    }

    pub fn is_placed(&self) -> bool {
        self.sum("orders") == 0
    }

    pub fn pretty(&self) -> String {
        serde_json::to_string_pretty(&self.0).expect("JSON")
    }
}
