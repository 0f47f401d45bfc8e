//! A target with reactors, over loopback, and an initiator that speaks to it from the test.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ringtgt::control::config::{Portal, Reactors, Storage, TargetConfig};
use ringtgt::control::{BackendKind, Config, Controller, PollPolicy, Settings};
use ringtgt::initiator::{self, Command, Event, Initiator, Payload};

/// The target's name.
pub const NAME: &str = "iqn.2026-11.com.example:served";
/// The initiator's.
pub const WHO: &str = "iqn.2026-11.com.example:initiator";

/// A target with one LUN on a free port of loopback, and a reactor on each of so many cores; `None`: there are not so
/// many. Sessions move only when a test asks for it.
pub fn start(storage: Storage, poll: PollPolicy, cores: u32) -> Option<(Controller, SocketAddr)> {
    start_with(storage, poll, cores, false)
}

/// The same, with `reactors.balance` as given.
pub fn start_with(
    storage: Storage,
    poll: PollPolicy,
    cores: u32,
    balance: bool,
) -> Option<(Controller, SocketAddr)> {
    let there = ringtgt::sys::cpu::allowed_cores();
    let cores = there.get(..cores as usize)?.to_vec();
    let config = Config {
        storages: vec![storage],
        portals: vec![Portal {
            id: 0,
            address: "127.0.0.1:0".parse().expect("an address"),
        }],
        targets: vec![TargetConfig {
            name: NAME.to_owned(),
            portal_groups: vec![(1, vec![0])],
            luns: vec![(0, 0)],
        }],
        reactors: Reactors {
            cores: Some(cores),
            poll,
            balance,
            ..Reactors::default()
        },
        ..Config::default()
    };
    let controller = Controller::start(&config, Settings::default()).expect("it starts");
    let address = controller.facts().portals[0];
    Some((controller, address))
}

/// Its medium, 16 MiB of memory.
pub fn ram() -> Storage {
    Storage {
        size: Some(16 << 20),
        ..Storage::new(0, BackendKind::Ram, PathBuf::from("test"))
    }
}

/// A connection with the initiator that drives it. It is strict: a StatSN that is not the next one is an error.
pub struct Peer {
    pub stream: TcpStream,
    pub initiator: Initiator,
}

impl Peer {
    /// Logs in.
    pub fn log_in(address: SocketAddr, isid: u8) -> Self {
        let mut config = initiator::Config::normal(WHO, NAME);
        config.isid[5] = isid;
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).expect("can be");
        let mut peer = Self {
            stream,
            initiator: Initiator::new(config),
        };
        assert!(matches!(peer.next(), Some(Event::LoggedIn)));
        peer
    }

    /// Sends what there is; false: the connection is closed.
    pub fn send(&mut self) -> bool {
        let bytes = self.initiator.poll_transmit().to_vec();
        let sent = bytes.is_empty() || self.stream.write_all(&bytes).is_ok();
        self.initiator.transmitted(bytes.len());
        sent
    }

    /// Sends and receives until something happens; `None` when the target closed the connection.
    pub fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.initiator.poll_event() {
                return Some(event);
            }
            if !self.send() {
                return None;
            }
            match self.stream.read(self.initiator.receive_into()) {
                Ok(0) | Err(_) => return None,
                Ok(len) => self
                    .initiator
                    .handle_received(len)
                    .expect("as it should be"),
            }
        }
    }

    /// NOP-Out; whether it was answered.
    pub fn ping(&mut self) -> bool {
        self.initiator.nop(7, b"are you there?").is_some()
            && matches!(self.next(), Some(Event::Nop { cookie: 7, .. }))
    }

    /// TEST UNIT READY; how long the answer took.
    pub fn ask(&mut self) -> Duration {
        let begin = Instant::now();
        let command = Command::new(1, 0, [0; 16], Payload::None);
        self.initiator.submit(command).expect("the window is open");
        assert!(matches!(self.next(), Some(Event::Command(_))));
        begin.elapsed()
    }
}

/// Gives the core to others until something is so. A test that hangs is ended by whoever runs it.
pub fn wait_until(mut it_is_so: impl FnMut() -> bool) {
    while !it_is_so() {
        std::thread::yield_now();
    }
}
