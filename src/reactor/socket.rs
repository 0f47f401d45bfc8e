//! One connection's socket, and what is known of its readiness.
//!
//! Every socket is registered once, edge-triggered, for both directions. An edge is remembered in `readable` or
//! `writable` and forgotten only when the kernel itself says "would block", or gave less than there was room for:
//! what comes after that is another edge. So a reactor may sleep when no connection is `readable` that it could read
//! from, and no byte is left behind. The end of the stream may lie behind the last byte with one edge for both;
//! that edge says so, and is not forgotten.

use std::io::{self, IoSliceMut, Read};
use std::os::fd::AsFd;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::buffer::Piece;
use crate::sys::pieces;

/// Turns without a byte after which a connection is no longer tried on the off chance. An attempt costs a third of
/// a microsecond.
const HOT_TURNS: u8 = 96;

/// What a receive brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// This many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The end of the stream.
    End,
    /// The end of the connection.
    Failed(io::ErrorKind),
}

/// What a send took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// This many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The end of the connection.
    Failed(io::ErrorKind),
}

/// A socket and its readiness.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    readable: bool,
    writable: bool,
    /// An edge said that the peer sends no more, or that something is wrong: all of it is to be read.
    ending: bool,
    /// Turns left in which it is tried without being known readable.
    heat: u8,
}

