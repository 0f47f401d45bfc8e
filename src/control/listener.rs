//! The portals: accepting connections, and handing them to reactors in turn.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use crate::reactor::{Arrival, Census, Mailbox, Message};
use crate::session::target::TargetSet;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Of all kinds.
    pub open: u32,
    /// That are not logged in.
    pub logging_in: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            open: 1024,
            logging_in: 128,
        }
    }
}

/// Connections accepted from one portal before the next one has its turn.
const ACCEPTS_PER_ROUND: usize = 64;

/// Of the places for connections that are not logged in, one in so many is for the same address: one host
/// must not lock all others out until its logins have timed out. Only where places are short (half of them
/// are taken): many logins at once are nothing bad.
const PLACES_PER_ADDRESS: u32 = 4;

/// Who the connections are from that are not logged in.
#[derive(Debug, Default)]
pub(super) struct Newcomers(Vec<(IpAddr, Weak<()>)>);

impl Newcomers {
    /// Whether another connection from `peer` may log in.
    fn has_place(&mut self, peer: IpAddr, limits: ConnectionLimits) -> bool {
        self.0.retain(|(_, login)| login.strong_count() > 0);
        let all = count(self.0.iter());
        let peer = network(peer);
        let same = count(self.0.iter().filter(|(address, _)| *address == peer));
        let share = (limits.logging_in / PLACES_PER_ADDRESS).max(1);
        all < limits.logging_in && (all < limits.logging_in.div_ceil(2) || same < share)
    }

    /// A connection from `peer` logs in, while `login` lasts.
    fn enter(&mut self, peer: IpAddr, login: Weak<()>) {
        self.0.push((network(peer), login));
    }
}

fn count<T>(of: impl Iterator<Item = T>) -> u32 {
    u32::try_from(of.count()).unwrap_or(u32::MAX)
}

/// What one host has of addresses: with IPv6 it has all of a /64 network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Bound addresses, not listened on by anybody yet: connections wait in the kernel.
#[derive(Debug, Default)]
pub struct Listeners {
    sockets: Vec<TcpListener>,
}

/// What a round of accepting came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// Connections refused for there being too many.
    pub(super) refused: u32,
    /// There may be more: accept again soon.
    pub(super) again: bool,
    /// The kernel has no descriptor or memory for another one.
    pub(super) starved: Option<io::ErrorKind>,
}

impl Listeners {
    /// Binds `address` and says what it became (the port, where it was 0).
    ///
    /// # Errors
    /// A sentence that names the address.
    pub fn bind(&mut self, address: SocketAddr) -> Result<SocketAddr, String> {
        let bound = crate::sys::socket::listen(address)
            .and_then(|socket| socket.local_addr().map(|local| (socket, local)))
            .map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => {
                    format!("portal {address}: the port is in use by another program (or another portal)")
                }
                io::ErrorKind::AddrNotAvailable => format!("portal {address}: this machine has no such address"),
                io::ErrorKind::PermissionDenied => {
                    format!("portal {address}: not permitted (ports below 1024 are for root)")
                }
                _ => format!("portal {address}: {error}"),
            })?;
        self.sockets.push(TcpListener::from_std(bound.0));
        Ok(bound.1)
    }

    /// Registers all of them; their tokens count up from 0.
    pub(super) fn register(&mut self, registry: &Registry) -> io::Result<()> {
        for (index, socket) in self.sockets.iter_mut().enumerate() {
            registry.register(socket, Token(index), Interest::READABLE)?;
        }
        Ok(())
    }
}

/// What accepting needs.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) listeners: Listeners,
    pub(super) targets: Arc<TargetSet>,
    pub(super) census: Arc<Census>,
    pub(super) limits: ConnectionLimits,
    pub(super) newcomers: Newcomers,
    pub(super) reactors: Vec<Mailbox<Message>>,
    /// The reactor whose turn it is: a login starts anywhere, its placement comes later.
    pub(super) turn: usize,
}

impl Acceptor {
    /// Takes what waits on every portal.
    pub(super) fn accept(&mut self) -> Round {
        let mut round = Round::default();
        for index in 0..self.listeners.sockets.len() {
            for n in 0..=ACCEPTS_PER_ROUND {
                if n == ACCEPTS_PER_ROUND {
                    round.again = true;
                    break;
                }
                match self.listeners.sockets[index].accept() {
                    Ok((stream, peer)) => self.admit(stream, peer, &mut round),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if is_passing(&error) => {}
                    Err(error) => {
                        round.starved = Some(error.kind());
                        break;
                    }
                }
            }
        }
        round
    }

    /// Stops listening.
    pub(super) fn close(&mut self) {
        self.listeners.sockets.clear();
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr, round: &mut Round) {
        let full = self.census.open() >= self.limits.open
            || !self.newcomers.has_place(peer.ip(), self.limits);
        // Neither fails on a socket that is still connected.
        let (Ok(local), Ok(())) = (stream.local_addr(), stream.set_nodelay(true)) else {
            return;
        };
        if full {
            round.refused += 1;
            return;
        }
        let permit = self.census.enter();
        self.newcomers.enter(peer.ip(), permit.login());
        let targets = Arc::clone(&self.targets);
        let arrival = Arrival {
            stream,
            peer,
            local,
            targets,
            permit,
        };
        let reactor = self.turn % self.reactors.len();
        self.turn = reactor + 1;
        // A reactor that is gone takes no connection; the socket closes with the message.
        let _ = self.reactors[reactor].send(Message::Accepted(arrival));
    }
}

/// Errors of the connection that was to be accepted, not of accepting (see accept(2)).
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::Interrupted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_place_for_logins() {
        let limits = ConnectionLimits::default();
        let mut newcomers = Newcomers::default();
        let mut permits = Vec::new();
        let mut fill = |newcomers: &mut Newcomers, address: &str| {
            let address = address.parse().expect("an address");
            let mut mine = 0;
            while newcomers.has_place(address, limits) {
                let permit = Arc::new(());
                newcomers.enter(address, Arc::downgrade(&permit));
                permits.push(permit);
                mine += 1;
            }
            mine
        };
        assert_eq!(fill(&mut newcomers, "2001:db8::1"), 64);
        // The same host.
        assert_eq!(fill(&mut newcomers, "2001:db8::2"), 0);
        assert_eq!(fill(&mut newcomers, "192.0.2.1"), 32);
        assert_eq!(fill(&mut newcomers, "::ffff:192.0.2.1"), 0);
        assert_eq!(fill(&mut newcomers, "192.0.2.2"), 32);
        assert_eq!(fill(&mut newcomers, "192.0.2.3"), 0, "all are taken");
        drop(permits);
        assert!(newcomers.has_place(Ipv6Addr::LOCALHOST.into(), limits));
        assert!(newcomers.0.is_empty());
    }
}
