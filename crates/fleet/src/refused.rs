//! What a sealed cell may not ask of the kernel, whatever kind of host seals it off: one table, from which the process host
//! makes a program for the kernel's filter (by numbers) and the Docker host a profile for its engine (by names).
//! Never: a refusal that the runtime can't live with (the list was held against the real one), or a list of what is allowed:
//! Node and the tools of assistants need nearly everything that is harmless.

use std::ffi::c_long;

/// A call of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// As engines and libraries call it, on every processor.
    pub(crate) name: &'static str,
    /// On this processor. `None`: it has no such call, or none that does anything.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux has a filter that is told numbers"))]
    pub(crate) number: Option<c_long>,
}

const fn call(name: &'static str, number: Option<c_long>) -> Call {
    Call { name, number }
}

/// The number of a call that every processor has.
#[cfg(target_os = "linux")]
macro_rules! everywhere {
    ($number:ident) => {
        Some(libc::$number)
    };
}
#[cfg(not(target_os = "linux"))]
macro_rules! everywhere {
    ($number:ident) => {
        None
    };
}
/// The number of a call that is older than the other processors.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
macro_rules! x86 {
    ($number:ident) => {
        Some(libc::$number)
    };
}
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
macro_rules! x86 {
    ($number:ident) => {
        None
    };
}

/// Refused as not permitted.
pub(crate) const REFUSED: &[Call] = &[
    // Other worlds: namespaces, mounts old and new, roots.
    call("mount", everywhere!(SYS_mount)),
    call("umount", None),
    call("umount2", everywhere!(SYS_umount2)),
    call("pivot_root", everywhere!(SYS_pivot_root)),
    call("chroot", everywhere!(SYS_chroot)),
    call("setns", everywhere!(SYS_setns)),
    call("unshare", everywhere!(SYS_unshare)),
    call("fsopen", everywhere!(SYS_fsopen)),
    call("fsconfig", everywhere!(SYS_fsconfig)),
    call("fsmount", everywhere!(SYS_fsmount)),
    call("fspick", everywhere!(SYS_fspick)),
    call("move_mount", everywhere!(SYS_move_mount)),
    call("open_tree", everywhere!(SYS_open_tree)),
    // Newer than the names in the library; the numbers are the same on all processors.
    call("open_tree_attr", Some(467)),
    call("mount_setattr", everywhere!(SYS_mount_setattr)),
    call("statmount", Some(457)),
    call("listmount", Some(458)),
    call("swapon", everywhere!(SYS_swapon)),
    call("swapoff", everywhere!(SYS_swapoff)),
    call("quotactl", everywhere!(SYS_quotactl)),
    call("quotactl_fd", Some(443)),
    call("name_to_handle_at", everywhere!(SYS_name_to_handle_at)),
    call("open_by_handle_at", everywhere!(SYS_open_by_handle_at)),
    call("sysfs", x86!(SYS_sysfs)),
    call("ustat", x86!(SYS_ustat)),
    call("nfsservctl", everywhere!(SYS_nfsservctl)),
    call("acct", everywhere!(SYS_acct)),
    // Other processes.
    call("ptrace", everywhere!(SYS_ptrace)),
    call("process_vm_readv", everywhere!(SYS_process_vm_readv)),
    call("process_vm_writev", everywhere!(SYS_process_vm_writev)),
    call("process_madvise", everywhere!(SYS_process_madvise)),
    call("pidfd_getfd", Some(438)),
    call("kcmp", everywhere!(SYS_kcmp)),
    call("lookup_dcookie", everywhere!(SYS_lookup_dcookie)),
    // The kernel itself: modules, other kernels, programs in it, its keys, its log, its counters.
    call("init_module", everywhere!(SYS_init_module)),
    call("finit_module", everywhere!(SYS_finit_module)),
    call("delete_module", everywhere!(SYS_delete_module)),
    call("create_module", None),
    call("query_module", None),
    call("get_kernel_syms", None),
    call("kexec_load", everywhere!(SYS_kexec_load)),
    call("kexec_file_load", everywhere!(SYS_kexec_file_load)),
    call("reboot", everywhere!(SYS_reboot)),
    call("bpf", everywhere!(SYS_bpf)),
    call("perf_event_open", everywhere!(SYS_perf_event_open)),
    call("add_key", everywhere!(SYS_add_key)),
    call("request_key", everywhere!(SYS_request_key)),
    call("keyctl", everywhere!(SYS_keyctl)),
    call("syslog", everywhere!(SYS_syslog)),
    call("userfaultfd", everywhere!(SYS_userfaultfd)),
    call("fanotify_init", everywhere!(SYS_fanotify_init)),
    call("uselib", x86!(SYS_uselib)),
    call("_sysctl", x86!(SYS__sysctl)),
    call("vhangup", everywhere!(SYS_vhangup)),
    // The machine: clocks, names, ports, memory of other nodes.
    call("clock_settime", everywhere!(SYS_clock_settime)),
    call("clock_settime64", None),
    call("clock_adjtime", everywhere!(SYS_clock_adjtime)),
    call("clock_adjtime64", None),
    call("settimeofday", everywhere!(SYS_settimeofday)),
    call("stime", None),
    call("adjtimex", everywhere!(SYS_adjtimex)),
    call("sethostname", everywhere!(SYS_sethostname)),
    call("setdomainname", everywhere!(SYS_setdomainname)),
    call("ioperm", x86!(SYS_ioperm)),
    call("iopl", x86!(SYS_iopl)),
    call("vm86", None),
    call("vm86old", None),
    call("modify_ldt", x86!(SYS_modify_ldt)),
    call("mbind", everywhere!(SYS_mbind)),
    call("set_mempolicy", everywhere!(SYS_set_mempolicy)),
    call("get_mempolicy", everywhere!(SYS_get_mempolicy)),
    call("move_pages", everywhere!(SYS_move_pages)),
    call("migrate_pages", everywhere!(SYS_migrate_pages)),
];
/// Refused as unknown, so that programs take the older way, whose arguments can be looked at.
pub(crate) const UNKNOWN: &[Call] = &[
    call("clone3", everywhere!(SYS_clone3)),
    call("io_uring_setup", everywhere!(SYS_io_uring_setup)),
    call("io_uring_enter", everywhere!(SYS_io_uring_enter)),
    call("io_uring_register", everywhere!(SYS_io_uring_register)),
];
/// What `clone` may not be asked for, any of it: a namespace of control groups, host name, IPC, users, processes, network,
/// mounts or time.
pub(crate) const NAMESPACES: u32 =
    0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000 | 0x0002_0000 | 0x80;
