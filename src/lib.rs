//! Makes a group of machines without a trustworthy time source agree on the time: the Berkeley algorithm.
//!
//! A master polls its slaves, measures their clocks by Cristian's method, averages those that agree, its own among them, and
//! sends each the correction that it needs. Each step is one file:
//!
//! | step | module |
//! | --- | --- |
//! | frames on the wire | [`protocol`] |
//! | four stamps to an offset and a delay | [`exchange`] |
//! | many of them to offset and skew | [`estimator`] |
//! | which clocks are averaged, and how | [`average`] |
//! | rounds: poll, average, correct | [`master`], [`member`] |
//! | answer, correct, hold over | [`slave`] |
//! | who is master | [`election`] |
//! | the clock that is kept | [`clock`] |
//! | who may speak, and never twice | [`keys`], [`auth`], [`cmac`], [`replay`], and how much: [`strangers`] |
//!
//! [`node`] puts these together into the one type that a driver holds: it is handed datagrams, stamps and the time, and
//! gives back datagrams, events and its next deadline. Nothing below it reads a clock or opens a socket. [`event_loop`]
//! drives it on real sockets, [`sim`] on simulated ones; `examples/embedding.rs` does it in thirty lines.

pub mod auth;
pub mod average;
pub mod cli;
pub mod clock;
pub mod cmac;
pub mod commands;
pub mod config;
pub mod config_file;
pub mod context;
pub mod counters;
pub mod election;
pub mod estimator;
pub(crate) mod event_log;
pub mod event_loop;
pub mod exchange;
pub mod exporter;
pub mod failure;
pub mod guarantee;
pub mod guard;
pub mod identity;
pub(crate) mod interfaces;
pub mod key_file;
pub mod keys;
pub mod local_clock;
pub(crate) mod log_allowance;
pub mod log_output;
pub mod master;
pub mod member;
pub mod net;
pub mod node;
pub mod observation;
pub mod privileges;
pub mod protocol;
pub mod replay;
pub mod round_trip;
pub mod run_config;
pub mod seccomp;
pub mod service_manager;
pub mod settings;
pub mod sim;
pub mod slave;
pub mod sources;
pub mod stamp;
pub mod state_dir;
pub mod status;
pub mod status_client;
pub mod status_socket;
pub mod strangers;
pub mod system_clock;
pub mod tiers;
pub mod time;
pub mod timers;
pub mod unanswered;
pub mod witness;
