//! A scenario: TOML text to a checked description of files, clients, volunteers and what goes wrong.
//! Unknown keys are errors. Every key is here with its default; `scenarios/*.toml` show them in use.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::balancers::Balancer;
use super::figures;
use super::laws::{RateLaw, SizeLaw, Span, SpanLaw};
use super::parameters;
use crate::model::{Rate, Size};
use crate::policy::Params;

/// Bounds of what one machine simulates.
const MAX_CLIENTS: usize = 20_000_000;
const MAX_FILES: usize = 10_000_000;
const MAX_VOLUNTEERS: usize = 10_000;
const MAX_FILES_PER_CLIENT: usize = 10_000;

/// See the module's documentation.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub title: String,
    /// How long clients arrive; the run continues until all are served.
    pub duration: Span,
    /// How long volunteers are there before the first client: they are tested, and make themselves known.
    #[serde(default = "thirty_seconds")]
    pub settle: Span,
    /// After clients begin to come, what is simulated and left out of the figures.
    #[serde(default)]
    pub warmup: Span,
    /// What manyhands is compared with; default: all.
    #[serde(default = "Balancer::baselines")]
    pub baselines: Vec<Balancer>,
    pub server: Server,
    pub volunteers: Vec<Volunteers>,
    pub files: Files,
    pub clients: Clients,
    pub release: Option<Release>,
    #[serde(default)]
    pub departures: Vec<Departure>,
    #[serde(default)]
    pub faults: Faults,
    /// Parameters of the policy that differ from the defaults, by name.
    #[serde(default)]
    pub params: BTreeMap<String, toml::Value>,
    /// Bounds of figures, by the figure's name.
    #[serde(default)]
    pub targets: BTreeMap<String, Bound>,
    #[serde(default)]
    pub sweep: Vec<Sweep>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub uplink: Rate,
}

/// A group of volunteers that are alike.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volunteers {
    pub count: usize,
    pub rate: RateLaw,
    /// If given, the rates are scaled to this sum.
    pub total: Option<Rate>,
    /// Disk for copies; default: room for all.
    pub store: Option<Size>,
    /// How long they stay, and stay away.
    #[serde(default = "always")]
    pub session: SpanLaw,
    #[serde(default = "always")]
    pub away: SpanLaw,
    /// Share of sessions that end without notice.
    #[serde(default)]
    pub crash: f64,
    /// The rate they claim over the one they have.
    #[serde(default = "one")]
    pub lie: f64,
    /// Share of what they send that is not what was asked for, whole files at a time.
    #[serde(default)]
    pub wrong: f64,
    /// They say themselves that they come and go.
    #[serde(default)]
    pub volatile: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    pub count: usize,
    pub size: SizeLaw,
    /// Exponent of Zipf's law of popularity; 0: all alike.
    #[serde(default)]
    pub zipf: f64,
    /// Copies of a file at the beginning, drawn in proportion to the volunteers' rates; 0: none.
    #[serde(default)]
    pub copies: usize,
    /// Share of the files, the most popular first, that have them.
    #[serde(default = "one")]
    pub seeded: f64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    pub shape: Shape,
    /// This many more come at the first instant.
    #[serde(default)]
    pub at_once: usize,
    /// Files that each fetches, one after the other.
    #[serde(default = "single")]
    pub files: usize,
    /// A client's own line; default: faster than any volunteer.
    pub line: Option<Rate>,
    /// Share of clients that ask the server again when a volunteer fails; the others have its direct URL.
    #[serde(default = "one")]
    pub can_return: f64,
    /// How long without a byte until a client gives up on a volunteer.
    #[serde(default = "thirty_seconds")]
    pub timeout: Span,
    /// One round trip; a redirect costs one more.
    #[serde(default)]
    pub round_trip: Span,
    /// A download that was cut off continues where it was.
    #[serde(default = "yes")]
    pub resume: bool,
}

/// How clients arrive.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Shape {
    /// Poisson: so many a second, or so much of all volunteers' rates.
    Steady { per_second: Option<f64>, load: Option<f64> },
    /// So many clients whose rate grows for `ramp` and then falls by half every `half_life`, besides a steady
    /// few.
    Flash {
        clients: usize,
        ramp: Span,
        half_life: Span,
        #[serde(default)]
        per_second: f64,
    },
    /// Poisson with a rate that swings by `swing` around its mean.
    Daily { per_second: f64, swing: f64, period: Span },
    /// So many, evenly spread over a window.
    Within { clients: usize, window: Span },
}

