//! The system calls that a running node needs. The kernel refuses all others, and some are the end of the process.
//!
//! Refused means "no such call", as an older kernel says (ENOSYS): C libraries then try an older way, and the loop counts and survives it like
//! everything that the system refuses. For one forgotten call a node must not end, much less all nodes of an ensemble in the same minute. What only
//! somebody makes who has taken the process over is the end of it, which a service manager and the kernel's log show: starting a program, and reaching
//! into other processes or the kernel.
//!
//! The list goes by families and not only by what runs were seen to make: where one C library, processor or clock calls `epoll_wait`,
//! another calls `epoll_pwait`. Left out above all: programs and threads, sockets other than for telling the service manager, connections,
//! signals to others, changes of user, modes and owners, mounts, new executable memory, and the machine's clock unless it is ours
//! to steer.
//!
//! Model: a filter sees numbers and plain arguments, not what pointers point to. Which files are opened it cannot tell; that is up to the user that the
//! node runs as.
//!
//! Sources: seccomp(2), syscalls(2); traces of all tests with glibc and musl.

use std::fmt;

/// Why calls are not filtered.
#[derive(Debug)]
pub enum SeccompError {
    /// Nobody has written down what these processors' calls are.
    Processor,
    /// The filter could not be made or installed.
    Refused(seccompiler::Error),
}

