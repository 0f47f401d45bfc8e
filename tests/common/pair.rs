//! [`Pair`]: initiators and a target's shards with only memory between them.
//!
//! ```text
//!  Initiator ─ poll_transmit ─► to_target ─ cut into segments ─► Login, then Shard ─► Disk
//!            ◄ handle_bytes ─── to_initiator ◄─ cut ──────────── gather
//! ```
//!
//! The pair does what the reactor does, turn by turn, but reads no clock, opens no socket and starts no
//! thread: the same seed gives the same run.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringtgt::buffer::{Pool, PoolConfig};
use ringtgt::initiator::{self, Config, Event, Initiator, Payload};
use ringtgt::scsi::{Identity, LogicalUnit};
use ringtgt::session::login::{Login, LoginError, LoginLimits, LoginStatus};
use ringtgt::session::params::OperationalParams;
use ringtgt::session::shard::{Shard, ShardConfig};
use ringtgt::session::target::{PortalGroup, Target, TargetSet};
use ringtgt::session::{ConnectionError, Parcel, ReactorId, SessionKey, SessionLimits, UnitId};
use ringtgt::units::BlockSize;

use super::cdb;
use super::disk::Disk;
use super::random::Random;

pub const INITIATOR: &str = "iqn.1994-05.com.example:host";
pub const TARGET: &str = "iqn.2001-04.com.example:disk";
pub const TAG: u16 = 1;
/// Blocks of a test's disk.
pub const BLOCKS: u64 = 8 * 1024;
/// Bytes of a block.
pub const BLOCK: usize = 512;

/// How bytes are cut on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segments {
    /// All there are.
    Whole,
    /// So many at a time.
    Of(usize),
    /// As it happens.
    Random,
}

/// Why the target closed a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The login came to nothing.
    Login(LoginError),
    /// The stream could not be followed.
    Connection(ConnectionError),
    /// The session asked for it: a logout was answered, or a reset ended it.
    Requested,
    /// A new session took its place.
    Reinstated,
    /// No room for the session.
    NotOpened(LoginStatus),
    /// The test closed it.
    Cut,
}

/// Where a connection stands at the target.
#[derive(Debug)]
pub(super) enum Side {
    Login(Box<Login>),
    /// Complete, but the session it takes the place of still drains.
    Draining(Box<Login>, Seat),
    Session(Seat),
    Closed,
}

/// A session's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) shard: usize,
    pub(super) key: SessionKey,
}

/// What names a session for reinstatement (RFC 7143, section 6.3.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nexus {
    pub(super) initiator_name: String,
    pub(super) isid: [u8; 6],
    pub(super) target: Option<String>,
    pub(super) portal_group_tag: u16,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) nexus: Nexus,
    pub(super) seat: Seat,
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    pub initiator: Initiator,
    /// What happened, but for NOP-Ins that nobody asked for.
    pub events: VecDeque<Event>,
    /// Those NOP-Ins.
    pub pings: usize,
    /// Why the initiator gave up.
    pub error: Option<initiator::Error>,
    /// Why the target closed.
    pub closed: Option<Closed>,
    pub(super) side: Side,
    pub(super) to_target: VecDeque<u8>,
    pub(super) to_initiator: VecDeque<u8>,
    /// What the target agreed to.
    pub params: Option<OperationalParams>,
    pub(super) placed: Option<(Nexus, usize)>,
    /// The session said that it has something to send.
    pub(super) ready: bool,
    /// The initiator does not read.
    pub deaf: bool,
    /// Bytes that the session received and sent.
    pub target_bytes: (usize, usize),
    /// Bytes that the target received.
    pub sent_bytes: usize,
    /// The network breaks after so many of them.
    pub breaks_after: Option<usize>,
}

impl Link {
    /// The socket can be written again.
    pub fn nudge(&mut self) {
        self.ready = true;
    }
}

/// Initiators and shards. See the module's text.
#[derive(Debug)]
pub struct Pair {
    pub now: Instant,
    pub shards: Vec<Shard>,
    pub pools: Vec<Pool>,
    pub disks: Vec<Disk>,
    pub links: Vec<Link>,
    pub segments: Segments,
    pub random: Random,
    pub limits: LoginLimits,
    /// Where the next new session goes; round robin when `None`.
    pub next_shard: Option<usize>,
    pub(super) targets: Arc<TargetSet>,
    pub(super) sessions: Vec<Session>,
    pub(super) next_tsih: u16,
    /// Links whose session is to move, the shard it goes to, and the turns it has left.
    pub(super) departures: Vec<(usize, usize, u32)>,
    /// Sessions on their way.
    pub(super) parcels: Vec<(usize, usize, Parcel)>,
    /// Moves that were made, and that were not.
    pub moves: (usize, usize),
}

