//! The whole target in this process, over loopback: controller, reactors, sessions, media.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ringtgt::control::config::{Portal, Reactors, Storage, TargetConfig};
use ringtgt::control::{BackendKind, Config, Controller, PollPolicy, Settings};
use ringtgt::initiator::driver;
use ringtgt::initiator::plan::{Access, Length, Operation, Plan, Work};
use ringtgt::initiator::{self, Command, DigestOffer, Error, Event, Initiator, Offers, Payload};
use ringtgt::pdu::code::{LoginStatus, LogoutReason};
use ringtgt::session::login::LoginLimits;

const NAME: &str = "iqn.2026-11.com.example:served";
const WHO: &str = "iqn.2026-11.com.example:initiator";

/// A target with one LUN on a free port of loopback.
fn config(storage: Storage, poll: PollPolicy, address: &str) -> Config {
    Config {
        storages: vec![storage],
        portals: vec![Portal {
            id: 0,
            address: address.parse().expect("an address"),
        }],
        targets: vec![TargetConfig {
            name: NAME.to_owned(),
            portal_groups: vec![(1, vec![0])],
            luns: vec![(0, 0)],
        }],
        reactors: Reactors {
            poll,
            ..Reactors::default()
        },
        ..Config::default()
    }
}

fn ram() -> Storage {
    Storage {
        size: Some(8 << 20),
        ..Storage::new(0, BackendKind::Ram, PathBuf::from("test"))
    }
}

fn start(config: &Config) -> (Controller, SocketAddr) {
    let controller = Controller::start(config, Settings::default()).expect("it starts");
    let address = controller.facts().portals[0];
    (controller, address)
}

/// 3000 reads and writes by three sessions, each read compared with what was written.
fn exercise(address: SocketAddr, digests: DigestOffer) {
    let plan = Plan {
        url: format!("iscsi://{address}/{NAME}/0")
            .parse()
            .expect("a URL"),
        initiator_name: WHO.to_owned(),
        offers: Offers {
            header_digest: digests,
            data_digest: digests,
            ..Offers::DEFAULT
        },
        work: Work {
            operation: Operation::Mixed { read_percent: 50 },
            access: Access::Random,
            block_size: 4096,
            depth: 8,
            connections: 3,
            rate: None,
        },
        also: Vec::new(),
        length: Length::Commands(3000),
        warmup: Duration::ZERO,
        span: None,
        verify: true,
        seed: 1,
        lenient: false,
        busy: false,
        core: None,
        interval: None,
    };
    let (_, outcome) = driver::run(&plan, &mut |_| {}).expect("every connection lives");
    let results = &outcome.works[0];
    assert_eq!(results.errors, 0, "{:?}", results.first_error);
    assert_eq!(results.mismatches, 0, "{:?}", results.first_mismatch);
}

#[test]
fn every_poll_policy_serves_every_backend() {
    let dir = tempfile::tempdir().expect("a directory");
    for poll in [PollPolicy::Event, PollPolicy::Adaptive, PollPolicy::Busy] {
        for kind in [BackendKind::Ram, BackendKind::File, BackendKind::IoUring] {
            let path = dir.path().join(format!("{poll}-{kind}"));
            let storage = Storage {
                size: Some(8 << 20),
                ..Storage::new(0, kind, path)
            };
            let (controller, address) = start(&config(storage, poll, "127.0.0.1:0"));
            exercise(address, DigestOffer::Off);
            exercise(address, DigestOffer::Required);
            controller.stop().expect("everything is flushed");
        }
    }
}

#[test]
fn what_was_written_is_in_the_file_after_the_stop() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("disk.img");
    let storage = Storage {
        size: Some(8 << 20),
        ..Storage::new(0, BackendKind::IoUring, path.clone())
    };
    let config = config(storage, PollPolicy::Adaptive, "127.0.0.1:0");
    let (controller, address) = start(&config);
    exercise(address, DigestOffer::Off);
    controller.stop().expect("everything is flushed");
    let bytes = std::fs::read(&path).expect("the file is there");
    assert_eq!(bytes.len(), 8 << 20);
    assert!(bytes.iter().any(|&byte| byte != 0));
    // The lock went with the target: it can be served again, at once.
    let (controller, address) = start(&config);
    exercise(address, DigestOffer::Off);
    controller.stop().expect("everything is flushed");
}

