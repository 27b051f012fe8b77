//! Makes a group of machines without a trustworthy time source agree on the time: the Berkeley algorithm.

pub mod average;
pub mod config;
pub mod identity;
pub mod protocol;
pub mod time;
