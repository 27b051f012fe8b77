//! Who a slave is and how it is reached.

use std::net::SocketAddr;

use crate::context::Recipient;
use crate::identity::{Incarnation, NodeId};
use crate::protocol::{Join, Merit};

/// What a slave has said of itself when it joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub node: NodeId,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Where it is asked.
    pub address: SocketAddr,
    /// One frame to the group reaches it.
    pub hears_group: bool,
    /// It has a time source of its own.
    pub is_reference: bool,
    /// Its place in the standby order.
    pub priority: i32,
    /// What it would bring to a mastership; `None`: it does not stand.
    pub merit: Option<Merit>,
}

impl Peer {
    /// The sender of a join, as reached from a master that has a group or not.
    pub fn new(node: NodeId, incarnation: Incarnation, address: SocketAddr, join: &Join, has_group: bool) -> Self {
        Self {
            node,
            incarnation,
            address,
            hears_group: join.hears_group && has_group,
            is_reference: join.is_reference,
            priority: join.priority,
            merit: join.merit,
        }
    }

    /// Whom a frame for it alone is for.
    pub fn recipient(&self) -> Recipient {
        Recipient::one(self.address, self.incarnation)
    }

    /// True when a frame of its number, from this life and this address, is its own.
    pub fn is(&self, incarnation: Incarnation, address: SocketAddr) -> bool {
        (self.incarnation, self.address) == (incarnation, address)
    }
}
