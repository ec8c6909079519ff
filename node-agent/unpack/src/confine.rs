//! The walls around the process that unpacks. From outermost to innermost:
//!
//! 1. limits of memory, file size, descriptors and processor time; no core dumps;
//! 2. as root, the staging directory becomes the root directory: Landlock does not cover changes
//!    of mode, owner, times and attributes, a path that cannot be named does;
//! 3. no new privileges, and no capabilities but those that unpacking needs;
//! 4. Landlock: only the staging directory, and no reading of files in it;
//! 5. seccomp: no sockets, no new programs or processes, no mounts, no other process. A file is
//!    opened only if it is created by that call, so a device node that a layer brings is never
//!    opened. `openat2` is refused, since a filter cannot see its flags.
//!
//! Assumptions: the process has one thread and no descriptor beyond the standard three.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessError, AccessFs, AccessNet, CompatError, CompatLevel, Compatible as _,
    HandleAccessError, HandleAccessesError, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use nix::libc;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::error::UnpackError;
use crate::{Request, Style};

/// Descriptors: the directory cache, the way down when removing a tree, and some.
const DESCRIPTORS: u64 = 1024;

/// The capabilities that [`Style::Overlay`] needs; SYS_ADMIN is for `trusted.overlay.opaque`.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SYS_ADMIN);

/// Confines this process to what unpacking `request` takes, for good. Returns the path that the
/// staging directory has from now on.
///
/// Everything is in place or it fails, with one exception: on kernels before 5.19, whose Landlock
/// cannot link between directories, [`Style::Overlay`] does without Landlock, since the staging
/// directory is its root directory anyway.
pub fn confine(request: &Request) -> Result<PathBuf, UnpackError> {
    limit(request).map_err(|errno| wall("resource limits", errno))?;
    // The plain style works without privileges; who runs it with them gets the same walls.
    let enters = request.style != Style::Plain || may_enter()?;
    let staging = match enters {
        true => {
            enter(&request.staging).map_err(|errno| wall("root directory", errno))?;
            PathBuf::from("/")
        }
        false => request.staging.clone(),
    };
    rustix::thread::set_no_new_privs(true).map_err(|errno| wall("no new privileges", errno))?;
    drop_capabilities(request.style).map_err(|errno| wall("capabilities", errno))?;
    landlock(&staging, request.style)?;
    for filter in filters()? {
        seccompiler::apply_filter(&filter).map_err(|error| wall("seccomp", error))?;
    }
    Ok(staging)
}

fn wall(which: &str, error: impl std::fmt::Display) -> UnpackError {
    UnpackError::Confinement {
        found: format!("{which}: {error}"),
    }
}

fn limit(request: &Request) -> rustix::io::Result<()> {
    let limits = &request.limits;
    for (resource, value) in [
        (Resource::Core, 0),
        (Resource::Data, limits.memory),
        (Resource::Fsize, limits.bytes),
        (Resource::Cpu, limits.cpu_seconds),
        (Resource::Nofile, DESCRIPTORS),
    ] {
        let present = rustix::process::getrlimit(resource).maximum;
        let value = Some(present.map_or(value, |present| present.min(value)));
        let new = Rlimit {
            current: value,
            maximum: value,
        };
        rustix::process::setrlimit(resource, new)?;
    }
    rustix::process::nice(request.nice.min(19).into())?;
    Ok(())
}

fn may_enter() -> Result<bool, UnpackError> {
    let present =
        rustix::thread::capabilities(None).map_err(|errno| wall("capabilities", errno))?;
    Ok(present.effective.contains(CapabilitySet::SYS_CHROOT))
}

fn enter(staging: &Path) -> rustix::io::Result<()> {
    rustix::process::chdir(staging)?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")
}

fn drop_capabilities(style: Style) -> rustix::io::Result<()> {
    let present = rustix::thread::capabilities(None)?;
    let kept = match style {
        Style::Overlay | Style::Base => present.permitted & KEPT,
        Style::Plain => CapabilitySet::empty(),
    };
    rustix::thread::clear_ambient_capability_set()?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )
}

fn landlock(staging: &Path, style: Style) -> Result<(), UnpackError> {
    let failed = |error: &dyn std::fmt::Display| wall("Landlock", error);
    let abi = ABI::V6;
    let inside = AccessFs::WriteFile
        | AccessFs::ReadDir
        | AccessFs::RemoveDir
        | AccessFs::RemoveFile
        | AccessFs::MakeChar
        | AccessFs::MakeDir
        | AccessFs::MakeReg
        | AccessFs::MakeFifo
        | AccessFs::MakeBlock
        | AccessFs::MakeSym
        | AccessFs::Truncate
        | AccessFs::Refer;
    let staging = PathFd::new(staging).map_err(|error| failed(&error))?;
    let enforce = || -> Result<RulesetStatus, RulesetError> {
        // Linking between directories comes with the second version; without it there is no use.
        let status = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(ABI::V2))?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?
            .add_rule(PathBeneath::new(staging, inside))?
            .restrict_self()?;
        Ok(status.ruleset)
    };
    let may_lack = matches!(style, Style::Overlay | Style::Base);
    match enforce() {
        Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced) => Ok(()),
        Ok(RulesetStatus::NotEnforced) if may_lack => Ok(()),
        Ok(RulesetStatus::NotEnforced) => Err(failed(&"not supported by this kernel")),
        Err(error) if may_lack && is_unsupported(&error) => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}