/// What a pair is made of.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub shards: u16,
    pub units: u16,
    pub block_size: BlockSize,
    pub pool_bytes: usize,
    pub limits: SessionLimits,
    pub seed: u64,
    pub segments: Segments,
    /// Targets beside [`TARGET`], without LUNs.
    pub more_targets: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            shards: 1,
            units: 2,
            block_size: BlockSize::B512,
            pool_bytes: 16 << 20,
            limits: SessionLimits::default(),
            seed: 1,
            segments: Segments::Whole,
            more_targets: 0,
        }
    }
}

pub fn portal() -> SocketAddr {
    "127.0.0.1:3260".parse().unwrap()
}

pub(super) fn pool(bytes: usize) -> Pool {
    let config = PoolConfig {
        bytes,
        numa_node: None,
        hugepages: false,
    };
    Pool::new(config).unwrap().0
}

fn unit(disk: &Disk, number: u16) -> Arc<LogicalUnit> {
    Arc::new(LogicalUnit {
        geometry: disk.geometry(),
        identity: Identity {
            vendor: "RINGTGT".into(),
            product: "DISK".into(),
            revision: "1".into(),
            serial: format!("{number:08}"),
        },
        online: true,
        stopped: false,
        generation: 0,
    })
}

impl Pair {
    /// A target with two LUNs and one shard.
    pub fn new() -> Self {
        Self::with(Setup::default())
    }

    pub fn with(setup: Setup) -> Self {
        let disks: Vec<Disk> = (0..setup.units)
            .map(|_| Disk::new(setup.block_size, BLOCKS))
            .collect();
        let target = Target {
            name: TARGET.into(),
            alias: Some("A disk".into()),
            portal_groups: vec![PortalGroup {
                tag: TAG,
                portals: vec![portal()],
            }],
            luns: (0..setup.units)
                .map(|n| (n, UnitId(u32::from(n))))
                .collect(),
        };
        let more = (0..setup.more_targets).map(|n| {
            Arc::new(Target {
                name: format!("{TARGET}-{n:04}"),
                luns: Vec::new(),
                ..target.clone()
            })
        });
        let targets = std::iter::once(Arc::new(target.clone()))
            .chain(more)
            .collect();
        let pools: Vec<Pool> = (0..setup.shards).map(|_| pool(setup.pool_bytes)).collect();
        let shards = (0..setup.shards)
            .zip(&pools)
            .map(|(reactor, pool)| Self::shard(setup, reactor, pool.clone(), &disks))
            .collect();
        Self {
            now: Instant::now(),
            shards,
            pools,
            disks,
            links: Vec::new(),
            segments: setup.segments,
            random: Random::new(setup.seed),
            limits: LoginLimits::default(),
            next_shard: None,
            targets: Arc::new(TargetSet { targets }),
            sessions: Vec::new(),
            next_tsih: 1,
            departures: Vec::new(),
            parcels: Vec::new(),
            moves: (0, 0),
        }
    }

    fn shard(setup: Setup, reactor: u16, pool: Pool, disks: &[Disk]) -> Shard {
        let mut shard = Shard::new(ShardConfig {
            reactor: ReactorId(reactor),
            reactors: setup.shards,
            pool,
            limits: setup.limits,
        });
        for (number, disk) in (0u16..).zip(disks) {
            let seed = setup.seed ^ u64::from(reactor) << 8 ^ u64::from(number) << 16;
            shard.attach_unit(
                UnitId(u32::from(number)),
                unit(disk, number),
                disk.attach(seed),
            );
        }
        shard
    }

    /// The logical unit that a disk is served as.
    pub fn unit_of(disk: &Disk) -> Arc<LogicalUnit> {
        unit(disk, 0)
    }

    pub fn disk(&self) -> &Disk {
        &self.disks[0]
    }

