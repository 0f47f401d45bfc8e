//! The whole target in this process, and initiators that talk to it over real sockets.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use ringtgt::control::config::{Memory, Portal, Reactors, Storage, TargetConfig};
use ringtgt::control::{BackendKind, Config, Controller, PollPolicy, Settings};
use ringtgt::initiator::{self, Command, CommandDone, Event, Initiator, Payload, wire_lun};
use ringtgt::pdu::bhs::IMMEDIATE;
use ringtgt::pdu::code::Opcode;
use ringtgt::stats::TABLE;

use zerocopy::{Immutable, IntoBytes};

use super::cdb::{self, Cdb};
use super::pair::{BLOCK, INITIATOR, TARGET};
use super::raw;

/// Nothing here takes longer, however busy the machine is; what does has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A `ram` disk of so many bytes.
pub fn ram(bytes: u64) -> Storage {
    Storage {
        size: Some(bytes),
        ..Storage::new(0, BackendKind::Ram, "test".into())
    }
}

/// Name of the target that serves storage `index`.
pub fn target(index: u64) -> String {
    match index {
        0 => TARGET.to_owned(),
        index => format!("{TARGET}.{index}"),
    }
}

/// A target that runs in this process; stopped when dropped.
#[derive(Debug)]
pub struct Daemon {
    controller: Option<Controller>,
    pub address: SocketAddr,
}

impl Daemon {
    /// Serves `storage` as LUN 0 of [`TARGET`] on a free port, with `pool` bytes of memory for all reactors.
    pub fn start(storage: Storage, poll: PollPolicy, pool: u64, settings: Settings) -> Self {
        let reactors = Reactors {
            poll,
            ..Reactors::default()
        };
        Self::start_all(vec![storage], reactors, pool, settings)
    }

    /// The same for several: each is LUN 0 of a target of its own, named by [`target`].
    pub fn start_all(
        mut storages: Vec<Storage>,
        reactors: Reactors,
        pool: u64,
        settings: Settings,
    ) -> Self {
        let mut targets = Vec::new();
        for (storage, id) in storages.iter_mut().zip(0..) {
            storage.device_id = id;
            targets.push(TargetConfig {
                name: target(id),
                portal_groups: vec![(1, vec![0])],
                luns: vec![(0, id)],
            });
        }
        let config = Config {
            storages,
            portals: vec![Portal {
                id: 0,
                address: "127.0.0.1:0".parse().unwrap(),
            }],
            targets,
            reactors,
            memory: Memory {
                bytes_per_node: Some(pool),
            },
            ..Config::default()
        };
        let controller = Controller::start(&config, settings).expect("it starts");
        let address = controller.facts().portals[0];
        Self {
            controller: Some(controller),
            address,
        }
    }

    fn controller(&self) -> &Controller {
        self.controller.as_ref().unwrap()
    }

    /// Connections there are, and how many of them are not logged in.
    pub fn connections(&self) -> (u32, u32) {
        self.controller().connections()
    }

    /// What all reactors counted under this name, without `ringtgt_` and `_total`.
    pub fn count(&self, name: &str) -> u64 {
        let full = format!("ringtgt_{name}_total");
        let row = TABLE.iter().position(|(name, _)| *name == full);
        let row = row.unwrap_or_else(|| panic!("no counter {full}"));
        let counters = self.controller().counters();
        counters.iter().map(|cell| cell.values()[row]).sum()
    }

    /// Waits until that is at least `least`.
    #[track_caller]
    pub fn wait_for_count(&self, name: &str, least: u64) {
        self.wait_until(name, || self.count(name) >= least);
    }

    /// Waits until nobody is connected.
    #[track_caller]
    pub fn wait_until_alone(&self) {
        self.wait_until("everybody is gone", || self.connections() == (0, 0));
    }

