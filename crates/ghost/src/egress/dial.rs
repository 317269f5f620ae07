//! From a place to a connection: one look-up, every address checked, and a connection to one of exactly these.
//! Never: a connection to an address that is this machine's own or of a private network, unless the operator named it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use molt_model::egress::{Place, Reason, Rules, is_public};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::resolve::Resolve;

/// Look-up and TCP together.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// A name may have many addresses; each that is tried gets its share of the time.
const TRIED_MAX: usize = 4;
/// Any port will do to ask by which address another one is reached; nothing is sent.
const DISCARD_PORT: u16 = 9;

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoWay {
    Refused(Reason),
    Unreachable,
    TooSlow,
}

pub(super) async fn dial(rules: &Rules, resolver: &dyn Resolve, place: &Place, port: u16) -> Result<TcpStream, NoWay> {
    let until = Instant::now() + CONNECT_MAX;
    let addresses = match (rules.private_address(place, port), place) {
        (Some(named), _) => vec![named],
        (None, Place::Address(address)) => checked(vec![*address], port)?,
        (None, Place::Domain(name)) => match timeout_at(until, resolver.addresses(name)).await {
            Ok(Ok(found)) => checked(found, port)?,
            Ok(Err(_)) => return Err(NoWay::Unreachable),
            Err(_elapsed) => return Err(NoWay::TooSlow),
        },
    };
    let mut left = u32::try_from(addresses.len()).unwrap_or(1);
    let mut failed = NoWay::Unreachable;
    for address in addresses {
        let share = until.saturating_duration_since(Instant::now()) / left;
        left -= 1;
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Small pieces must not wait for each other. Without it they are only slower.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(_)) => failed = NoWay::Unreachable,
            Err(_elapsed) => failed = NoWay::TooSlow,
        }
    }
    Err(failed)
}

/// The ones to try. One bad address among them spoils all: a name that leads to the world and inside is not to be trusted.
fn checked(found: Vec<IpAddr>, port: u16) -> Result<Vec<SocketAddr>, NoWay> {
    if found.iter().any(|address| !is_public(*address) || is_own(*address)) {
        return Err(NoWay::Refused(Reason::PrivateAddress));
    }
    Ok(found.into_iter().take(TRIED_MAX).map(|address| SocketAddr::new(address, port)).collect())
}

/// Whether this machine itself has the address: then it would be reached from that very address. Asks the kernel, sends
/// nothing. An address without a route is nobody's.
fn is_own(address: IpAddr) -> bool {
    let own = || -> io::Result<bool> {
        let any: IpAddr = match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, DISCARD_PORT))?;
        Ok(socket.local_addr()?.ip() == address)
    };
    own().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_address_spoils_all_and_the_machines_own_are_bad() {
        let ips = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(checked(ips(&["9.9.9.9", "2620:fe::fe"]), 443).unwrap().len(), 2);
        assert_eq!(checked(ips(&["9.9.9.9"; 9]), 443).unwrap().len(), TRIED_MAX);
        for bad in ["127.0.0.1", "169.254.169.254", "fd00:ec2::254", "10.0.0.1", "::ffff:9.9.9.9", "0.0.0.0"] {
            let refused = Err(NoWay::Refused(Reason::PrivateAddress));
            assert_eq!(checked(ips(&["9.9.9.9", "9.9.9.9", "9.9.9.9", "9.9.9.9", "9.9.9.9", bad]), 443), refused);
        }
        assert!(is_own("127.0.0.1".parse().unwrap()));
        assert!(!is_own("9.9.9.9".parse().unwrap()));
        // The address by which this machine reaches others, if it has one.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect(("9.9.9.9", DISCARD_PORT)).is_ok() {
            assert!(is_own(socket.local_addr().unwrap().ip()));
        }
    }
}
