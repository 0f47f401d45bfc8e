//! The ceiling's sockets, served in the best way and in the plain way.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::CeilingPlan;
use super::answer::{Answerer, LONGEST_WHOLE};
use super::answers::MOST_PIECES;
use crate::pdu::BHS_LEN;

/// Turns between two looks at the listening socket and at `stop` while there are connections.
const TURNS: u32 = 4096;
/// How long the listening socket is slept on at a time.
const NAP: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    answerer: Answerer,
    /// The start of a PDU that has not all come.
    carried: Vec<u8>,
}

impl Connection {
    fn new(plan: &CeilingPlan, address: SocketAddr, stream: TcpStream, tsih: u16) -> Self {
        Self {
            stream,
            answerer: Answerer::new(
                plan.blocks,
                plan.logical_block_size,
                plan.offers,
                address.to_string(),
                tsih,
            ),
            carried: Vec::new(),
        }
    }

    /// One receive, all PDUs in it, one send. `false` when the connection is over.
    fn turn(&mut self, buffer: &mut [u8]) -> bool {
        if self.answerer.answers.is_empty() && !self.receive(buffer) {
            return false;
        }
        if self.answerer.answers.is_empty() {
            return !self.answerer.over;
        }
        let mut slices = [IoSlice::new(&[]); MOST_PIECES];
        let count = self.answerer.answers.gather(&mut slices);
        let sent = match &slices[..count] {
            [one] => self.stream.write(one),
            slices => self.stream.write_vectored(slices),
        };
        match sent {
            Ok(len) => self.answerer.answers.sent(len),
            Err(error) => return would_block(&error),
        }
        true
    }

    fn receive(&mut self, buffer: &mut [u8]) -> bool {
        let carried = self.carried.len();
        buffer[..carried].copy_from_slice(&self.carried);
        match self.stream.read(&mut buffer[carried..]) {
            Ok(0) => false,
            Ok(len) => {
                let stream = &buffer[..carried + len];
                let Ok(taken) = self.answerer.take(stream) else {
                    return false;
                };
                self.carried.clear();
                self.carried.extend_from_slice(&stream[taken..]);
                true
            }
            Err(error) => would_block(&error),
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Never sleeps while there are connections.
pub(super) fn best(
    plan: &CeilingPlan,
    address: SocketAddr,
    listener: &TcpListener,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut buffer = vec![0; plan.receive_buffer + BHS_LEN + LONGEST_WHOLE + 1024];
    let mut connections: Vec<Connection> = Vec::new();
    let mut poll = Nap::new(listener)?;
    let mut tsih = 0u16;
    while !stop.load(Ordering::Relaxed) {
        if connections.is_empty() {
            poll.nap();
        }
        while let Some(stream) = accept(listener)? {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            tsih = tsih.checked_add(1).unwrap_or(1);
            connections.push(Connection::new(plan, address, stream, tsih));
        }
        for _ in 0..TURNS {
            connections.retain_mut(|connection| connection.turn(&mut buffer));
        }
    }
    Ok(())
}

fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if would_block(&error) || error.kind() == ErrorKind::ConnectionAborted => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Sleeping on the listening socket.
struct Nap {
    poll: mio::Poll,
    events: mio::Events,
}

impl Nap {
    fn new(listener: &TcpListener) -> io::Result<Self> {
        use std::os::fd::AsRawFd;
        let poll = mio::Poll::new()?;
        poll.registry().register(
            &mut mio::unix::SourceFd(&listener.as_raw_fd()),
            mio::Token(0),
            mio::Interest::READABLE,
        )?;
        Ok(Self {
            poll,
            events: mio::Events::with_capacity(4),
        })
    }

    fn nap(&mut self) {
        // An interruption only makes it shorter.
        let _ = self.poll.poll(&mut self.events, Some(NAP));
    }
}

/// Blocking sockets: a thread per connection, a receive per header and per data segment, a send per PDU.
pub(super) fn one_per_pdu(
    plan: &CeilingPlan,
    address: SocketAddr,
    listener: &TcpListener,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut poll = Nap::new(listener)?;
    let mut tsih = 0u16;
    std::thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            poll.nap();
            while let Some(stream) = accept(listener)? {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                // So that `stop` is seen.
                stream.set_read_timeout(Some(NAP))?;
                tsih = tsih.checked_add(1).unwrap_or(1);
                let connection = Connection::new(plan, address, stream, tsih);
                scope.spawn(move || plain(connection, stop));
            }
        }
        Ok(())
    })
}

/// Serves one connection until it ends. What is wrong with it does not matter to anybody else.
fn plain(mut connection: Connection, stop: &AtomicBool) {
    let mut pdu = Vec::new();
    while !connection.answerer.over {
        let Connection {
            stream, answerer, ..
        } = &mut connection;
        pdu.resize(BHS_LEN, 0);
        if receive_exactly(stream, &mut pdu, stop).is_none() {
            return;
        }
        let rest = pdu
            .first_chunk()
            .map_or(0, |bhs| answerer.layout(bhs).len - BHS_LEN);
        pdu.resize(BHS_LEN + rest, 0);
        if receive_exactly(stream, &mut pdu[BHS_LEN..], stop).is_none() {
            return;
        }
        if answerer.take(&pdu) != Ok(pdu.len()) {
            return;
        }
        if send_all(stream, answerer).is_err() {
            return;
        }
    }
}

/// Fills `buffer`. `None` when the connection or the ceiling ended first.
fn receive_exactly(stream: &mut TcpStream, buffer: &mut [u8], stop: &AtomicBool) -> Option<()> {
    let mut have = 0;
    while have < buffer.len() {
        match stream.read(&mut buffer[have..]) {
            Ok(0) => return None,
            Ok(len) => have += len,
            Err(error) if would_block(&error) && !stop.load(Ordering::Relaxed) => {}
            Err(_) => return None,
        }
    }
    Some(())
}

fn send_all(stream: &mut TcpStream, answerer: &mut Answerer) -> io::Result<()> {
    while !answerer.answers.is_empty() {
        let mut slices = [IoSlice::new(&[]); MOST_PIECES];
        let count = answerer.answers.gather(&mut slices);
        let len = stream.write_vectored(&slices[..count])?;
        answerer.answers.sent(len);
    }
    Ok(())
}
