//! The attempts. `Ok`: it got through, and what it found there; `Err`: what stood in its way.
//! Never: an attempt that hangs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use serde_json::Value;

/// The argument that makes this program take memory until it has it or is killed.
pub(crate) const TAKE_MEMORY: &str = "take-memory";
const PATIENCE: Duration = Duration::from_secs(3);
const PAGE_BYTES: usize = 4096;
const MIB: usize = 1024 * 1024;

type Outcome = Result<String, String>;

pub(crate) fn make(attempt: &Value) -> Outcome {
    let text = |name: &str| attempt[name].as_str().unwrap_or_default();
    let number = |name: &str| attempt[name].as_u64().unwrap_or_default();
    match text("do") {
        "unix" => unix(text("path")),
        "abstract" => abstract_socket(text("path")),
        "tcp" => tcp(text("address")),
        "udp" => udp(text("address")),
        "proxy" => proxy(text("target")),
        "read" => std::fs::read(text("path")).map(|bytes| format!("{} bytes", bytes.len())).map_err(said),
        "list" => list(text("path")),
        "write" => std::fs::write(text("path"), "here").map(|()| "written".to_owned()).map_err(said),
        "swap" => swap(text("path"), text("target")),
        "run" => run(text("program"), text("argument")),
        "environment" => environment(text("path"), text("word")),
        "root" => root(),
        "powers" => powers(),
        "call" => call(text("call")),
        "processes" => processes(text("word")),
        "signal" => signal(attempt["pid"].as_i64().unwrap_or_default()),
        "bomb" => bomb(number("processes")),
        "memory" => memory(number("mib")),
        "fill" => fill(text("path"), number("mib")),
        "files" => files(number("files")),
        other => Err(format!("nobody knows how to {other}")),
    }
}

fn said(error: std::io::Error) -> String {
    error.to_string()
}

fn last_error() -> String {
    said(std::io::Error::last_os_error())
}

fn unix(path: &str) -> Outcome {
    UnixStream::connect(path).map(|_| "connected".to_owned()).map_err(said)
}

fn abstract_socket(name: &str) -> Outcome {
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).map_err(said)?;
    UnixStream::connect_addr(&address).map(|_| "connected".to_owned()).map_err(said)
}

fn tcp(address: &str) -> Outcome {
    let address: SocketAddr = address.parse().map_err(|_| "not an address".to_owned())?;
    TcpStream::connect_timeout(&address, PATIENCE).map(|_| "connected".to_owned()).map_err(said)
}

/// Waits for an answer: a packet that was only sent says nothing.
fn udp(address: &str) -> Outcome {
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(said)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(said)?;
    socket.send_to(b"anybody?", address).map_err(said)?;
    socket.recv(&mut [0; 64]).map(|length| format!("{length} bytes")).map_err(said)
}

/// By the way that honest programs take.
fn proxy(target: &str) -> Outcome {
    let mut stream = TcpStream::connect("127.0.0.1:3128").map_err(said)?;
    stream.set_read_timeout(Some(PATIENCE * 3)).map_err(said)?;
    let (line, host) = match target.split_once("://") {
        Some((_, rest)) => (format!("GET {target} HTTP/1.1"), rest.split('/').next().unwrap_or_default().to_owned()),
        None => (format!("CONNECT {target} HTTP/1.1"), target.to_owned()),
    };
    write!(stream, "{line}\r\nHost: {host}\r\nConnection: close\r\n\r\n").map_err(said)?;
    let mut answer = [0; 256];
    let length = stream.read(&mut answer).map_err(said)?;
    let first = String::from_utf8_lossy(&answer[..length]).lines().next().unwrap_or_default().to_owned();
    if first.contains(" 200") { Ok(first) } else { Err(first) }
}

fn list(path: &str) -> Outcome {
    let entries = std::fs::read_dir(path).map_err(said)?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "))
}

fn swap(path: &str, target: &str) -> Outcome {
    std::fs::remove_file(path).map_err(said)?;
    symlink(target, path).map(|()| "swapped".to_owned()).map_err(said)
}

/// A program that belongs to root and asks to run as its owner.
fn run(program: &str, argument: &str) -> Outcome {
    let ran = Command::new(program).arg(argument).output().map_err(said)?;
    let printed = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
    if printed == "0" { Ok("it ran as root".to_owned()) } else { Err(format!("it ran as {printed}")) }
}

/// What another process was told, or holds in its memory.
fn environment(path: &str, word: &str) -> Outcome {
    let mut file = std::fs::File::open(path).map_err(said)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(said)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if text.contains(word) { Ok(format!("it says {word}")) } else { Err(format!("{} bytes say nothing", bytes.len())) }
}

#[expect(unsafe_code, reason = "std can't change the user of a running process")]
fn root() -> Outcome {
    // SAFETY: a plain system call without pointers.
    match unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) } {
        -1 => Err(last_error()),
        _ => Ok("it is root".to_owned()),
    }
}

/// Capabilities that the process has or may get.
fn powers() -> Outcome {
    let status = std::fs::read_to_string("/proc/self/status").map_err(said)?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        u64::from_str_radix(line.trim(), 16).unwrap_or_default()
    };
    let (bounds, new) = (of("CapBnd:"), of("NoNewPrivs:"));
    if bounds != 0 || new != 1 { Ok(format!("bounds {bounds:x}, no new ones {new}")) } else { Err("none".to_owned()) }
}