#[test]
fn ipv6_portals_are_served() {
    let Ok(controller) = Controller::start(
        &config(ram(), PollPolicy::Adaptive, "[::1]:0"),
        Settings::default(),
    ) else {
        // A machine without IPv6.
        return;
    };
    exercise(controller.facts().portals[0], DigestOffer::Off);
    controller.stop().expect("everything is flushed");
}

/// A connection with the initiator that drives it.
struct Peer {
    stream: TcpStream,
    initiator: Initiator,
}

impl Peer {
    fn new(address: SocketAddr, isid: u8, tsih: u16) -> Self {
        let mut config = initiator::Config::normal(WHO, NAME);
        config.isid[5] = isid;
        config.tsih = tsih;
        let stream = TcpStream::connect(address).expect("it listens");
        Self {
            stream,
            initiator: Initiator::new(config),
        }
    }

    /// Sends and receives until something happens; `None` when the target closed the connection.
    fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if let Some(event) = self.initiator.poll_event() {
                return Some(Ok(event));
            }
            let bytes = self.initiator.poll_transmit().to_vec();
            if !bytes.is_empty() {
                if self.stream.write_all(&bytes).is_err() {
                    return None;
                }
                self.initiator.transmitted(bytes.len());
            }
            match self.stream.read(self.initiator.receive_into()) {
                Ok(0) | Err(_) => return None,
                Ok(len) => {
                    if let Err(error) = self.initiator.handle_received(len) {
                        return Some(Err(error));
                    }
                }
            }
        }
    }

    fn log_in(address: SocketAddr, isid: u8) -> Self {
        let mut peer = Self::new(address, isid, 0);
        assert!(matches!(peer.next(), Some(Ok(Event::LoggedIn))));
        peer
    }

    fn ping(&mut self) -> bool {
        self.initiator.nop(7, b"are you there?").is_some()
            && matches!(self.next(), Some(Ok(Event::Nop { cookie: 7, .. })))
    }
}

#[test]
fn a_second_login_of_the_same_nexus_takes_the_place_of_the_first() {
    let (controller, address) = start(&config(ram(), PollPolicy::Adaptive, "127.0.0.1:0"));
    let mut others: Vec<Peer> = (10..14).map(|isid| Peer::log_in(address, isid)).collect();
    let mut first = Peer::log_in(address, 1);
    for _ in 0..20 {
        let mut second = Peer::log_in(address, 1);
        assert!(
            first.next().is_none(),
            "the old session's connection is closed"
        );
        assert!(second.ping());
        first = second;
    }
    assert!(
        others.iter_mut().all(Peer::ping),
        "nobody else is disturbed"
    );
    first
        .initiator
        .logout(LogoutReason::CLOSE_SESSION)
        .expect("there is room");
    assert!(matches!(first.next(), Some(Ok(Event::LoggedOut { .. }))));
    assert!(first.next().is_none(), "the target closes");
    controller.stop().expect("everything is flushed");
    assert!(
        others.iter_mut().all(|peer| peer.next().is_none()),
        "a stop closes every session"
    );
}

