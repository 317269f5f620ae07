//! Which parts of the kernel a cell has no business with: what the engine refuses by itself in most versions, and what it
//! only refuses in some.
//! Never: a list of what is allowed; Node and the tools of assistants need nearly everything that is harmless.

use std::sync::LazyLock;

use serde_json::{Value, json};

/// Refused as if there were no right to it.
const REFUSED: &[&str] = &[
    // Other worlds: namespaces, mounts old and new, roots.
    "mount",
    "umount",
    "umount2",
    "pivot_root",
    "chroot",
    "setns",
    "unshare",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "move_mount",
    "open_tree",
    "open_tree_attr",
    "mount_setattr",
    "statmount",
    "listmount",
    "swapon",
    "swapoff",
    "quotactl",
    "quotactl_fd",
    "name_to_handle_at",
    "open_by_handle_at",
    "sysfs",
    "ustat",
    "nfsservctl",
    "acct",
    // Other processes.
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "pidfd_getfd",
    "kcmp",
    "lookup_dcookie",
    // The kernel itself: modules, other kernels, programs in it, its keys, its log, its counters.
    "init_module",
    "finit_module",
    "delete_module",
    "create_module",
    "query_module",
    "get_kernel_syms",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "bpf",
    "perf_event_open",
    "add_key",
    "request_key",
    "keyctl",
    "syslog",
    "userfaultfd",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "fanotify_init",
    "uselib",
    "_sysctl",
    "vhangup",
    // The machine: clocks, ports, memory of other nodes.
    "clock_settime",
    "clock_settime64",
    "clock_adjtime",
    "clock_adjtime64",
    "settimeofday",
    "stime",
    "adjtimex",
    "ioperm",
    "iopl",
    "vm86",
    "vm86old",
    "modify_ldt",
    "mbind",
    "set_mempolicy",
    "get_mempolicy",
    "move_pages",
    "migrate_pages",
];
/// Programs that know it fall back to `clone`, whose arguments can be looked at.
const UNKNOWN: &[&str] = &["clone3"];
/// Flags of clone that make new namespaces.
const NEW_NAMESPACES: u64 = 0x7E02_0000;
/// Unix, IPv4, IPv6 and netlink, by which programs ask for their own addresses.
const FAMILIES: [u64; 4] = [1, 2, 10, 16];
/// As numbers of families go; what is above isn't one.
const FAMILY_LAST: u64 = 46;
/// Puts words into a terminal as if somebody had typed them.
const TERMINAL_INPUT: u64 = 0x5412;
const NOT_PERMITTED: u32 = 1;
const NOT_THERE: u32 = 38;
const NO_SUCH_FAMILY: u32 = 97;

/// The profile as the engine takes it.
pub(super) fn profile() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| make().to_string());
    &TEXT
}

fn make() -> Value {
    let refuse = |names: &[&str], errno: u32, arguments: Value| json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": arguments });
    let is = |index: u32, value: u64| json!([{ "index": index, "value": value, "op": "SCMP_CMP_EQ" }]);
    let mut rules = vec![refuse(REFUSED, NOT_PERMITTED, json!([])), refuse(UNKNOWN, NOT_THERE, json!([]))];
    let flags = (0..32).map(|bit| 1u64 << bit).filter(|flag| NEW_NAMESPACES & flag != 0);
    rules.extend(flags.map(|flag| {
        let has = json!([{ "index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ" }]);
        refuse(&["clone"], NOT_PERMITTED, has)
    }));
    let families = (0..FAMILY_LAST).filter(|family| !FAMILIES.contains(family));
    rules.extend(families.map(|family| refuse(&["socket", "socketpair"], NO_SUCH_FAMILY, is(0, family))));
    rules.push(refuse(&["ioctl"], NOT_PERMITTED, is(1, TERMINAL_INPUT)));
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures(), "syscalls": rules })
}

/// With those of 32 bits, by which the rules could be passed by otherwise.
fn architectures() -> &'static [&'static str] {
    if cfg!(target_arch = "aarch64") {
        &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    } else {
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    }
}
