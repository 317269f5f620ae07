//! The table of what cells may not ask of the kernel, as a program for its filter.
//! Never: a refusal that isn't in the table, or a way around it by the calls of another processor.

use std::ffi::c_long;

use crate::refused::{
    FAMILIES, NAMESPACES, NO_SUCH_FAMILY, NOT_PERMITTED, NOT_THERE, REFUSED, TERMINAL_INPUT, UNKNOWN,
};

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

/// A call of the older 32-bit kind on the same processor would go around all numbers of the table.
#[cfg(target_arch = "x86_64")]
const OTHER_NUMBERS: u32 = 0x4000_0000;

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

const fn refuse(error: u32) -> Instruction {
    (RETURN, 0, 0, REFUSE | error)
}

fn instructions() -> Vec<Instruction> {
    let number = |call: c_long| u32::try_from(call).expect("numbers of system calls are small");
    let mut program = vec![
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (JUMP_IF_EQUAL, 1, 0, ARCHITECTURE),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([(JUMP_IF_AT_LEAST, 0, 1, OTHER_NUMBERS), refuse(NOT_THERE)]);
    for (calls, error) in [(UNKNOWN, NOT_THERE), (REFUSED, NOT_PERMITTED)] {
        for call in calls.iter().filter_map(|call| call.number) {
            program.extend([(JUMP_IF_EQUAL, 0, 1, number(call)), refuse(error)]);
        }
    }
    // A process with namespaces of its own.
    program.extend([
        (JUMP_IF_EQUAL, 0, 4, number(libc::SYS_clone)),
        (LOAD, 0, 0, FIRST_ARGUMENT_AT),
        (JUMP_IF_ANY_BIT, 0, 1, NAMESPACES),
        refuse(NOT_PERMITTED),
        (RETURN, 0, 0, ALLOW),
    ]);
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        program.extend([
            (JUMP_IF_EQUAL, 0, 7, number(call)),
            (LOAD, 0, 0, FIRST_ARGUMENT_AT),
            (JUMP_IF_EQUAL, 4, 0, FAMILIES[0]),
            (JUMP_IF_EQUAL, 3, 0, FAMILIES[1]),
            (JUMP_IF_EQUAL, 2, 0, FAMILIES[2]),
            (JUMP_IF_EQUAL, 1, 0, FAMILIES[3]),
            refuse(NO_SUCH_FAMILY),
            (RETURN, 0, 0, ALLOW),
        ]);
    }
    program.extend([
        (JUMP_IF_EQUAL, 0, 5, number(libc::SYS_ioctl)),
        (LOAD, 0, 0, SECOND_ARGUMENT_AT),
        (JUMP_IF_EQUAL, 1, 0, TERMINAL_INPUT[0]),
        (JUMP_IF_EQUAL, 0, 1, TERMINAL_INPUT[1]),
        refuse(NOT_PERMITTED),
        (RETURN, 0, 0, ALLOW),
    ]);
    program.push((RETURN, 0, 0, ALLOW));
    program
}

/// What a kernel with this filter says to a call of this processor with these first arguments; `None`: it lets it through.
#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn says(number: c_long, arguments: [u32; 2]) -> Option<u32> {
    match tests::run(ARCHITECTURE, number, arguments) {
        ALLOW => None,
        said => Some(said & !REFUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with this call.
    pub(super) fn run(architecture: u32, number: c_long, arguments: [u32; 2]) -> u32 {
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
                        FIRST_ARGUMENT_AT => arguments[0],
                        SECOND_ARGUMENT_AT => arguments[1],
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

    /// That it says what the engine's profile says is tested beside the table.
    #[test]
    fn what_reaches_past_the_seal_is_refused_and_the_rest_goes_on() {
        let thread = 0x003d_0f00;
        assert_eq!(says(libc::SYS_clone, [thread, 0]), None);
        assert_eq!(says(libc::SYS_clone, [17, 0]), None);
        assert_eq!(says(libc::SYS_clone, [17 | 0x1000_0000, 0]), Some(NOT_PERMITTED));
        assert_eq!(says(libc::SYS_clone3, [0, 0]), Some(NOT_THERE));
        assert_eq!(says(libc::SYS_ptrace, [0, 0]), Some(NOT_PERMITTED));
        assert_eq!(says(libc::SYS_socket, [40, 1]), Some(NO_SUCH_FAMILY), "AF_VSOCK");
        assert_eq!(says(libc::SYS_ioctl, [0, 0x5413]), None, "the size of a terminal may be asked for");
        for number in [libc::SYS_read, libc::SYS_execve, libc::SYS_connect, libc::SYS_openat, libc::SYS_mmap] {
            assert_eq!(says(number, [0, 0]), None);
        }
        assert_eq!(run(1, libc::SYS_read, [0, 0]), KILL);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(says(0x4000_0000 | 101, [0, 0]), Some(NOT_THERE));
    }
}