    #[track_caller]
    pub fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            let summary = || self.controller().summary();
            assert!(Instant::now() < deadline, "{what}\n{}", summary());
            std::thread::yield_now();
        }
    }

    /// Stops it: every session ends, every medium is flushed.
    pub fn stop(mut self) {
        let controller = self.controller.take().unwrap();
        controller.stop().expect("a clean stop");
    }

    /// Stops it; what did not go well.
    pub fn stop_with_problems(mut self) -> Vec<String> {
        let controller = self.controller.take().unwrap();
        controller
            .stop()
            .err()
            .map_or_else(Vec::new, |failure| failure.0)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(controller) = self.controller.take() {
            let stopped = controller.stop();
            assert!(stopped.is_ok() || std::thread::panicking(), "{stopped:?}");
        }
    }
}

/// Why a connection is over.
#[derive(Debug)]
pub enum Over {
    /// The target closed it.
    Closed,
    /// The initiator gave up.
    Error(initiator::Error),
}

fn is_for_later(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// An initiator and its socket.
#[derive(Debug)]
pub struct Peer {
    pub initiator: Initiator,
    stream: TcpStream,
    poll: Poll,
    ready: Events,
}

/// How a command ended, without its data.
pub fn ending(done: &CommandDone) -> String {
    let CommandDone {
        status,
        residual,
        sense,
        ..
    } = done;
    format!("status {status} {residual:?} sense {sense:x?}")
}

/// An initiator's usual configuration, with this ISID.
pub fn config(isid: u8) -> initiator::Config {
    let mut config = initiator::Config::normal(INITIATOR, TARGET);
    config.isid[5] = isid;
    config
}

impl Peer {
    /// A connection on which the login has not begun.
    pub fn connect(address: SocketAddr, config: initiator::Config) -> Self {
        let stream = std::net::TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut stream = TcpStream::from_std(stream);
        let poll = Poll::new().unwrap();
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(&mut stream, Token(0), interest)
            .unwrap();
        Self {
            initiator: Initiator::new(config),
            stream,
            poll,
            ready: Events::with_capacity(8),
        }
    }

    /// A session.
    #[track_caller]
    pub fn log_in(address: SocketAddr, config: initiator::Config) -> Self {
        let mut peer = Self::connect(address, config);
        match peer.next() {
            Ok(Event::LoggedIn) => {}
            other => panic!("no login: {other:?}"),
        }
        // The unit attention that every new nexus finds.
        peer.run(cdb::TEST_UNIT_READY, Payload::None);
        peer
    }

    fn send(&mut self) -> Result<bool, Over> {
        let mut moved = false;
        while !self.initiator.poll_transmit().is_empty() {
            match self.stream.write(self.initiator.poll_transmit()) {
                Ok(len) => self.initiator.transmitted(len),
                Err(error) if is_for_later(&error) => break,
                Err(_) => return Err(Over::Closed),
            }
            moved = true;
        }
        Ok(moved)
    }

    fn receive(&mut self) -> Result<bool, Over> {
        match self.stream.read(self.initiator.receive_into()) {
            Ok(0) => Err(Over::Closed),
            Ok(len) => match self.initiator.handle_received(len) {
                Ok(()) => Ok(true),
                Err(error) => Err(Over::Error(error)),
            },
            Err(error) if is_for_later(&error) => Ok(false),
            Err(_) => Err(Over::Closed),
        }
    }

    /// Sends all there is without receiving anything, if the target takes it.
    #[track_caller]
    pub fn send_all(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !self.initiator.poll_transmit().is_empty() {
            match self.send() {
                Ok(true) => {}
                Ok(false) => self.wait(deadline),
                Err(_) => return false,
            }
        }
        true
    }

    /// Sends until nothing more is taken, without waiting.
    pub fn send_some(&mut self) -> bool {
        self.send().unwrap_or(false)
    }

    #[track_caller]
    fn wait(&mut self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "nothing moves");
        // What interrupts it is nobody's fault: whoever waits looks again.
        let _ = self.poll.poll(&mut self.ready, Some(left));
    }

    /// Sends and receives until something happens.
    #[track_caller]
    pub fn next(&mut self) -> Result<Event, Over> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.initiator.poll_event() {
                return Ok(event);
            }
            // What was sent before a reset is still read.
            let sent = self.send();
            let received = self.receive()?;
            if !sent? && !received {
                self.wait(deadline);
            }
        }
    }

    /// Whether the target closes the connection, whatever else it says before.
    #[track_caller]
    pub fn is_closed(&mut self) -> bool {
        loop {
            match self.next() {
                Ok(_) => {}
                Err(Over::Closed) => return true,
                Err(Over::Error(_)) => return false,
            }
        }
    }

    /// The next answer to a command.
    #[track_caller]
    pub fn done(&mut self) -> CommandDone {
        loop {
            match self.next() {
                Ok(Event::Command(done)) => return done,
                Ok(Event::Pinged { .. }) => {}
                other => panic!("not the end of a command: {other:?}"),
            }
        }
    }

    /// Runs one command.
    #[track_caller]
    pub fn run(&mut self, cdb: Cdb, payload: Payload) -> CommandDone {
        let command = Command::new(0, wire_lun(0), cdb, payload);
        self.initiator.submit(command).expect("there is room");
        self.done()
    }

    /// Reads `len` bytes from block `lba` on.
    #[track_caller]
    pub fn read(&mut self, lba: u32, len: usize) -> Vec<u8> {
        let blocks = u16::try_from(len / BLOCK).unwrap();
        let done = self.run(cdb::read_10(lba, blocks), Payload::Read(vec![0; len]));
        assert!(done.is_good(), "{}", ending(&done));
        match done.payload {
            Payload::Read(bytes) => bytes,
            _ => unreachable!(),
        }
    }

    /// Writes `bytes` from block `lba` on.
    #[track_caller]
    pub fn write(&mut self, lba: u32, bytes: &[u8]) {
        let blocks = u16::try_from(bytes.len() / BLOCK).unwrap();
        let done = self.run(cdb::write_10(lba, blocks), Payload::Write(bytes.to_vec()));
        assert!(done.is_good(), "{}", ending(&done));
    }

    /// Sends a hand-made PDU with the next CmdSN, which it uses up unless it is immediate or takes none.
    pub fn put<T: IntoBytes + Immutable>(&mut self, bhs: &T, data: &[u8]) {
        let mut bhs = raw::bytes(bhs);
        let opcode = Opcode(bhs[0] & 0x3f);
        let cmd_sn = self.initiator.cmd_sn();
        if !matches!(opcode, Opcode::DATA_OUT | Opcode::SNACK_REQUEST) {
            bhs[24..28].copy_from_slice(&cmd_sn.0.to_be_bytes());
            if bhs[0] & IMMEDIATE == 0 {
                self.initiator.set_cmd_sn(cmd_sn.next());
            }
        }
        let exp_stat_sn = self.initiator.exp_stat_sn();
        bhs[28..32].copy_from_slice(&exp_stat_sn.0.to_be_bytes());
        self.initiator.send_pdu(bhs, data);
    }

    /// What came before the answer to a ping that is sent now.
    #[track_caller]
    pub fn until_ping(&mut self) -> Result<Vec<Event>, Over> {
        assert!(self.initiator.nop(7, b"").is_some());
        let mut events = Vec::new();
        loop {
            match self.next()? {
                Event::Nop { cookie: 7, .. } => return Ok(events),
                event => events.push(event),
            }
        }
    }

    /// Whether a ping comes back.
    #[track_caller]
    pub fn ping(&mut self) -> bool {
        self.initiator.nop(7, b"are you there?").is_some()
            && matches!(self.next(), Ok(Event::Nop { cookie: 7, .. }))
    }
}
