//! Makes a group of machines without a trustworthy time source agree on the time: the Berkeley algorithm.

pub mod average;
pub mod clock;
pub mod config;
pub mod context;
pub mod counters;
pub mod estimator;
pub mod exchange;
pub mod identity;
pub mod master;
pub mod member;
pub mod node;
pub mod protocol;
pub mod round_trip;
pub mod slave;
pub mod stamp;
pub mod time;
pub mod timers;