impl fmt::Display for SeccompError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Processor => write!(f, "there is no filter for this kind of processor ({})", std::env::consts::ARCH),
            Self::Refused(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for SeccompError {}

impl<E: Into<seccompiler::Error>> From<E> for SeccompError {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// Filters the calls of this process from here on, in all of its threads, for ever. Sets no-new-privs, which the kernel asks for.
///
/// # Errors
/// The kernel or the processor has no filters; all calls go on as before.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn install(_steers_system_clock: bool) -> Result<(), SeccompError> {
    Err(SeccompError::Processor)
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub use calls::install;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod calls {
    use std::collections::BTreeMap;
    use std::process;

    use libc::{c_int, c_long};
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, apply_filter_all_threads,
    };

    use super::SeccompError;

    /// Allowed with any arguments.
    const ANY: &[c_long] = &[
        // Waiting for readiness, by epoll or poll.
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_ppoll,
        // Datagrams, one or many at once; status clients.
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_recvmmsg,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_sendmmsg,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
        libc::SYS_getsockopt,
        libc::SYS_shutdown,
        // Clocks, which most machines read without a call.
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_gettimeofday,
        libc::SYS_getrandom,
        // The log, the state directory, keys that are read again, what is left behind at the end.
        libc::SYS_openat,
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_pread64,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_lseek,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_readlinkat,
        libc::SYS_faccessat,
        libc::SYS_getcwd,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_unlinkat,
        libc::SYS_fcntl,
        libc::SYS_dup,
        libc::SYS_dup3,
        libc::SYS_close,
        // Memory; `mmap` and `mprotect` stand below.
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        // What C libraries and allocators ask for on their own.
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_sysinfo,
        libc::SYS_uname,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_getuid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getegid,
        // Signals that come; a system call that one of them interrupted.
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];

    /// The same under their older names, which newer architectures do not have.
    #[cfg(target_arch = "x86_64")]
    const ANY_OLD: &[c_long] = &[
        libc::SYS_epoll_wait,
        libc::SYS_poll,
        libc::SYS_time,
        libc::SYS_open,
        libc::SYS_stat,
        libc::SYS_lstat,
        libc::SYS_readlink,
        libc::SYS_access,
        libc::SYS_rename,
        libc::SYS_unlink,
        libc::SYS_dup2,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    const ANY_OLD: &[c_long] = &[];

    /// The end of the process: starting a program, reaching into other processes, loading into the kernel.
    const DEADLY: &[c_long] = &[
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_kexec_load,
        libc::SYS_bpf,
    ];

    /// Setting the machine's clock.
    const CLOCK: &[c_long] = &[libc::SYS_adjtimex, libc::SYS_clock_adjtime, libc::SYS_clock_settime];

    /// What of a socket's type is its kind; the rest are flags. `SOCK_TYPE_MASK` in linux/net.h.
    const SOCKET_KIND: c_int = 0xf;

    /// Terminals: their settings (in both forms) and size; and for any file whether to wait. By asm-generic/ioctls.h, because the type of libc's
    /// constants differs between C libraries. Not among them: what types into another's terminal (TIOCSTI).
    const IOCTLS: [u64; 4] = [0x5401, 0x802c_542a, 0x5413, 0x5421];

    /// Filters the calls of this process from here on, in all of its threads, for ever. Sets no-new-privs, which the kernel asks for.
    ///
    /// # Errors
    /// The kernel has no filters; all calls go on as before.
    pub fn install(steers_system_clock: bool) -> Result<(), SeccompError> {
        // In this order, because the second would refuse the first. Of what they say the harsher holds.
        for (rules, otherwise, action) in [
            (any(DEADLY), SeccompAction::Allow, SeccompAction::KillProcess),
            (needed(steers_system_clock)?, SeccompAction::Errno(number(libc::ENOSYS)), SeccompAction::Allow),
        ] {
            let processor = std::env::consts::ARCH.try_into()?;
            let program: BpfProgram = SeccompFilter::new(rules, otherwise, action, processor)?.try_into()?;
            apply_filter_all_threads(&program)?;
        }
        Ok(())
    }

    /// What may be in each argument of a call, by the call; no rules: anything.
    type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

    fn any(calls: &[c_long]) -> Rules {
        calls.iter().map(|call| (*call, Vec::new())).collect()
    }

    fn needed(steers_system_clock: bool) -> Result<Rules, BackendError> {
        let clock = if steers_system_clock { CLOCK } else { &[] };
        let mut rules = any(&[ANY, ANY_OLD, clock].concat());

        // A note to the service manager.
        let datagrams_here = [is(0, libc::AF_UNIX)?, masked(1, SOCKET_KIND, libc::SOCK_DGRAM)?];
        rules.insert(libc::SYS_socket, vec![SeccompRule::new(datagrams_here.into())?]);
        // Departures are numbered from zero again when the numbers have come out of step.
        let stamps = [is(1, libc::SOL_SOCKET)?, is(2, libc::SO_TIMESTAMPING)?];
        rules.insert(libc::SYS_setsockopt, vec![SeccompRule::new(stamps.into())?]);
        // Nothing that was written becomes a program.
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            rules.insert(call, vec![SeccompRule::new(vec![masked(2, libc::PROT_EXEC, 0)?])?]);
        }
        // `abort` is a signal to oneself.
        let oneself = process::id().try_into().unwrap_or(0);
        for call in [libc::SYS_tgkill, libc::SYS_tkill] {
            rules.insert(call, vec![SeccompRule::new(vec![is(0, oneself)?])?]);
        }
        let requests = IOCTLS.map(|request| SeccompRule::new(vec![condition(1, SeccompCmpOp::Eq, request)?]));
        rules.insert(libc::SYS_ioctl, requests.into_iter().collect::<Result<_, _>>()?);
        Ok(rules)
    }

    /// The bits of a C number that is no size and no address.
    fn number(value: c_int) -> u32 {
        value.cast_unsigned()
    }

    /// The argument at `index` (from 0) has this value.
    fn is(index: u8, value: c_int) -> Result<SeccompCondition, BackendError> {
        condition(index, SeccompCmpOp::Eq, number(value).into())
    }

    /// Those of its bits that are in `mask` have this value.
    fn masked(index: u8, mask: c_int, value: c_int) -> Result<SeccompCondition, BackendError> {
        condition(index, SeccompCmpOp::MaskedEq(number(mask).into()), number(value).into())
    }

    /// All arguments looked at are 32 bits wide: the kernel does not look at the rest either.
    fn condition(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
    }
}
