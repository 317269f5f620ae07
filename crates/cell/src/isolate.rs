//! A network of the runtime's own where no container gives it one (a machine at Fly): it has loopback and nothing else. What
//! the cell itself needs of the outside it gets from one thread that stayed there.
//! Never: root after the start, or a thread outside that does anything but open connections to the proxy.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Gid, Uid};
use rustix::thread::UnshareFlags;
use tokio::sync::oneshot;

/// Whom everything runs as once root is given up.
const USER: u32 = 65532;
/// One attempt at one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const STACK_BYTES: usize = 256 * 1024;

type Wish = (String, oneshot::Sender<io::Result<TcpStream>>);

/// The way to the proxy.
#[derive(Clone, Debug)]
pub struct Outside {
    wishes: mpsc::Sender<Wish>,
}

/// Leaves the machine's network for an empty one and gives up root, before there is any other thread. What was opened before
/// stays open: the door, for one.
pub fn enter(state: &Path) -> anyhow::Result<Outside> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "MOLT_ISOLATE=netns takes root at the start, which is given up at once: start the image as root"
    );
    std::fs::create_dir_all(state).context("make the state folder")?;
    std::os::unix::fs::lchown(state, Some(USER), Some(USER)).context("give the state folder away")?;
    let outside = Outside::start()?;
    leave_the_network().context("make a network of its own")?;
    loopback_up().context("bring its loopback up")?;
    give_up_root().context("give up root")?;
    Ok(outside)
}

impl Outside {
    fn start() -> anyhow::Result<Self> {
        let (wishes, inbox) = mpsc::channel::<Wish>();
        let (ready, begun) = mpsc::channel();
        let thread = std::thread::Builder::new().name("outside".into()).stack_size(STACK_BYTES);
        thread
            .spawn(move || {
                let given_up = give_up_root();
                let well = given_up.is_ok();
                ready.send(given_up).ok();
                if well {
                    grant(&inbox);
                }
            })
            .context("start the thread outside")?;
        begun.recv().context("hear of the thread outside")?.context("give up root outside")?;
        Ok(Self { wishes })
    }

    /// A connection that was opened outside.
    pub async fn connect(&self, authority: &str) -> io::Result<tokio::net::TcpStream> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.wishes.send((authority.to_owned(), reply)).map_err(|_| gone())?;
        let stream = answer.await.map_err(|_| gone())??;
        stream.set_nonblocking(true)?;
        tokio::net::TcpStream::from_std(stream)
    }
}

/// Each connection by a thread of its own, so that a slow one delays nobody.
fn grant(inbox: &mpsc::Receiver<Wish>) {
    for (authority, reply) in inbox {
        let thread = std::thread::Builder::new().name("outside".into()).stack_size(STACK_BYTES);
        // Without a thread the wish is dropped, which its owner hears.
        thread.spawn(move || reply.send(connect(&authority)).ok()).ok();
    }
}

fn connect(authority: &str) -> io::Result<TcpStream> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

#[expect(unsafe_code, reason = "a system call that rustix calls unsafe for flags that are not used here")]
fn leave_the_network() -> io::Result<()> {
    // SAFETY: a network namespace of its own takes nothing from this thread that its memory or files depend on.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// A new network has a loopback that is down.
#[expect(unsafe_code, reason = "there is no other way to bring an interface up than this ioctl")]
fn loopback_up() -> io::Result<()> {
    const SET_FLAGS: rustix::ioctl::Opcode = 0x8914;
    const UP: i16 = 1;
    /// The kernel's `struct ifreq`, as far as flags go.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: i16,
        rest: [u8; 22],
    }

    let mut request = Request { name: [0; 16], flags: UP, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: SIOCSIFFLAGS reads one `struct ifreq`, which is what it is given.
    Ok(unsafe { rustix::ioctl::ioctl(socket, rustix::ioctl::Setter::<SET_FLAGS, Request>::new(request)) }?)
}

/// For this thread and all that it starts. The bounds stay as they are, but nothing can gain anything by a program any more.
fn give_up_root() -> io::Result<()> {
    let (user, group) = (Uid::from_raw(USER), Gid::from_raw(USER));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    Ok(rustix::thread::set_no_new_privs(true)?)
}
