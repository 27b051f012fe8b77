//! What a running node may do: what it needs, and nothing more. The rest is given up for good, before the first datagram is read.
//!
//! Three measures, each of which `--without NAME` leaves out, and a change of user (`--user`):
//!
//! | measure | what is given up |
//! | --- | --- |
//! | `capabilities` | all of them, in every set; only CAP_SYS_TIME is kept, and only when the machine's clock is steered |
//! | `no-new-privs` | what an executed program could win back: set-user-id bits, file capabilities |
//! | `seccomp` | the system calls that the event loop does not need, see [`crate::seccomp`] |
//!
//! The order matters. What takes a privilege comes first: ports are bound, the status socket and the state directory made. Then
//! [`Restraint::change_user`]. Whatever lies in the state directory, and every other file, is read and written only now: root would follow a
//! link that the other user has laid there, and a file that this user cannot read is better missed at the start than at the next reading.
//! [`Restraint::confine`] comes last, since its filter bars what the preparations take.
//!
//! A change of user that fails, or capabilities that stay, end the start: the operator counts on them. A kernel or a machine without filters
//! does not, because the filter is there unasked; the log and the status say what is in force.
//!
//! Not decided here: which calls the loop needs (`seccomp.rs`), and whether the machine's clock may be set (`system_clock.rs`).
//!
//! Sources: capabilities(7), prctl(2), seccomp(2).

use std::collections::HashSet;
use std::env;
use std::fmt;
use std::str::FromStr;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use clap::ValueEnum;
use log::warn;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, User, getresgid, getresuid, setgroups, setresgid, setresuid};

use crate::seccomp;
use crate::status::PrivilegeStatus;

/// A protection that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    /// Capabilities are dropped.
    Capabilities,
    /// Nothing that is executed gains privileges.
    NoNewPrivs,
    /// System calls are filtered.
    Seccomp,
}

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: Uid,
    /// The group.
    pub gid: Gid,
}

/// Another user to run as, as the operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserName {
    /// By a name that this machine knows; the group is the user's primary one.
    Name(String),
    /// By numbers, which need no entry anywhere.
    Numbers(Owner),
}

/// Reads `NAME` or `UID:GID`.
impl FromStr for UserName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The largest number stands for "as it is" in the system calls: whoever asked for it would stay root.
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number != u32::MAX);
        match text.split_once(':') {
            Some((uid, gid)) => match (number(uid), number(gid)) {
                (Some(uid), Some(gid)) => Ok(Self::Numbers(Owner { uid: uid.into(), gid: gid.into() })),
                (None, _) | (_, None) => Err("must be a name, or two numbers as in 65534:65534"),
            },
            None if text.is_empty() => Err("must be a name, or two numbers as in 65534:65534"),
            None => Ok(Self::Name(text.to_owned())),
        }
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Numbers(Owner { uid, gid }) => write!(f, "{uid}:{gid}"),
        }
    }
}

impl UserName {
    /// The numbers.
    pub(crate) fn look_up(&self) -> Result<Owner, PrivilegeError> {
        match self {
            Self::Numbers(owner) => Ok(*owner),
            Self::Name(name) => match User::from_name(name) {
                Ok(Some(user)) => Ok(Owner { uid: user.uid, gid: user.gid }),
                Ok(None) => Err(PrivilegeError::NoSuchUser(name.clone())),
                Err(error) => Err(PrivilegeError::User { attempt: "look up the user", error }),
            },
        }
    }
}

/// Why privileges could not be given up.
#[derive(Debug)]
pub enum PrivilegeError {
    /// This machine does not know the user.
    NoSuchUser(String),
    /// The user cannot be changed.
    User {
        /// What was tried.
        attempt: &'static str,
        /// What the system said.
        error: Errno,
    },
    /// The capabilities cannot be read or dropped.
    Capabilities(CapsError),
    /// Executed programs may still gain privileges.
    NoNewPrivs(Errno),
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchUser(name) => {
                write!(f, "there is no user {name} on this machine (numbers need a group, as in 65534:65534)")
            }
            Self::User { attempt, error: Errno::EPERM } => {
                write!(f, "cannot {attempt}: only root can, or who has CAP_SETUID and CAP_SETGID")
            }
            Self::User { attempt, error } => write!(f, "cannot {attempt}: {}", error.desc()),
            Self::Capabilities(error) => {
                write!(f, "cannot drop capabilities: {error} (--without capabilities leaves them)")
            }
            Self::NoNewPrivs(error) => write!(f, "cannot set no-new-privs: {}", error.desc()),
        }
    }
}

impl std::error::Error for PrivilegeError {}

impl From<CapsError> for PrivilegeError {
    fn from(error: CapsError) -> Self {
        Self::Capabilities(error)
    }
}

/// What a node shall give up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restraint {
    user: Option<Owner>,
    without: Vec<Measure>,
    steers_system_clock: bool,
}

impl Restraint {
    /// To become `user` (`None`: to stay who one is) and take all measures but those `without`; the machine's clock is kept within reach if the
    /// node steers it.
    ///
    /// # Errors
    /// There is no such user, or this process cannot become it.
    pub fn new(
        user: Option<&UserName>,
        without: Vec<Measure>,
        steers_system_clock: bool,
    ) -> Result<Self, PrivilegeError> {
        let user = user.map(UserName::look_up).transpose()?;
        if user.is_some_and(|user| !is(user)) && !may_change_user()? {
            return Err(PrivilegeError::User { attempt: "change the user", error: Errno::EPERM });
        }
        Ok(Self { user, without, steers_system_clock })
    }

