//! What a second of idleness costs the first command after it, beside what it costs a bare thread on the same core.
//!
//! A thread that sleeps is woken late, and finds its core's clock low and its caches cold, whatever it is; on a virtual
//! machine a halted core must be scheduled anew as well. That is measured here on two threads that do nothing but
//! answer a message with as many bytes, and wait as a reactor does: 50 µs spinning, then asleep in `epoll_wait`, or in
//! a blocking `recv`. They take turns with the target, on the same core, with the same client.

use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use ringtgt::control::PollPolicy;
use ringtgt::initiator::{Command, Payload};

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that use different parts of it"
)]
#[path = "common/served.rs"]
mod served;

use served::{Peer, ram, start};

/// As long as a SCSI command without data, and its answer.
const MESSAGE: usize = 48;
/// How long the bare threads spin: as a reactor.
const SPIN: Duration = ringtgt::reactor::SPIN;
/// Commands in a row before each second of idleness.
const ROW: usize = 1000;
/// How long nobody speaks.
const IDLE: Duration = Duration::from_secs(1);

/// How a bare thread sleeps.
#[derive(Clone, Copy)]
enum Sleep {
    Epoll,
    Recv,
}

/// Reads a message without waiting longer than the budget. False: it did not come.
fn spin(stream: &mut impl Read, message: &mut [u8]) -> bool {
    let begin = Instant::now();
    loop {
        match stream.read(message) {
            Ok(0) => panic!("the client closes last"),
            Ok(_) => return true,
            Err(_) if begin.elapsed() < SPIN => {}
            Err(_) => return false,
        }
    }
}

/// Answers messages until one begins with 1. They are so short, and so far apart, that each comes whole.
fn answer(stream: TcpStream, sleep: Sleep, core: u32) {
    ringtgt::sys::cpu::pin_current_thread(core).expect("allowed");
    let mut message = [0; MESSAGE];
    stream.set_nodelay(true).expect("can be");
    stream.set_nonblocking(true).expect("can be");
    let (mut poll, mut events) = (Poll::new().expect("epoll"), Events::with_capacity(256));
    let mut blocking = stream.try_clone().expect("another descriptor");
    let mut stream = mio::net::TcpStream::from_std(stream);
    let both = Interest::READABLE | Interest::WRITABLE;
    let registry = poll.registry();
    registry.register(&mut stream, Token(0), both).expect("new");
    while message[0] == 0 {
        if !spin(&mut stream, &mut message) {
            match sleep {
                Sleep::Epoll => {
                    poll.poll(&mut events, None).expect("it sleeps");
                    continue;
                }
                Sleep::Recv => {
                    blocking.set_nonblocking(false).expect("can be");
                    blocking.read_exact(&mut message).expect("a message");
                    blocking.set_nonblocking(true).expect("can be");
                }
            }
        }
        stream.write_all(&message).expect("there is room");
    }
}

/// One that is asked: the answer to a question takes so long.
trait Server {
    fn ask(&mut self) -> Duration;
    /// What hears nothing while nobody asks.
    fn stream(&mut self) -> &mut TcpStream;
}

/// The client's side of a bare thread.
struct Bare {
    stream: TcpStream,
    thread: std::thread::JoinHandle<()>,
}

impl Bare {
    fn start(sleep: Sleep, core: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (other, _) = listener.accept().expect("it connects");
        stream.set_nodelay(true).expect("can be");
        stream.set_nonblocking(true).expect("can be");
        let thread = std::thread::spawn(move || answer(other, sleep, core));
        Self { stream, thread }
    }

    fn say(&mut self, what: u8) -> Duration {
        let mut message = [what; MESSAGE];
        let begin = Instant::now();
        self.stream.write_all(&message).expect("there is room");
        while self.stream.read(&mut message).is_err() {}
        begin.elapsed()
    }

    fn end(mut self) {
        self.say(1);
        self.thread.join().expect("no panic");
    }
}

impl Server for Bare {
    fn ask(&mut self) -> Duration {
        self.say(0)
    }

    fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

/// The target: TEST UNIT READY.
impl Server for Peer {
    fn ask(&mut self) -> Duration {
        let begin = Instant::now();
        let command = Command::new(1, 0, [0; 16], Payload::None);
        self.initiator.submit(command).expect("the window is open");
        assert!(self.send());
        loop {
            if self.initiator.poll_event().is_some() {
                return begin.elapsed();
            }
            if let Ok(len) = self.stream.read(self.initiator.receive_into()) {
                let taken = self.initiator.handle_received(len);
                taken.expect("as it should be");
            }
        }
    }

    fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

/// How long answers took: in a row, and the first after a second.
#[derive(Default)]
struct Times {
    busy: Vec<Duration>,
    first: Vec<Duration>,
}

impl Times {
    fn measure(&mut self, server: &mut dyn Server) {
        self.busy.extend((0..ROW).map(|_| server.ask()));
        // The one that asks stays awake, so that it is the other one's waking that is measured.
        let idle = Instant::now();
        while idle.elapsed() < IDLE {
            let heard = server.stream().read(&mut [0; 1]);
            assert!(heard.is_err(), "nothing is to be said");
        }
        self.first.push(server.ask());
    }

    /// By how much the first is later (the medians), and all of it in words.
    fn penalty(&mut self, name: &str) -> (Duration, String) {
        self.busy.sort_unstable();
        self.first.sort_unstable();
        let median = |times: &[Duration]| times[times.len() / 2];
        let (busy, first) = (median(&self.busy), median(&self.first));
        let more = first.saturating_sub(busy);
        let (least, most) = (self.first[0], self.first[self.first.len() - 1]);
        let words = format!(
            "{name}: busy {busy:?}, first after a second {first:?} ({least:?} to {most:?}): {more:?} more"
        );
        (more, words)
    }
}

/// Rounds with the target and a bare thread of each kind; by how much later each answers first, the target before the
/// others. `None`: there is one core only.
fn measure(rounds: usize, sleeps: &'static [(Sleep, &str)]) -> Option<(Duration, Vec<Duration>)> {
    // In a thread of its own, as it stays on its core.
    let measured = std::thread::spawn(move || measure_here(rounds, sleeps));
    measured.join().expect("no panic")
}

fn measure_here(rounds: usize, sleeps: &[(Sleep, &str)]) -> Option<(Duration, Vec<Duration>)> {
    let cores = ringtgt::sys::cpu::allowed_cores();
    let (&served, &asks) = (cores.first()?, cores.get(1..)?.last()?);
    let (controller, address) = start(ram(), PollPolicy::Adaptive, 1)?;
    assert_eq!(controller.reactors()[0].core, served);
    ringtgt::sys::cpu::pin_current_thread(asks).expect("allowed");
    let mut peer = Peer::log_in(address, 1);
    peer.stream.set_nonblocking(true).expect("can be");
    let mut bare: Vec<Bare> = sleeps.iter().map(|s| Bare::start(s.0, served)).collect();
    let mut target = Times::default();
    let mut others: Vec<Times> = sleeps.iter().map(|_| Times::default()).collect();
    for _ in 0..rounds {
        target.measure(&mut peer);
        for (times, bare) in others.iter_mut().zip(&mut bare) {
            times.measure(bare);
        }
    }
    bare.into_iter().for_each(Bare::end);
    controller.stop().expect("everything is flushed");
    let (more, words) = target.penalty("target");
    println!("{words}");
    let mut floors = Vec::new();
    for (times, (_, name)) in others.iter_mut().zip(sleeps) {
        let (floor, words) = times.penalty(name);
        println!("{words}");
        floors.push(floor);
    }
    Some((more, floors))
}

/// The medians of nine rounds. Others on the machine may take a core in the middle of it, from the one or the other: so
/// it has three attempts. (`cargo test --release --test idle`: unoptimized code is several times as large, and cold.)
#[test]
#[ignore = "a measurement: of optimized code, with the machine to itself"]
fn the_first_command_after_a_second_is_late_by_what_a_bare_thread_is_and_no_100_microseconds_more()
{
    let mut seen = Vec::new();
    for _ in 0..3 {
        let Some((more, floors)) = measure(9, &[(Sleep::Epoll, "epoll_wait")]) else {
            return;
        };
        if more <= floors[0] + Duration::from_micros(100) {
            return;
        }
        seen.push((more, floors[0]));
    }
    panic!("later by so much, and a bare thread: {seen:?}");
}

/// A measurement, with the machine to itself: `cargo test --release --test idle -- --ignored
/// --nocapture`.
#[test]
#[ignore = "a measurement"]
fn the_first_command_after_idleness_beside_both_bare_threads() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok());
    let sleeps = &[(Sleep::Epoll, "epoll_wait"), (Sleep::Recv, "recv")];
    assert!(measure(rounds.unwrap_or(15), sleeps).is_some(), "two cores");
}
