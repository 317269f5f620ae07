//! Which system calls a sealed cell may make, as a program for the kernel's filter: all but those that reach past the seal
//! or at parts of the kernel that nothing in a cell needs.
//! Never: a refusal that the runtime can't live with; the list was held against the real one.

#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;

const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
#[cfg(target_arch = "x86_64")]
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
/// Where the kernel puts what the filter looks at.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const FIRST_ARGUMENT_AT: u32 = 16;
const SECOND_ARGUMENT_AT: u32 = 24;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const REFUSE: u32 = 0x0005_0000;

/// A call of the older 32-bit kind on the same processor would go around all numbers below.
#[cfg(target_arch = "x86_64")]
const OTHER_NUMBERS: u32 = 0x4000_0000;
/// Any namespace: mount, control group, host name, IPC, user, process, network, time.
const NAMESPACES: u32 =
    0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000 | 0x80;
/// Unix, IPv4, IPv6, and the one that tells programs their own addresses.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// Typing into a terminal on somebody's behalf.
const TERMINAL_INPUT: [u32; 2] = [0x5412, 0x541c];

/// Refused as not permitted.
const REFUSED: &[libc::c_long] = &[
    // other processes
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    PIDFD_GETFD,
    // namespaces and mounts
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    OPEN_TREE_ATTR,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_quotactl,
    QUOTACTL_FD,
    libc::SYS_fanotify_init,
    // the kernel itself
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_vhangup,
    // the machine's clock and name
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_settimeofday,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
];
/// Newer than the names above; the numbers are the same on all processors.
const PIDFD_GETFD: libc::c_long = 438;
const QUOTACTL_FD: libc::c_long = 443;
const OPEN_TREE_ATTR: libc::c_long = 467;
/// Refused as unknown, so that programs take the older way, which the filter can look into.
const UNKNOWN: [libc::c_long; 4] =
    [libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// The program as the kernel reads it. None: nobody has written down this processor's numbers.
pub(super) fn program() -> Option<Vec<u8>> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return Some(bytes(&instructions()));
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    None
}

/// Code, jump if true, jump if false, value.
type Instruction = (u16, u8, u8, u32);

fn bytes(instructions: &[Instruction]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(instructions.len() * 8);
    for (code, yes, no, value) in instructions {
        bytes.extend(code.to_ne_bytes());
        bytes.extend([*yes, *no]);
        bytes.extend(value.to_ne_bytes());
    }
    bytes
}

const fn refuse(error: i32) -> Instruction {
    (RETURN, 0, 0, REFUSE | error.cast_unsigned())
}

