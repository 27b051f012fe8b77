//! The simulator: the very nodes that the event loop drives, on oscillators and links with faults, against a true time that
//! no node can see. A run is determined by its scenario and its seed.
//!
//! | file | holds |
//! | --- | --- |
//! | `scenario.rs` | what is simulated: data, read from TOML |
//! | `random.rs` | seeded streams of random numbers, the same on every machine |
//! | `oscillator.rs` | true time to a node's local time, and back |
//! | `link.rs` | the fate of a datagram |
//! | `liars.rs` | members that do not tell the truth |
//! | `schedule.rs` | what is planned, in the order in which it happens |
//! | `topology.rs` | which node stands in which network |
//! | `world.rs` | the group: nodes, links between them, faults |
//! | `coarse.rs` | one ensemble below a submaster without its frames |
//! | `tree.rs` | tiers of ensembles, more than the world has room for |
//! | `tree_outcome.rs` | what such a run measured, in words and as JSON |
//! | `invariants.rs` | what must hold after every event |
//! | `report.rs` | what the world tells while it runs |
//! | `recorder.rs` | who listens to it |
//! | `outcome.rs` | what a run measured, in words and as JSON |
//! | `words.rs` | spans and counts for people |
//! | `statistics.rs` | the figures in it |
//! | `trace.rs` | every clock over time, decimated |
//! | `batch.rs` | many runs at once |
//! | `plot.rs` | a picture of a run |
//! | `scenario_file.rs` | scenarios from files, and the place of a mistake in one |

pub mod batch;
pub(crate) mod coarse;
pub(crate) mod invariants;
pub(crate) mod liars;
pub mod link;
pub mod oscillator;
pub mod outcome;
pub mod plot;
pub mod random;
pub mod recorder;
pub mod report;
pub mod scenario;
pub mod scenario_file;
pub(crate) mod schedule;
pub(crate) mod statistics;
pub(crate) mod topology;
pub mod trace;
pub mod tree;
pub mod tree_outcome;
pub(crate) mod words;
pub mod world;