/// What was begun is finished, even when the initiator takes its answers late; and then the end comes at once.
#[test]
fn a_stop_waits_for_answers_that_a_full_socket_holds_up() {
    const READS: u64 = 48;
    for poll in [PollPolicy::Event, PollPolicy::Adaptive] {
        let (controller, address) = start(&config(ram(), poll, "127.0.0.1:0"));
        let mut peer = Peer::log_in(address, 1);
        for cookie in 0..READS {
            // READ(10) of 2048 blocks from block 0.
            let mut cdb = [0; 16];
            (cdb[0], cdb[7]) = (0x28, 8);
            let read = Command::new(cookie, 0, cdb, Payload::Discard(1 << 20));
            peer.initiator.submit(read).expect("the window is wide");
        }
        let bytes = peer.initiator.poll_transmit().to_vec();
        peer.stream.write_all(&bytes).expect("it listens");
        peer.initiator.transmitted(bytes.len());
        // Until the sockets between us are full.
        std::thread::sleep(Duration::from_millis(500));
        let stopping = std::thread::spawn(move || controller.stop());
        std::thread::sleep(Duration::from_millis(200));
        let (mut done, mut bytes) = (0, 0);
        while let Some(event) = peer.next() {
            match event {
                Ok(Event::Command(read)) => {
                    done += 1;
                    bytes += u64::from(read.received);
                }
                other => panic!("{other:?}"),
            }
        }
        // The first one is told of the power-on instead.
        assert_eq!((done, bytes >> 20), (READS, READS - 1), "{poll}");
        let answered = Instant::now();
        let stopped = stopping.join().expect("no panic");
        stopped.expect("everything is flushed");
        // Not the 2 seconds that what is in flight with the kernel would have.
        assert!(answered.elapsed() < Duration::from_secs(1), "{poll}");
    }
}

#[test]
fn a_handle_that_names_no_session_is_refused() {
    let (controller, address) = start(&config(ram(), PollPolicy::Event, "127.0.0.1:0"));
    let mut peer = Peer::new(address, 1, 999);
    match peer.next() {
        Some(Err(Error::Refused { status, .. })) => {
            assert_eq!(status, LoginStatus::SESSION_DOES_NOT_EXIST)
        }
        other => panic!("{other:?}"),
    }
    controller.stop().expect("everything is flushed");
}

#[test]
fn bytes_that_are_no_login_end_their_connection_and_nothing_else() {
    let (controller, address) = start(&config(ram(), PollPolicy::Adaptive, "127.0.0.1:0"));
    let mut peer = Peer::log_in(address, 1);
    for garbage in [
        vec![0xff; 100],
        vec![0; 48],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(&garbage).expect("sent");
        let mut rest = Vec::new();
        // Reset or end: it is over either way.
        let _ = stream.read_to_end(&mut rest);
    }
    assert!(peer.ping());
    controller.stop().expect("everything is flushed");
}

#[test]
fn a_connection_that_says_nothing_is_closed_at_the_deadline() {
    let login = LoginLimits {
        deadline: Duration::from_millis(50),
        ..LoginLimits::default()
    };
    let settings = Settings {
        login,
        ..Settings::default()
    };
    let config = config(ram(), PollPolicy::Event, "127.0.0.1:0");
    let controller = Controller::start(&config, settings).expect("it starts");
    let mut stream = TcpStream::connect(controller.facts().portals[0]).expect("it listens");
    assert_eq!(stream.read(&mut [0; 1]).expect("closed in order"), 0);
    controller.stop().expect("everything is flushed");
}

#[test]
fn a_port_in_use_is_named() {
    let (controller, address) = start(&config(ram(), PollPolicy::Event, "127.0.0.1:0"));
    let second = config(ram(), PollPolicy::Event, &address.to_string());
    let failure = Controller::start(&second, Settings::default()).expect_err("the port is taken");
    assert!(
        failure
            .to_string()
            .contains(&format!("portal {address}: the port is in use")),
        "{failure}"
    );
    controller.stop().expect("everything is flushed");
}

#[test]
fn two_targets_live_in_one_process() {
    let (one, first) = start(&config(ram(), PollPolicy::Adaptive, "127.0.0.1:0"));
    let (two, second) = start(&config(ram(), PollPolicy::Adaptive, "127.0.0.1:0"));
    exercise(first, DigestOffer::Off);
    one.stop().expect("everything is flushed");
    exercise(second, DigestOffer::Off);
    two.stop().expect("everything is flushed");
}