/// Parts of the kernel that a cell has no business with. What is refused for the call's own faults got through to it.
#[expect(unsafe_code, reason = "raw system calls are what the filter refuses")]
fn call(name: &str) -> Outcome {
    let nothing = 0 as libc::c_long;
    let (number, first, second) = match name {
        "new user namespace" => (libc::SYS_unshare, libc::c_long::from(libc::CLONE_NEWUSER), nothing),
        "ptrace" => (libc::SYS_ptrace, libc::c_long::from(libc::PTRACE_TRACEME), nothing),
        // The session's keyring, made if it isn't there.
        "keyctl" => (libc::SYS_keyctl, 0, -3),
        "io_uring" => (libc::SYS_io_uring_setup, 1, nothing),
        "clone3" => (libc::SYS_clone3, nothing, nothing),
        "vsock" => (libc::SYS_socket, libc::c_long::from(libc::AF_VSOCK), libc::c_long::from(libc::SOCK_STREAM)),
        "other process's memory" => (libc::SYS_process_vm_readv, libc::c_long::from(std::process::id()), nothing),
        "file handles" => (libc::SYS_name_to_handle_at, nothing, nothing),
        "terminal input" => (libc::SYS_ioctl, 0, 0x5412),
        other => return Err(format!("nobody knows {other}")),
    };
    // SAFETY: in a child that only makes this call and ends; all pointers are null, which the kernel checks.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        let done = unsafe { libc::syscall(number, first, second, nothing, nothing, nothing, nothing) };
        let error = if done == -1 { std::io::Error::last_os_error().raw_os_error().unwrap_or(1) } else { 0 };
        let refused = [libc::EPERM, libc::ENOSYS, libc::EAFNOSUPPORT].contains(&error);
        // SAFETY: ends the child without anything else of this program.
        unsafe { libc::_exit(if refused { error } else { 0 }) };
    }
    let mut status = 0;
    // SAFETY: `status` lives until the call is over.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    match libc::WEXITSTATUS(status) {
        0 => Ok("the kernel looked at it".to_owned()),
        error => Err(said(std::io::Error::from_raw_os_error(error))),
    }
}

/// Any process that isn't this cell's.
fn processes(word: &str) -> Outcome {
    let entries = std::fs::read_dir("/proc").map_err(said)?.flatten();
    let lines = entries.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()));
    let lines = lines.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let found = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).find(|line| line.contains(word));
    found.ok_or_else(|| "only its own".to_owned())
}

/// Whether there is such a process, which is the most harmless signal.
#[expect(unsafe_code, reason = "std sends no signals")]
fn signal(pid: i64) -> Outcome {
    let pid = libc::pid_t::try_from(pid).map_err(|_| "not a process id".to_owned())?;
    // SAFETY: a plain system call.
    if unsafe { libc::kill(pid, 0) } == 0 {
        return Ok("it is there".to_owned());
    }
    match std::io::Error::last_os_error() {
        // Seen, and only the user is in the way.
        error if error.raw_os_error() == Some(libc::EPERM) => Ok("it is there, and somebody else's".to_owned()),
        error => Err(said(error)),
    }
}

/// Makes so many processes that do nothing, then ends them.
#[expect(unsafe_code, reason = "std can't fork without a program")]
fn bomb(wanted: u64) -> Outcome {
    let mut children = Vec::new();
    let mut error = None;
    for _ in 0..wanted {
        // SAFETY: the child makes one system call after the other and never returns.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            },
            -1 => {
                error = Some(last_error());
                break;
            }
            child => children.push(child),
        }
    }
    // Long enough for others to feel it.
    std::thread::sleep(Duration::from_millis(500));
    for child in &children {
        // SAFETY: plain system calls on our own children.
        unsafe {
            libc::kill(*child, libc::SIGKILL);
            libc::waitpid(*child, std::ptr::null_mut(), 0);
        }
    }
    match error {
        None => Ok(format!("{} processes", children.len())),
        Some(error) => Err(format!("{} processes, then {error}", children.len())),
    }
}

fn memory(mib: u64) -> Outcome {
    let own = std::env::current_exe().map_err(said)?;
    let ended = Command::new(own).args([TAKE_MEMORY, &mib.to_string()]).status().map_err(said)?;
    if ended.success() { Ok(format!("{mib} MiB")) } else { Err(ended.to_string()) }
}

/// Touches every page, so that the memory is really there.
pub(crate) fn take_memory(arguments: &[String]) -> ExitCode {
    let mib: usize = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut taken: Vec<Vec<u8>> = Vec::new();
    for _ in 0..mib {
        let mut piece = vec![0u8; MIB];
        piece.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 1);
        taken.push(std::hint::black_box(piece));
    }
    ExitCode::SUCCESS
}

fn fill(path: &str, mib: u64) -> Outcome {
    let write = || {
        let mut file = std::fs::File::create(path)?;
        (0..mib).try_for_each(|_| file.write_all(&vec![1; MIB]))
    };
    let done = write();
    std::fs::remove_file(Path::new(path)).ok();
    done.map(|()| format!("{mib} MiB")).map_err(said)
}

fn files(wanted: u64) -> Outcome {
    let opened: Result<Vec<_>, _> = (0..wanted).map(|_| std::fs::File::open("/dev/null")).collect();
    opened.map(|files| format!("{} files", files.len())).map_err(said)
}