    /// The user that this process will be, if another than it was.
    pub fn user(&self) -> Option<Owner> {
        self.user
    }

    fn has(&self, measure: Measure) -> bool {
        !self.without.contains(&measure)
    }

    /// Becomes the user, and drops the capabilities that are not needed. In a user namespace of one user the groups cannot be cleared, and this
    /// fails.
    ///
    /// # Errors
    /// The system refuses.
    pub fn change_user(&self) -> Result<(), PrivilegeError> {
        let mut kept = caps::read(None, CapSet::Permitted)?;
        if self.has(Measure::Capabilities) {
            kept.retain(|capability| self.steers_system_clock && *capability == Capability::CAP_SYS_TIME);
            // Who may not limit what programs can get is left with no-new-privs, which keeps them from getting it.
            if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
                caps::clear(None, CapSet::Bounding)?;
            }
        } else if self.user.is_none() {
            return Ok(());
        }
        if let Some(user) = self.user {
            become_user(user)?;
        }
        // A change of user has emptied the effective set. It cannot exceed the permitted one, which is therefore cut afterwards.
        leave(CapSet::Effective, &kept)?;
        leave(CapSet::Permitted, &kept)?;
        if self.has(Measure::Capabilities) {
            leave(CapSet::Inheritable, &CapsHashSet::new())?;
        }
        Ok(())
    }

    /// Gives up what only the preparations took. From here on the process can do what the event loop does, and says what is in force.
    ///
    /// # Errors
    /// The system refuses.
    pub fn confine(&self) -> Result<PrivilegeStatus, PrivilegeError> {
        if self.has(Measure::NoNewPrivs) {
            prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivs)?;
        }
        // Read back instead of taken for granted, and while it can be read.
        let (uids, gids) = (getresuid(), getresgid());
        let asked = |error| PrivilegeError::User { attempt: "tell the user", error };
        let mut status = PrivilegeStatus {
            uid: uids.map_err(asked)?.effective.as_raw(),
            gid: gids.map_err(asked)?.effective.as_raw(),
            capabilities: names(caps::read(None, CapSet::Permitted)?),
            no_new_privs: prctl::get_no_new_privs().map_err(PrivilegeError::NoNewPrivs)?,
            seccomp: false,
        };
        if self.has(Measure::Seccomp) {
            status.seccomp = self.filter_calls();
        }
        Ok(status)
    }

    /// True when the filter is in force.
    fn filter_calls(&self) -> bool {
        // Its calls are not ours: valgrind, faketime, other allocators.
        if env::var_os("LD_PRELOAD").is_some_and(|libraries| !libraries.is_empty()) {
            warn!("system calls are not filtered: LD_PRELOAD brings code that may need others");
            return false;
        }
        let installed = seccomp::install(self.steers_system_clock);
        if let Err(error) = &installed {
            warn!("system calls are not filtered: {error}");
        }
        installed.is_ok()
    }
}

/// Whether this process is nobody but this user.
fn is(Owner { uid, gid }: Owner) -> bool {
    let (uids, gids) = (getresuid(), getresgid());
    uids.is_ok_and(|uids| [uids.real, uids.effective, uids.saved] == [uid; 3])
        && gids.is_ok_and(|gids| [gids.real, gids.effective, gids.saved] == [gid; 3])
}

fn may_change_user() -> Result<bool, CapsError> {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability);
    Ok(has(Capability::CAP_SETUID)? && has(Capability::CAP_SETGID)?)
}

/// Sets what is in a set of capabilities. A service manager that has left no others may have forbidden the call as well.
fn leave(set: CapSet, kept: &CapsHashSet) -> Result<(), CapsError> {
    if caps::read(None, set)? == *kept { Ok(()) } else { caps::set(None, set, kept) }
}

/// Changes the user and group for good, and leaves all other groups. Permitted capabilities stay.
fn become_user(Owner { uid, gid }: Owner) -> Result<(), PrivilegeError> {
    // A service manager has made the change already; which groups it has left is its own affair.
    if !may_change_user()? {
        return Ok(());
    }
    let refused = |attempt| move |error| PrivilegeError::User { attempt, error };
    prctl::set_keepcaps(true).map_err(refused("keep capabilities"))?;
    setgroups(&[]).map_err(refused("leave the groups of this user"))?;
    setresgid(gid, gid, gid).map_err(refused("change the group"))?;
    setresuid(uid, uid, uid).map_err(refused("change the user"))?;
    prctl::set_keepcaps(false).map_err(refused("keep no capabilities any more"))
}

/// In the order of the alphabet.
fn names(capabilities: HashSet<Capability>) -> Vec<String> {
    let mut names: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_name_or_two_numbers() {
        let numbers = |uid: u32, gid: u32| UserName::Numbers(Owner { uid: uid.into(), gid: gid.into() });
        assert_eq!("65534:100".parse(), Ok(numbers(65_534, 100)));
        assert_eq!("_chrony".parse(), Ok(UserName::Name("_chrony".to_owned())));
        for wrong in
            ["", ":", "1:", ":1", "nobody:nogroup", "1:2:3", "-1:0", "4294967295:0", "0:4294967295", "4294967296:0"]
        {
            assert!(wrong.parse::<UserName>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_name_is_looked_up() {
        let root = UserName::Name("root".to_owned()).look_up().unwrap();
        assert_eq!(root, Owner { uid: Uid::from_raw(0), gid: Gid::from_raw(0) });
        let nobody_has_it = UserName::Name("no such user".to_owned()).look_up().unwrap_err();
        assert!(nobody_has_it.to_string().starts_with("there is no user no such user"), "{nobody_has_it}");
    }
}