    /// A connection that starts to log in; nothing moves before [`Self::run`].
    pub fn connect(&mut self, config: Config) -> usize {
        self.links.push(Link {
            initiator: Initiator::new(config),
            events: VecDeque::new(),
            pings: 0,
            error: None,
            closed: None,
            side: Side::Login(Box::new(Login::new(
                Arc::clone(&self.targets),
                portal(),
                self.limits,
                self.now,
            ))),
            to_target: VecDeque::new(),
            to_initiator: VecDeque::new(),
            params: None,
            placed: None,
            ready: false,
            deaf: false,
            sent_bytes: 0,
            target_bytes: (0, 0),
            breaks_after: None,
        });
        self.links.len() - 1
    }

    /// A connection that is logged in.
    pub fn login(&mut self, config: Config) -> usize {
        let link = self.connect(config);
        self.run();
        assert!(
            matches!(self.event(link), Some(Event::LoggedIn)),
            "{:?} {:?}",
            self.links[link].error,
            self.links[link].closed
        );
        self.assert_agreed(link);
        assert_eq!(
            self.links[link].pings, 0,
            "nothing is to be said after a login"
        );
        link
    }

    /// A normal session with this initiator's own defaults; each call another initiator port.
    pub fn session(&mut self) -> usize {
        let mut config = Config::normal(INITIATOR, TARGET);
        config.isid[5] = 0x80 + u8::try_from(self.links.len()).unwrap();
        self.login(config)
    }

    /// The same, with every unit attention reported already.
    pub fn quiet_session(&mut self) -> usize {
        let link = self.session();
        self.quiet(link);
        link
    }

    /// Hears every pending unit attention of every LUN.
    pub fn quiet(&mut self, link: usize) {
        for lun in 0..u16::try_from(self.disks.len()).unwrap() {
            let mut tries = 0;
            while self
                .command_on(link, lun, cdb::TEST_UNIT_READY, Payload::None)
                .status
                != 0
            {
                tries += 1;
                assert!(tries < 8, "LUN {lun} never gets ready");
            }
        }
    }

    /// Lets bytes, operations and messages move until nothing does.
    pub fn run(&mut self) {
        let mut idle = 0;
        for _ in 0..1_000_000 {
            idle = if self.turn() { 0 } else { idle + 1 };
            // Random segments and a medium that takes its time may stand still for a few turns.
            if idle > 40 {
                return;
            }
        }
        panic!("it never gets quiet");
    }

    /// One turn of everything; whether anything moved.
    pub fn turn(&mut self) -> bool {
        let mut moved = false;
        for index in 0..self.links.len() {
            moved |= self.initiator_turn(index);
            moved |= self.target_turn(index);
        }
        for shard in 0..self.shards.len() {
            moved |= self.shards[shard].poll_backends(self.now) > 0;
            while let Some((to, message)) = self.shards[shard].poll_message() {
                self.shards[usize::from(to.0)].handle_message(self.now, message);
                moved = true;
            }
            while let Some(key) = self.shards[shard].poll_ready() {
                moved = true;
                if let Some(link) = self.link_of(Seat { shard, key }) {
                    self.links[link].ready = true;
                }
            }
            while let Some(key) = self.shards[shard].poll_close_request() {
                moved = true;
                if let Some(link) = self.link_of(Seat { shard, key }) {
                    self.close(link, Closed::Requested);
                }
            }
            while let Some(key) = self.shards[shard].poll_closed() {
                moved = true;
                self.sessions.retain(|s| s.seat != Seat { shard, key });
            }
        }
        moved | self.moving_turn()
    }

    /// Time passes, and what waits for it hears of it.
    pub fn wait(&mut self, time: Duration) {
        self.now += time;
        for shard in &mut self.shards {
            if shard.poll_timeout().is_some_and(|due| due <= self.now) {
                shard.handle_timeout(self.now);
            }
        }
        for index in 0..self.links.len() {
            if let Side::Login(login) | Side::Draining(login, _) = &mut self.links[index].side
                && let Err(error) = login.handle_timeout(self.now)
            {
                self.close(index, Closed::Login(error));
            }
        }
        self.run();
    }

    /// The network breaks; what was on its way is lost.
    pub fn cut(&mut self, link: usize) {
        self.links[link].to_target.clear();
        self.close(link, Closed::Cut);
        self.links[link].to_initiator.clear();
    }
}