/// New versions of files appear; clients want only these, from the moment when they are visible.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    pub at: Span,
    /// The first so many files of `files` are new.
    pub files: usize,
    /// What the server has learned of their predecessors' demand, over what will come; 0: nothing.
    #[serde(default = "one")]
    pub learned: f64,
}

/// Many leave at once.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Departure {
    /// Counted from the release's becoming visible, if there is one.
    pub at: Span,
    /// Of the volunteers that are there.
    pub share: f64,
    /// Without a word.
    #[serde(default = "yes")]
    pub crash: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// When the server's connection to a volunteer that went without a word breaks.
    pub seen_after: Span,
    /// Share of heartbeats that are lost.
    pub lost_heartbeats: f64,
}

impl Default for Faults {
    fn default() -> Self {
        // Later than the missing heartbeats show it.
        Self { seen_after: Span(20.0), lost_heartbeats: 0.0 }
    }
}

/// What a figure should be.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    pub least: Option<f64>,
    pub most: Option<f64>,
}

impl Bound {
    pub fn holds(&self, value: f64) -> bool {
        self.least.is_none_or(|least| value >= least) && self.most.is_none_or(|most| value <= most)
    }
}

/// The scenario again for each value of one of its keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// Such as `params.beta` or `volunteers.0.lie`.
    pub key: String,
    pub values: Vec<toml::Value>,
}

fn one() -> f64 {
    1.0
}

fn single() -> usize {
    1
}

fn yes() -> bool {
    true
}

fn always() -> SpanLaw {
    SpanLaw::Always
}

fn thirty_seconds() -> Span {
    Span(30.0)
}

/// An error in a scenario, explained to the person who wrote it.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    #[error("{key}: {problem}")]
    Value { key: String, problem: String },
}

fn wrong<T>(key: impl Into<String>, problem: impl ToString) -> Result<T, ScenarioError> {
    Err(ScenarioError::Value { key: key.into(), problem: problem.to_string() })
}

impl Scenario {
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        // Errors of the text's own parse point at its lines.
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        let table: toml::Table = toml::from_str(text)?;
        for sweep in &scenario.sweep {
            for value in &sweep.values {
                Self::with(&table, &sweep.key, value)?;
            }
        }
        Ok(scenario)
    }

    /// Gives a key of the table another value, as `KEY=VALUE` says, and reads the scenario again. A value that is
    /// no TOML is a string.
    pub fn change(table: &mut toml::Table, change: &str) -> Result<Self, ScenarioError> {
        let Some((key, text)) = change.split_once('=') else {
            return wrong("--set", format!("{change:?} is not KEY=VALUE, for example duration=1min"));
        };
        let value = text.parse().unwrap_or_else(|_| toml::Value::String(text.to_owned()));
        *table = changed(table, "--set", key, &value)?;
        Self::of(table.clone())
    }

    /// The scenario of a table in which one key has another value.
    pub fn with(table: &toml::Table, key: &str, value: &toml::Value) -> Result<Self, ScenarioError> {
        Self::of(changed(table, "sweep", key, value)?)
    }

    fn of(table: toml::Table) -> Result<Self, ScenarioError> {
        let scenario: Self = table.try_into()?;
        scenario.check()?;
        Ok(scenario)
    }

    /// The policy's parameters.
    pub fn params(&self) -> Result<Params, ScenarioError> {
        let mut params = Params { uplink: self.server.uplink.0 as f64, ..Params::default() };
        // What follows from the heartbeat may be set after it.
        let is_heartbeat = |(name, _): &(&String, &toml::Value)| *name == "heartbeat";
        let (first, rest): (Vec<_>, Vec<_>) = self.params.iter().partition(is_heartbeat);
        for (name, value) in first.into_iter().chain(rest) {
            parameters::set(&mut params, name, value)
                .or_else(|problem| wrong(format!("params.{name}"), problem))?;
        }
        Ok(params)
    }

    fn check(&self) -> Result<(), ScenarioError> {
        self.params()?;
        if self.server.uplink.0 == 0 {
            return wrong("server.uplink", "must be above 0");
        }
        let volunteers: usize = self.volunteers.iter().map(|group| group.count).sum();
        if volunteers > MAX_VOLUNTEERS {
            return wrong("volunteers", format!("{volunteers} are more than {MAX_VOLUNTEERS}"));
        }
        for group in &self.volunteers {
            group.check()?;
        }
        let Files { count, size, zipf, seeded, .. } = &self.files;
        if !(1..=MAX_FILES).contains(count) {
            return wrong("files.count", format!("must be between 1 and {MAX_FILES}"));
        }
        size.check().or_else(|problem| wrong("files.size", problem))?;
        share("files.seeded", *seeded)?;
        if !(0.0..=4.0).contains(zipf) {
            return wrong("files.zipf", "must be between 0 and 4");
        }
        self.clients.check()?;
        if self.release.as_ref().is_some_and(|release| !(1..=*count).contains(&release.files)) {
            return wrong("release.files", "must be between 1 and files.count");
        }
        if self.release.as_ref().is_some_and(|release| !(0.0..=1000.0).contains(&release.learned)) {
            return wrong("release.learned", "must be between 0 and 1000");
        }
        for departure in &self.departures {
            share("departures.share", departure.share)?;
        }
        share("faults.lost_heartbeats", self.faults.lost_heartbeats)?;
        for (name, bound) in &self.targets {
            if !figures::NAMES.contains(&name.as_str()) {
                let known = figures::NAMES.join(", ");
                return wrong("targets", format!("{name:?} is no figure; there are {known}"));
            }
            if bound.least.is_none() && bound.most.is_none() {
                return wrong("targets", format!("{name} has neither least nor most"));
            }
        }
        Ok(())
    }
}

