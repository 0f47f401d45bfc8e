//! Sockets that we closed, until the peer knows.
//!
//! A socket that is dropped while there is input nobody read, or that gets some later, makes the kernel send a reset
//! (RFC 1122, section 4.2.2.13), which overtakes what was said last: the answer that says why. So the end of the
//! stream is sent first, and for a short time what still comes is thrown away.

use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::Registry;
use mio::net::TcpStream;

use super::socket::Socket;

/// How long a peer may take to close its side.
const PATIENCE: Duration = Duration::from_millis(500);
/// Sockets kept so at a time; of more, the oldest goes.
const MOST: usize = 64;
/// Bytes thrown away in one receive.
const PIECE: usize = 8192;
/// Receives per socket and look.
const PIECES: usize = 16;

/// Those sockets, the oldest first.
#[derive(Debug)]
pub(super) struct Lingering {
    sockets: Vec<(Instant, TcpStream)>,
}

impl Lingering {
    pub(super) fn new() -> Self {
        Self {
            sockets: Vec::with_capacity(MOST),
        }
    }

    /// Ends our side of `socket`.
    pub(super) fn add(&mut self, now: Instant, socket: Socket, registry: &Registry) {
        let Ok(mut stream) = socket.deregister(registry) else {
            return;
        };
        if stream.shutdown(Shutdown::Write).is_err() || is_over(&mut stream) {
            return;
        }
        if self.sockets.len() == MOST {
            self.sockets.remove(0);
        }
        self.sockets.push((now + PATIENCE, stream));
    }

    /// Throws away what came, and drops those that are over or had their time; returns how many.
    pub(super) fn look(&mut self, now: Instant) -> usize {
        let before = self.sockets.len();
        self.sockets
            .retain_mut(|(until, stream)| !is_over(stream) && *until > now);
        before - self.sockets.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}

/// Throws away what came, within bounds; says whether the peer's side has ended too.
fn is_over(stream: &mut TcpStream) -> bool {
    let mut room = [0; PIECE];
    for _ in 0..PIECES {
        match stream.read(&mut room) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use crate::buffer::Piece;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream as StdStream};

    use mio::{Poll, Token};

    use super::*;

    fn pair(poll: &Poll) -> (Socket, StdStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let peer = StdStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (stream, _) = listener.accept().expect("accepts");
        stream.set_nonblocking(true).expect("can be");
        let stream = TcpStream::from_std(stream);
        let socket = Socket::register(stream, poll.registry(), Token(7)).expect("registers");
        (socket, peer)
    }

    #[test]
    fn the_last_answer_arrives_although_nobody_reads_what_the_peer_still_sends() {
        let poll = Poll::new().expect("epoll");
        let now = Instant::now();
        let mut lingering = Lingering::new();
        let (mut socket, mut peer) = pair(&poll);
        peer.write_all(&[1; 5000]).expect("it is open");
        socket.send(&[Piece::of(b"no")]);
        lingering.add(now, socket, poll.registry());
        // This would be answered with a reset.
        peer.write_all(&[2; 5000]).expect("it is open");
        assert_eq!(lingering.look(now), 0);
        peer.write_all(&[3; 5000]).expect("it is still open");
        let mut said = Vec::new();
        peer.read_to_end(&mut said).expect("an orderly end");
        assert_eq!(said, b"no");
        drop(peer);
        while !lingering.is_empty() {
            lingering.look(now);
        }
    }

    #[test]
    fn a_peer_that_never_closes_has_half_a_second() {
        let poll = Poll::new().expect("epoll");
        let now = Instant::now();
        let mut lingering = Lingering::new();
        let (socket, _peer) = pair(&poll);
        lingering.add(now, socket, poll.registry());
        assert_eq!(lingering.look(now + PATIENCE / 2), 0);
        assert!(!lingering.is_empty());
        assert_eq!(lingering.look(now + PATIENCE), 1);
        assert!(lingering.is_empty());
    }

    #[test]
    fn there_are_never_more_than_a_bound() {
        let poll = Poll::new().expect("epoll");
        let now = Instant::now();
        let mut lingering = Lingering::new();
        let mut peers = Vec::new();
        for _ in 0..MOST + 3 {
            let (socket, peer) = pair(&poll);
            lingering.add(now, socket, poll.registry());
            peers.push(peer);
        }
        assert_eq!(lingering.sockets.len(), MOST);
        assert_eq!(lingering.sockets.capacity(), MOST);
    }
}
