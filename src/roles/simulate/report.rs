//! What all runs of a scenario give together: figures with confidence intervals, beside targets and baselines.

use std::collections::BTreeMap;

use serde::Serialize;

use super::balancers::Balancer;
use super::figures::{Curves, NAMES};
use super::samples::Outcome;
use super::scenario::Bound;
use super::stats::confidence;

/// See the module's documentation. Its JSON is a function of scenario and seeds.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub title: String,
    pub seeds: Vec<u64>,
    pub targets: BTreeMap<String, Target>,
    pub balancers: Vec<Summary>,
    pub sweeps: Vec<Swept>,
}

/// A bound, and whether manyhands is within it.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most: Option<f64>,
    pub holds: bool,
}

/// A figure over all seeds: its mean, and half the width of its 95 % confidence interval.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Estimate {
    pub mean: f64,
    pub ci95: f64,
}

pub type Estimates = BTreeMap<&'static str, Estimate>;

/// One balancer; curves and lists are of the first seed.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub balancer: Balancer,
    pub figures: Estimates,
    pub events: u64,
    /// Download times in seconds at evenly spread shares of the downloads.
    pub distribution: Vec<f64>,
    pub curves: Curves,
    /// Rate in bytes/s and use over the run of each volunteer.
    pub volunteers: Vec<(f64, f64)>,
    /// What the policy said of flash crowds.
    pub crowds: Vec<String>,
}

/// One key of the scenario at several values.
#[derive(Clone, Debug, Serialize)]
pub struct Swept {
    pub key: String,
    pub rows: Vec<(String, Estimates)>,
}

/// Figures of the same thing under several seeds.
pub fn estimates(outcomes: &[Outcome]) -> Estimates {
    let estimate = |name| {
        let values: Vec<f64> = outcomes.iter().map(|outcome| outcome.figures.get(name)).collect();
        let (mean, ci95) = confidence(&values);
        Estimate { mean, ci95 }
    };
    NAMES.iter().map(|name| (*name, estimate(name))).collect()
}

impl Summary {
    /// Of at least one outcome; `None` of none.
    pub fn new(balancer: Balancer, outcomes: &[Outcome]) -> Option<Self> {
        let first = outcomes.first()?;
        Some(Self {
            balancer,
            figures: estimates(outcomes),
            events: outcomes.iter().map(|outcome| outcome.events).sum(),
            distribution: first.distribution.clone(),
            curves: first.curves.clone(),
            volunteers: first.volunteers.clone(),
            crowds: first.crowds.clone(),
        })
    }
}

impl Target {
    pub fn new(bound: Bound, estimate: Estimate) -> Self {
        Self { least: bound.least, most: bound.most, holds: bound.holds(estimate.mean) }
    }

    pub fn text(&self) -> String {
        match (self.least, self.most) {
            (Some(least), Some(most)) => format!("{least} to {most}"),
            (Some(least), None) => format!("at least {least}"),
            (None, Some(most)) => format!("at most {most}"),
            (None, None) => "none".to_owned(),
        }
    }
}

impl Report {
    /// The figures that there are: of any balancer, or with a target.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let has = |summary: &Summary, name: &str| {
            summary.figures.get(name).is_some_and(|estimate| estimate.mean.is_finite())
        };
        NAMES.into_iter().filter(move |name| {
            self.targets.contains_key(*name) || self.balancers.iter().any(|summary| has(summary, name))
        })
    }

    pub fn all_hold(&self) -> bool {
        self.targets.values().all(|target| target.holds)
    }
}