impl Volunteers {
    fn check(&self) -> Result<(), ScenarioError> {
        self.rate.check().or_else(|problem| wrong("volunteers.rate", problem))?;
        self.session.check().or_else(|problem| wrong("volunteers.session", problem))?;
        self.away.check().or_else(|problem| wrong("volunteers.away", problem))?;
        share("volunteers.crash", self.crash)?;
        share("volunteers.wrong", self.wrong)?;
        if !(0.01..=1000.0).contains(&self.lie) {
            return wrong("volunteers.lie", "must be between 0.01 and 1000");
        }
        Ok(())
    }
}

impl Clients {
    fn check(&self) -> Result<(), ScenarioError> {
        share("clients.can_return", self.can_return)?;
        if !(1..=MAX_FILES_PER_CLIENT).contains(&self.files) {
            return wrong("clients.files", format!("must be between 1 and {MAX_FILES_PER_CLIENT}"));
        }
        if self.line.is_some_and(|line| line.0 == 0) {
            return wrong("clients.line", "must be above 0");
        }
        if self.at_once > MAX_CLIENTS {
            return wrong("clients.at_once", format!("must be at most {MAX_CLIENTS}"));
        }
        let key = "clients.shape";
        match self.shape {
            Shape::Steady { per_second: Some(rate), load: None }
            | Shape::Steady { per_second: None, load: Some(rate) }
                if rate >= 0.0 =>
            {
                Ok(())
            }
            Shape::Steady { .. } => wrong(key, "steady has either per_second or load, not below 0"),
            Shape::Flash { clients, .. } | Shape::Within { clients, .. } if clients > MAX_CLIENTS => {
                wrong(key, format!("{clients} clients are more than {MAX_CLIENTS}"))
            }
            Shape::Flash { half_life, per_second, .. } if half_life.0 <= 0.0 || per_second < 0.0 => {
                wrong(key, "flash has a half_life above 0 and per_second not below 0")
            }
            Shape::Daily { per_second, swing, period }
                if !(0.0..=1.0).contains(&swing) || per_second < 0.0 || period.0 <= 0.0 =>
            {
                wrong(key, "daily has a swing between 0 and 1, a period above 0, per_second not below 0")
            }
            _ => Ok(()),
        }
    }
}

fn share(key: &str, value: f64) -> Result<(), ScenarioError> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { wrong(key, "must be between 0 and 1") }
}

/// The table with another value at a dotted key; `from` is who asks, for the error.
fn changed(
    table: &toml::Table,
    from: &str,
    key: &str,
    value: &toml::Value,
) -> Result<toml::Table, ScenarioError> {
    let mut changed = toml::Value::Table(table.clone());
    let Some(place) = place_of(&mut changed, key) else {
        return wrong(from, format!("{key:?} names no key of a table that is there"));
    };
    *place = value.clone();
    Ok(changed.try_into()?)
}

/// The value at a dotted key; a table's missing last key is made.
fn place_of<'a>(value: &'a mut toml::Value, key: &str) -> Option<&'a mut toml::Value> {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let inner = match value {
        toml::Value::Table(table) => {
            if rest.is_none() || first == "params" {
                table.entry(first).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            }
            table.get_mut(first)?
        }
        toml::Value::Array(array) => array.get_mut(first.parse::<usize>().ok()?)?,
        _ => return None,
    };
    match rest {
        Some(rest) => place_of(inner, rest),
        None => Some(inner),
    }
}

#[cfg(test)]
#[path = "scenario_tests.rs"]
mod tests;