/// Whether the kernel has no Landlock, or one too old for what was required of it.
fn is_unsupported(error: &RulesetError) -> bool {
    let RulesetError::HandleAccesses(HandleAccessesError::Fs(HandleAccessError::Compat(
        CompatError::Access(error),
    ))) = error
    else {
        return false;
    };
    matches!(
        error,
        AccessError::Incompatible { .. } | AccessError::PartiallyCompatible { .. }
    )
}

/// Three filters; the kernel takes the strictest answer.
fn filters() -> Result<Vec<BpfProgram>, UnpackError> {
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    // Without these arguments in a register there is nothing to see; glibc then uses clone.
    let unseen = SeccompAction::Errno(libc::ENOSYS as u32);
    Ok(vec![
        filter(deadly(), SeccompAction::Allow, SeccompAction::KillProcess)?,
        filter(blind(), SeccompAction::Allow, unseen)?,
        filter(allowed()?, refused, SeccompAction::Allow)?,
    ])
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn filter(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, UnpackError> {
    let target = std::env::consts::ARCH
        .try_into()
        .map_err(|error| wall("seccomp", error))?;
    SeccompFilter::new(rules, otherwise, matched, target)
        .and_then(BpfProgram::try_from)
        .map_err(|error| wall("seccomp", error))
}

/// Nobody calls these by accident.
fn deadly() -> Rules {
    [
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_kexec_load,
        libc::SYS_open_by_handle_at,
        libc::SYS_io_uring_setup,
        libc::SYS_keyctl,
        libc::SYS_kill,
    ]
    .map(|call| (call, Vec::new()))
    .into()
}

fn blind() -> Rules {
    [libc::SYS_clone3, libc::SYS_openat2]
        .map(|call| (call, Vec::new()))
        .into()
}

fn allowed() -> Result<Rules, UnpackError> {
    let mut rules: Rules = [
        // Data.
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_lseek,
        libc::SYS_ftruncate,
        libc::SYS_close,
        libc::SYS_ppoll,
        // Names, below the root directory and as far as Landlock allows.
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_unlinkat,
        libc::SYS_readlinkat,
        libc::SYS_getdents64,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_utimensat,
        libc::SYS_fsetxattr,
        libc::SYS_lsetxattr,
        // Memory, threads and the end.
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_yield,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_clock_gettime,
        libc::SYS_getrandom,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_arch_prctl,
    ]
    .map(|call| (call, Vec::new()))
    .into();
    // Answered by their own filter; of two refusals the kernel would give the wrong one.
    rules.extend(blind());
    // A file only if this call creates it; anything else only by name or to list it.
    let created = (libc::O_CREAT | libc::O_EXCL) as u64;
    rules.insert(
        libc::SYS_openat,
        vec![
            masked(2, created, created)?,
            masked(2, libc::O_DIRECTORY as u64, libc::O_DIRECTORY as u64)?,
            masked(2, libc::O_PATH as u64, libc::O_PATH as u64)?,
        ],
    );
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![masked(0, thread, thread)?]);
    // Names for threads and for memory.
    rules.insert(
        libc::SYS_prctl,
        vec![
            equal(0, libc::PR_SET_NAME as u64)?,
            equal(0, libc::PR_SET_VMA as u64)?,
        ],
    );
    // An aborting process signals its own thread.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![equal(0, own)?]);
    rules.insert(
        libc::SYS_fcntl,
        [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL]
            .into_iter()
            .map(|command| equal(1, command as u64))
            .collect::<Result<_, _>>()?,
    );
    Ok(rules)
}

fn equal(argument: u8, value: u64) -> Result<SeccompRule, UnpackError> {
    rule(argument, SeccompCmpOp::Eq, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, UnpackError> {
    rule(argument, SeccompCmpOp::MaskedEq(mask), value)
}

fn rule(argument: u8, comparison: SeccompCmpOp, value: u64) -> Result<SeccompRule, UnpackError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, comparison, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| wall("seccomp", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_that_cannot_is_forgiven() {
        let handling = |error| {
            let error = HandleAccessError::Compat(CompatError::Access(error));
            RulesetError::HandleAccesses(HandleAccessesError::Fs(error))
        };
        let access = AccessFs::from_all(ABI::V2);
        let incompatible = AccessFs::Refer.into();
        assert!(is_unsupported(&handling(AccessError::Incompatible {
            access
        })));
        assert!(is_unsupported(&handling(
            AccessError::PartiallyCompatible {
                access,
                incompatible
            }
        )));
        assert!(!is_unsupported(&handling(AccessError::Empty)));
        let other = landlock::CreateRulesetError::MissingHandledAccess;
        assert!(!is_unsupported(&RulesetError::CreateRuleset(other)));
    }
}