/// The families that sockets may have: Unix, IPv4, IPv6, and netlink, by which programs ask for their own addresses.
pub(crate) const FAMILIES: [u32; 4] = [1, 2, 10, 16];
/// Orders to a terminal that put words into it as if somebody had typed them.
pub(crate) const TERMINAL_INPUT: [u32; 2] = [0x5412, 0x541c];
/// The kernel's numbers for what is said instead.
pub(crate) const NOT_PERMITTED: u32 = 1;
pub(crate) const NOT_THERE: u32 = 38;
pub(crate) const NO_SUCH_FAMILY: u32 = 97;

#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::docker::says as engine_says;
    use crate::process::says as kernel_says;

    /// More than any number of a call.
    const NUMBERS: c_long = 700;

    #[test]
    fn both_kinds_of_host_refuse_the_same() {
        for (calls, error) in [(REFUSED, NOT_PERMITTED), (UNKNOWN, NOT_THERE)] {
            for call in calls {
                assert_eq!(engine_says(call.name, [0, 0]), Some(error), "{call:?}");
                if let Some(number) = call.number {
                    assert_eq!(kernel_says(number, [0, 0]), Some(error), "{call:?}");
                }
            }
        }
        let arguments = |call, name, arguments: [u32; 2]| {
            assert_eq!(kernel_says(call, arguments), engine_says(name, arguments), "{name} {arguments:?}");
            kernel_says(call, arguments)
        };
        for bit in 0..32 {
            let refused = arguments(libc::SYS_clone, "clone", [1 << bit, 0]);
            assert_eq!(refused.is_some(), NAMESPACES & (1 << bit) != 0, "bit {bit}");
        }
        for family in 0..46 {
            for (call, name) in [(libc::SYS_socket, "socket"), (libc::SYS_socketpair, "socketpair")] {
                assert_eq!(arguments(call, name, [family, 1]).is_none(), FAMILIES.contains(&family), "{family}");
            }
        }
        for order in 0x5400..0x5480 {
            let refused = arguments(libc::SYS_ioctl, "ioctl", [0, order]);
            assert_eq!(refused.is_some(), TERMINAL_INPUT.contains(&order), "{order:#x}");
        }
    }

    #[test]
    fn the_kernel_is_told_nothing_that_is_not_in_the_table() {
        let looked_into = [libc::SYS_clone, libc::SYS_socket, libc::SYS_socketpair, libc::SYS_ioctl];
        let told: BTreeSet<c_long> = (0..NUMBERS)
            .filter(|number| !looked_into.contains(number) && kernel_says(*number, [0, 0]).is_some())
            .collect();
        let table: BTreeSet<c_long> = REFUSED.iter().chain(UNKNOWN).filter_map(|call| call.number).collect();
        assert_eq!(told, table);
        let names: BTreeSet<&str> = REFUSED.iter().chain(UNKNOWN).map(|call| call.name).collect();
        assert_eq!(names.len(), REFUSED.len() + UNKNOWN.len(), "each once");
        assert_eq!((engine_says("read", [0, 0]), kernel_says(libc::SYS_read, [0, 0])), (None, None));
    }
}
