//! The second layer of a sandbox: the kernel refuses sockets and system calls that no plugin needs (seccomp).
//!
//! This closes what Landlock leaves open: sockets in the file system, UDP and all other protocols but TCP, and system
//! calls that reach into other processes, leave namespaces or load code into the kernel. It is a list of what is
//! refused, not of what is allowed, so it does not cover what later kernels add.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::host::options::Sandbox;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Refuses these calls for this thread and all threads and processes that it starts. False if there is no filter for
/// this machine's architecture.
pub(super) fn apply(sandbox: &Sandbox) -> Result<bool, String> {
    let Ok(architecture) = std::env::consts::ARCH.try_into() else { return Ok(false) };
    let failed = |error: &dyn std::fmt::Display| format!("cannot set up the sandbox's system call filter: {error}");
    let sockets = sockets(sandbox).map_err(|error| failed(&error))?;
    let forbidden = forbidden().map_err(|error| failed(&error))?;
    // Callers of these fall back to older calls, which can be filtered.
    let unknown: Rules = [libc::SYS_clone3, libc::SYS_io_uring_setup].map(|call| (call, Vec::new())).into();
    for (rules, error) in [(unknown, libc::ENOSYS), (sockets, libc::EACCES), (forbidden, libc::EPERM)] {
        let refuse = SeccompAction::Errno(error as u32);
        let filter =
            SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture).map_err(|error| failed(&error))?;
        let program: BpfProgram = filter.try_into().map_err(|error| failed(&error))?;
        seccompiler::apply_filter(&program).map_err(|error| failed(&error))?;
    }
    Ok(true)
}

fn only_if(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// Refuses sockets whose family is not allowed.
fn sockets(sandbox: &Sandbox) -> Result<Rules, seccompiler::BackendError> {
    let mut allowed = Vec::new();
    if sandbox.network {
        // Netlink lists the networks.
        allowed.extend([libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK]);
    }
    if sandbox.unix_sockets {
        allowed.push(libc::AF_UNIX);
    }
    let others =
        allowed.iter().map(|family| only_if(0, SeccompCmpOp::Ne, *family as u64)).collect::<Result<Vec<_>, _>>()?;
    // A rule without conditions refuses every call.
    let rules = if others.is_empty() { Vec::new() } else { vec![SeccompRule::new(others)?] };
    Ok([(libc::SYS_socket, rules)].into())
}

/// The calls that no plugin needs.
fn forbidden() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = [
        // Other processes' memory, files and state.
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_kcmp,
        libc::SYS_pidfd_getfd,
        libc::SYS_process_madvise,
        // Namespaces, roots and mounts.
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_chroot,
        libc::SYS_pivot_root,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_mount_setattr,
        libc::SYS_open_by_handle_at,
        // Code and keys in the kernel.
        libc::SYS_bpf,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        // The machine.
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_adjtimex,
        libc::SYS_clock_adjtime,
        libc::SYS_syslog,
    ]
    .map(|call| (call, Vec::new()))
    .into();
    #[cfg(target_arch = "x86_64")]
    rules.extend(
        [libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_kexec_file_load].map(|it| (it, Vec::new())),
    );
    // Children in new namespaces; threads and ordinary children are allowed.
    let namespaces = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    let clone = namespaces.map(|flag| {
        let flag = u64::from(flag as u32);
        SeccompRule::new(vec![only_if(0, SeccompCmpOp::MaskedEq(flag), flag)?])
    });
    rules.insert(libc::SYS_clone, clone.into_iter().collect::<Result<Vec<_>, _>>()?);
    // Injecting input into the terminal.
    let typing = SeccompRule::new(vec![only_if(1, SeccompCmpOp::Eq, libc::TIOCSTI)?])?;
    rules.insert(libc::SYS_ioctl, vec![typing]);
    Ok(rules)
}
