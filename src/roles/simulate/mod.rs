//! `manyhands simulate`: a scenario, played by discrete events over the same policy code that the server
//! decides with, and beside it the baselines on the same arrivals.
//!
//! A run is a function of scenario and seed: each purpose has a random stream of its own, nothing reads the
//! clock, and threads only share out whole runs. What is measured of the simulator itself (time, memory,
//! events per second) goes to standard error.
//!
//! Left out of the world: TCP, the server's disk, metadata, clients with several downloads at a time, and
//! bytes that are wrong.

mod arrivals;
mod balancers;
mod clients;
mod crowds;
mod engine;
mod figures;
mod first_minute;
mod html;
mod laws;
mod line;
mod nodes;
#[cfg(test)]
mod oracle_tests;
mod parameters;
mod plots;
mod relay;
mod report;
mod samples;
mod scenario;
mod slab;
mod stats;
mod table;
mod world;

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use balancers::Balancer;
use laws::SizeLaw;
use report::{Report, Summary, Swept, Target};
use samples::Outcome;
use scenario::Scenario;
use world::World;

/// What to simulate and what to write.
#[derive(Debug)]
pub struct Options {
    pub scenario: PathBuf,
    /// `KEY=VALUE`: keys of the scenario that get other values.
    pub changes: Vec<String>,
    /// The first seed, and how many.
    pub seed: u64,
    pub seeds: u64,
    /// Runs at a time.
    pub jobs: usize,
    /// `-` is standard output, instead of the table.
    pub json: Option<PathBuf>,
    pub html: Option<PathBuf>,
    /// Fail if a target is missed.
    pub check: bool,
    /// Show all that the policy said of crowds.
    pub verbose: bool,
}