impl Socket {
    /// Registers `stream`; it is tried at once, as what came before leaves no edge.
    pub(super) fn register(
        mut stream: TcpStream,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            stream,
            readable: true,
            writable: true,
            ending: false,
            heat: HOT_TURNS,
        })
    }

    /// Takes the stream out of the registry, to go to another one.
    pub(super) fn deregister(mut self, registry: &Registry) -> io::Result<TcpStream> {
        registry.deregister(&mut self.stream)?;
        Ok(self.stream)
    }

    /// Remembers what an edge says of receiving; returns whether it says anything.
    pub(super) fn note_edge(&mut self, edge: &Event) -> bool {
        let ending = edge.is_read_closed() || edge.is_error();
        let news = ending || edge.is_readable();
        self.ending |= ending;
        self.readable |= news;
        news
    }

    pub(super) fn note_writable(&mut self) {
        self.writable = true;
    }

    #[cfg(test)]
    pub(super) fn is_readable(&self) -> bool {
        self.readable
    }

    #[cfg(test)]
    pub(super) fn is_ending(&self) -> bool {
        self.ending
    }

    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether to try to receive: it is readable, or was so a moment ago and trying is cheap.
    pub(super) fn is_worth_trying(&self, speculate: bool) -> bool {
        self.readable || (speculate && self.heat > 0)
    }

    /// One receive into both pieces of room.
    pub(super) fn receive(&mut self, room: &mut [IoSliceMut<'_>; 2]) -> Received {
        let [first, second] = room;
        let all = first.len() + second.len();
        loop {
            let result = match (first.is_empty(), second.is_empty()) {
                (_, true) => self.stream.read(first),
                (true, false) => self.stream.read(second),
                (false, false) => self.stream.read_vectored(&mut [
                    IoSliceMut::new(&mut *first),
                    IoSliceMut::new(&mut *second),
                ]),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return self.received(other, all),
            }
        }
    }

    fn received(&mut self, result: io::Result<usize>, room: usize) -> Received {
        match result {
            Ok(0) => Received::End,
            Ok(bytes) => {
                self.readable = bytes == room || self.ending;
                self.heat = HOT_TURNS;
                Received::Bytes(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                self.heat = self.heat.saturating_sub(1);
                Received::Nothing
            }
            Err(error) => Received::Failed(error.kind()),
        }
    }

    /// One gathered send.
    pub(super) fn send(&mut self, pieces: &[Piece<'_>]) -> Sent {
        match pieces::send(self.stream.as_fd(), pieces) {
            Ok(bytes) => Sent::Bytes(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Sent::Nothing
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Sent::Bytes(0),
            Err(error) => Sent::Failed(error.kind()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream as StdStream};

    fn pair() -> (Socket, StdStream, mio::Poll) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let peer = StdStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (stream, _) = listener.accept().expect("accepts");
        stream.set_nonblocking(true).expect("can be");
        let poll = mio::Poll::new().expect("epoll");
        let socket = Socket::register(TcpStream::from_std(stream), poll.registry(), Token(7))
            .expect("registers");
        (socket, peer, poll)
    }

    fn receive(socket: &mut Socket, room: &mut [u8]) -> Received {
        socket.receive(&mut [IoSliceMut::new(room), IoSliceMut::new(&mut [])])
    }

    /// Sleeps in the kernel, not in the clock, until the socket has an edge.
    fn wait(poll: &mut mio::Poll, socket: &mut Socket) {
        while !socket.is_readable() {
            wait_for_edge(poll, socket);
        }
    }

    fn wait_for_edge(poll: &mut mio::Poll, socket: &mut Socket) {
        let mut events = mio::Events::with_capacity(4);
        poll.poll(&mut events, None).expect("polls");
        for event in &events {
            socket.note_edge(event);
        }
    }

    #[test]
    fn it_stays_readable_until_there_is_less_than_room() {
        let (mut socket, mut peer, mut poll) = pair();
        let mut room = [0; 4];
        assert_eq!(receive(&mut socket, &mut room), Received::Nothing);
        assert!(!socket.is_readable());
        peer.write_all(b"12345678").expect("writes");
        wait(&mut poll, &mut socket);
        assert_eq!(receive(&mut socket, &mut room), Received::Bytes(4));
        assert!(socket.is_readable());
        assert_eq!(receive(&mut socket, &mut room), Received::Bytes(4));
        assert!(socket.is_readable(), "there may be more");
        assert_eq!(receive(&mut socket, &mut room), Received::Nothing);
        assert!(!socket.is_readable());
        peer.write_all(b"90").expect("writes");
        wait(&mut poll, &mut socket);
        assert_eq!(receive(&mut socket, &mut room), Received::Bytes(2));
        assert!(!socket.is_readable(), "that was all");
        peer.write_all(b"12").expect("writes");
        wait(&mut poll, &mut socket);
        assert_eq!(receive(&mut socket, &mut room), Received::Bytes(2));
        drop(peer);
        wait(&mut poll, &mut socket);
        assert_eq!(receive(&mut socket, &mut room), Received::End);
    }

    #[test]
    fn an_end_behind_the_last_bytes_is_not_forgotten() {
        let (mut socket, mut peer, mut poll) = pair();
        let mut room = [0; 4];
        assert_eq!(receive(&mut socket, &mut room), Received::Nothing);
        peer.write_all(b"12").expect("writes");
        drop(peer);
        // The edge of the end, and perhaps one before that: none of them is read between.
        while !socket.is_ending() {
            wait_for_edge(&mut poll, &mut socket);
        }
        assert_eq!(receive(&mut socket, &mut room), Received::Bytes(2));
        assert!(socket.is_readable(), "there will be no other edge");
        assert_eq!(receive(&mut socket, &mut room), Received::End);
    }

    #[test]
    fn bytes_and_an_end_that_came_without_a_look_have_an_edge_yet() {
        let (mut socket, mut peer, mut poll) = pair();
        let mut room = [0; 4];
        peer.write_all(b"12").expect("writes");
        while receive(&mut socket, &mut room) != Received::Bytes(2) {}
        drop(peer);
        assert!(!socket.is_readable());
        while !socket.is_ending() {
            wait_for_edge(&mut poll, &mut socket);
        }
        assert_eq!(receive(&mut socket, &mut room), Received::End);
    }

    #[test]
    fn it_cools_down_when_nothing_comes() {
        let (mut socket, _peer, _poll) = pair();
        let mut tries = 0;
        while socket.is_worth_trying(true) {
            assert_eq!(receive(&mut socket, &mut [0; 1]), Received::Nothing);
            tries += 1;
        }
        assert_eq!(tries, u32::from(HOT_TURNS));
        assert!(!socket.is_worth_trying(false));
    }

    #[test]
    fn a_full_socket_is_not_writable() {
        let (mut socket, _peer, _poll) = pair();
        let much = vec![0; 1 << 20];
        let pieces = [Piece::of(&much), Piece::of(&much)];
        while let Sent::Bytes(_) = socket.send(&pieces) {}
        assert!(!socket.is_writable());
    }
}
