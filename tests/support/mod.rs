//! What several test programs share: a network in virtual time, real nodes, somebody who speaks the protocol by hand, the
//! plainest message of each kind, somebody who looks: by HTTP and with a browser, and patience with a machine that stands still.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test support: each test program uses a part of it, and what fails here is a broken test"
)]

pub mod actor;
pub mod browser;
pub mod http;
pub mod lab;
pub mod messages;
pub mod network;
pub mod steady;