fn instructions() -> Vec<Instruction> {
    let number = |call: libc::c_long| u32::try_from(call).expect("numbers of system calls are small");
    let mut program = vec![
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (JUMP_IF_EQUAL, 1, 0, ARCHITECTURE),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([(JUMP_IF_AT_LEAST, 0, 1, OTHER_NUMBERS), refuse(libc::ENOSYS)]);
    for call in UNKNOWN {
        program.extend([(JUMP_IF_EQUAL, 0, 1, number(call)), refuse(libc::ENOSYS)]);
    }
    for call in REFUSED {
        program.extend([(JUMP_IF_EQUAL, 0, 1, number(*call)), refuse(libc::EPERM)]);
    }
    // A process with namespaces of its own.
    program.extend([
        (JUMP_IF_EQUAL, 0, 4, number(libc::SYS_clone)),
        (LOAD, 0, 0, FIRST_ARGUMENT_AT),
        (JUMP_IF_ANY_BIT, 0, 1, NAMESPACES),
        refuse(libc::EPERM),
        (RETURN, 0, 0, ALLOW),
    ]);
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        program.extend([
            (JUMP_IF_EQUAL, 0, 7, number(call)),
            (LOAD, 0, 0, FIRST_ARGUMENT_AT),
            (JUMP_IF_EQUAL, 4, 0, FAMILIES[0].cast_unsigned()),
            (JUMP_IF_EQUAL, 3, 0, FAMILIES[1].cast_unsigned()),
            (JUMP_IF_EQUAL, 2, 0, FAMILIES[2].cast_unsigned()),
            (JUMP_IF_EQUAL, 1, 0, FAMILIES[3].cast_unsigned()),
            refuse(libc::EAFNOSUPPORT),
            (RETURN, 0, 0, ALLOW),
        ]);
    }
    program.extend([
        (JUMP_IF_EQUAL, 0, 5, number(libc::SYS_ioctl)),
        (LOAD, 0, 0, SECOND_ARGUMENT_AT),
        (JUMP_IF_EQUAL, 1, 0, TERMINAL_INPUT[0]),
        (JUMP_IF_EQUAL, 0, 1, TERMINAL_INPUT[1]),
        refuse(libc::EPERM),
        (RETURN, 0, 0, ALLOW),
    ]);
    program.push((RETURN, 0, 0, ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with this call.
    fn run(architecture: u32, number: libc::c_long, first: u64, second: u64) -> u32 {
        let program = instructions();
        let (mut at, mut held) = (0, 0);
        loop {
            let (code, yes, no, value) = program[at];
            at += 1;
            let jumps = match code {
                LOAD => {
                    held = match value {
                        NUMBER_AT => u32::try_from(number).unwrap(),
                        ARCHITECTURE_AT => architecture,
                        FIRST_ARGUMENT_AT => u32::try_from(first & 0xffff_ffff).unwrap(),
                        SECOND_ARGUMENT_AT => u32::try_from(second & 0xffff_ffff).unwrap(),
                        other => panic!("nothing is loaded from {other}"),
                    };
                    continue;
                }
                RETURN => return value,
                JUMP_IF_EQUAL => held == value,
                JUMP_IF_ANY_BIT => held & value != 0,
                _ => held >= value,
            };
            at += usize::from(if jumps { yes } else { no });
        }
    }

    #[test]
    fn what_reaches_past_the_seal_is_refused_and_the_rest_goes_on() {
        let refused = |error: i32| REFUSE | error.cast_unsigned();
        let call = |number, first, second| run(ARCHITECTURE, number, first, second);
        for number in REFUSED {
            assert_eq!(call(*number, 0, 0), refused(libc::EPERM), "{number}");
        }
        for number in UNKNOWN {
            assert_eq!(call(number, 0, 0), refused(libc::ENOSYS), "{number}");
        }
        let thread = 0x003d_0f00;
        assert_eq!(call(libc::SYS_clone, thread, 0), ALLOW);
        assert_eq!(call(libc::SYS_clone, 17, 0), ALLOW);
        for namespace in [0x1000_0000, 0x0002_0000, 0x4000_0000, 0x80] {
            assert_eq!(call(libc::SYS_clone, 17 | namespace, 0), refused(libc::EPERM));
        }
        for socket in [libc::SYS_socket, libc::SYS_socketpair] {
            for family in 0..50 {
                let allowed = FAMILIES.contains(&i32::try_from(family).unwrap());
                let wanted = if allowed { ALLOW } else { refused(libc::EAFNOSUPPORT) };
                assert_eq!(call(socket, family, 1), wanted, "family {family}");
            }
        }
        assert_eq!(call(libc::SYS_ioctl, 0, 0x5412), refused(libc::EPERM));
        assert_eq!(call(libc::SYS_ioctl, 0, 0x541c), refused(libc::EPERM));
        assert_eq!(call(libc::SYS_ioctl, 0, 0x5413), ALLOW, "the size of a terminal may be asked for");
        for number in [libc::SYS_read, libc::SYS_execve, libc::SYS_connect, libc::SYS_openat, libc::SYS_mmap] {
            assert_eq!(call(number, 0, 0), ALLOW);
        }
        assert_eq!(run(1, libc::SYS_read, 0, 0), KILL);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(call(0x4000_0000 | 101, 0, 0), refused(libc::ENOSYS));
    }
}