/// Runs it all and writes the report.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let path = options.scenario.display();
    let text = fs::read_to_string(&options.scenario).with_context(|| format!("cannot read {path}"))?;
    let plan = Plan::new(&text, &options.changes).with_context(|| format!("{path} is not a scenario"))?;
    let catalog = catalog(&options.scenario, &plan.base)?;
    let report = plan.play(options, &catalog)?;
    let json = || serde_json::to_string_pretty(&report).map(|text| text + "\n");
    let mut stdout = std::io::stdout().lock();
    match options.json.as_deref() {
        Some(path) if path == Path::new("-") => stdout.write_all(json()?.as_bytes())?,
        json_path => {
            stdout.write_all(table::text(&report, options.verbose).as_bytes())?;
            if let Some(path) = json_path {
                fs::write(path, json()?).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
    }
    if let Some(path) = &options.html {
        fs::write(path, html::page(&report)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if options.check && !report.all_hold() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The sizes of the catalog file that the scenario names, which stands beside it.
fn catalog(scenario_file: &Path, scenario: &Scenario) -> anyhow::Result<Vec<u64>> {
    let SizeLaw::Catalog(path) = &scenario.files.size else { return Ok(Vec::new()) };
    let path = scenario_file.parent().unwrap_or(Path::new("")).join(path);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let sizes = laws::catalog_sizes(&text);
    anyhow::ensure!(!sizes.is_empty(), "{} has no sizes", path.display());
    Ok(sizes)
}

/// A scenario and its variants.
struct Plan {
    base: Scenario,
    /// Of each sweep, each value and what it makes of the scenario.
    swept: Vec<(String, Vec<(String, Scenario)>)>,
}

/// What is run under every seed.
struct Cell<'a> {
    scenario: &'a Scenario,
    balancer: Balancer,
}

impl Plan {
    fn new(text: &str, changes: &[String]) -> Result<Self, scenario::ScenarioError> {
        let mut base = Scenario::parse(text)?;
        let mut table: toml::Table = toml::from_str(text)?;
        for change in changes {
            base = Scenario::change(&mut table, change)?;
        }
        let mut swept = Vec::new();
        for sweep in &base.sweep {
            let mut variants = Vec::new();
            for value in &sweep.values {
                variants.push((value.to_string(), Scenario::with(&table, &sweep.key, value)?));
            }
            swept.push((sweep.key.clone(), variants));
        }
        Ok(Self { base, swept })
    }

    /// The base under all balancers, then the variants under ours.
    fn cells(&self) -> Vec<Cell<'_>> {
        let ours = |scenario| Cell { scenario, balancer: Balancer::Manyhands };
        let mut cells = vec![ours(&self.base)];
        let baselines = self.base.baselines.iter().filter(|balancer| **balancer != Balancer::Manyhands);
        cells.extend(baselines.map(|balancer| Cell { scenario: &self.base, balancer: *balancer }));
        let variants = self.swept.iter().flat_map(|(_, variants)| variants);
        cells.extend(variants.map(|(_, scenario)| ours(scenario)));
        cells
    }

    fn play(&self, options: &Options, catalog: &[u64]) -> anyhow::Result<Report> {
        let cells = self.cells();
        let seeds: Vec<u64> = (options.seed..options.seed.saturating_add(options.seeds.max(1))).collect();
        let outcomes = play_all(&cells, &seeds, catalog, options.jobs)?;
        let mut by_cell = outcomes.chunks(seeds.len());
        let own = 1 + self.base.baselines.iter().filter(|b| **b != Balancer::Manyhands).count();
        let balancers: Vec<Summary> = cells[..own]
            .iter()
            .zip(by_cell.by_ref())
            .filter_map(|(cell, outcomes)| Summary::new(cell.balancer, outcomes))
            .collect();
        let mut sweeps = Vec::new();
        for (key, variants) in &self.swept {
            let rows = variants.iter().zip(by_cell.by_ref());
            let rows = rows.map(|((value, _), outcomes)| (value.clone(), report::estimates(outcomes)));
            sweeps.push(Swept { key: key.clone(), rows: rows.collect() });
        }
        let ours = balancers.first().context("nothing was simulated")?;
        let target = |(name, bound): (&String, &scenario::Bound)| {
            let estimate = ours.figures.get(name.as_str())?;
            Some((name.clone(), Target::new(*bound, *estimate)))
        };
        let targets = self.base.targets.iter().filter_map(target).collect();
        Ok(Report { title: self.base.title.clone(), seeds, targets, balancers, sweeps })
    }
}

/// What a run gave, and the time it took; empty until it has ended.
type Slot = Mutex<Option<anyhow::Result<(Outcome, Duration)>>>;

/// Every cell under every seed; the outcomes in that order, whichever thread was first.
fn play_all(cells: &[Cell<'_>], seeds: &[u64], catalog: &[u64], jobs: usize) -> anyhow::Result<Vec<Outcome>> {
    let runs: Vec<(&Cell<'_>, u64)> =
        cells.iter().flat_map(|cell| seeds.iter().map(move |seed| (cell, *seed))).collect();
    let (next, bar, started) = (AtomicUsize::new(0), progress(), Instant::now());
    let slots: Vec<Slot> = runs.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, runs.len().max(1)) {
            scope.spawn(|| {
                while let Some((index, (cell, seed))) =
                    Some(next.fetch_add(1, Relaxed)).and_then(|index| Some((index, *runs.get(index)?)))
                {
                    let outcome = play(cell, catalog, seed, &bar);
                    *slots[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut outcomes = Vec::with_capacity(runs.len());
    let (mut events, mut busy) = (0, Duration::ZERO);
    for slot in slots {
        let outcome = slot.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (outcome, took) = outcome.context("a run did not end")??;
        events += outcome.events;
        busy += took;
        outcomes.push(outcome);
    }
    effort(runs.len(), events, busy, started.elapsed());
    Ok(outcomes)
}

fn play(
    cell: &Cell<'_>,
    catalog: &[u64],
    seed: u64,
    bar: &ProgressBar,
) -> anyhow::Result<(Outcome, Duration)> {
    let world = World::new(cell.scenario, catalog, cell.balancer, seed)?;
    bar.inc_length(world.expected() as u64);
    bar.set_message(format!("{}, seed {seed}", cell.balancer.name()));
    let (shown, started) = (AtomicUsize::new(0), Instant::now());
    let outcome = world.run(&|arrived| bar.inc((arrived - shown.swap(arrived, Relaxed)) as u64))?;
    Ok((outcome, started.elapsed()))
}

fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} clients {eta} {wide_msg}")
        .unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

/// What it cost to simulate: to standard error, since it differs from run to run.
fn effort(runs: usize, events: u64, busy: Duration, took: Duration) {
    let rate = events as f64 / busy.as_secs_f64().max(1e-9);
    let memory = peak_memory().map_or(String::new(), |kib| format!(", {} MiB at most", kib >> 10));
    eprintln!(
        "simulated {runs} runs, {events} events in {:.2} s: {rate:.0} events/s per core{memory}",
        took.as_secs_f64()
    );
}

/// Most memory that this process ever had, in KiB (Linux: proc(5)).
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
