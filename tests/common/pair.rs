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
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringtgt::buffer::{Pool, PoolConfig};
use ringtgt::initiator::{self, Command, CommandDone, Config, Event, Initiator, Payload, wire_lun};
use ringtgt::scsi::{Identity, LogicalUnit};
use ringtgt::session::login::{
    Login, LoginError, LoginEvent, LoginLimits, LoginStatus, PlaceRequest,
};
use ringtgt::session::shard::{Shard, ShardConfig};
use ringtgt::session::target::{PortalGroup, Target, TargetSet};
use ringtgt::session::{ConnectionError, ReactorId, SessionKey, SessionLimits, UnitId};
use ringtgt::units::BlockSize;

use super::cdb::{self, Cdb};
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
enum Side {
    Login(Box<Login>),
    /// Complete, but the session it takes the place of still drains.
    Draining(Box<Login>, Seat),
    Session(Seat),
    Closed,
}

/// A session's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seat {
    shard: usize,
    key: SessionKey,
}

/// What names a session for reinstatement (RFC 7143, section 6.3.5).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Nexus {
    initiator_name: String,
    isid: [u8; 6],
    target: Option<String>,
    portal_group_tag: u16,
}

#[derive(Debug)]
struct Session {
    nexus: Nexus,
    seat: Seat,
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
    side: Side,
    to_target: VecDeque<u8>,
    to_initiator: VecDeque<u8>,
    placed: Option<(Nexus, usize)>,
    /// The session said that it has something to send.
    ready: bool,
    /// The initiator does not read.
    pub deaf: bool,
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
    targets: Arc<TargetSet>,
    sessions: Vec<Session>,
    next_tsih: u16,
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
        }
    }
}

pub fn portal() -> SocketAddr {
    "127.0.0.1:3260".parse().unwrap()
}

fn pool(bytes: usize) -> Pool {
    let config = PoolConfig {
        bytes,
        numa_node: None,
        hugepages: false,
    };
    Pool::new(config).unwrap().0
}

/// Free bytes of a pool of the same size that was never used.
fn pool_like(used: &Pool) -> usize {
    pool(used.total_bytes()).free_bytes()
}

/// How many of `len` bytes move now.
fn cut(segments: Segments, random: &mut Random, len: usize) -> usize {
    match segments {
        Segments::Whole => len,
        Segments::Of(most) => len.min(most),
        Segments::Random if len == 0 => 0,
        Segments::Random => {
            let most = if random.chance(2) { 100 } else { 100_000 };
            len.min(1 + random.index(most))
        }
    }
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
            targets: Arc::new(TargetSet {
                targets: vec![Arc::new(target)],
            }),
            sessions: Vec::new(),
            next_tsih: 1,
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
            placed: None,
            ready: false,
            deaf: false,
            sent_bytes: 0,
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
        moved
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

    fn link_of(&self, seat: Seat) -> Option<usize> {
        let is_it = |link: &Link| matches!(link.side, Side::Session(s) if s == seat);
        self.links.iter().position(is_it)
    }

    fn segment(&mut self, len: usize) -> usize {
        cut(self.segments, &mut self.random, len)
    }

    /// Bytes to and from the initiator.
    fn initiator_turn(&mut self, index: usize) -> bool {
        let len = self.links[index].to_initiator.len();
        let len = if self.links[index].deaf {
            0
        } else {
            self.segment(len)
        };
        let link = &mut self.links[index];
        let bytes: Vec<u8> = link.to_initiator.drain(..len).collect();
        let mut moved = !bytes.is_empty();
        if link.error.is_none()
            && let Err(error) = link.initiator.handle_bytes(&bytes)
        {
            link.error = Some(error);
        }
        while let Some(event) = link.initiator.poll_event() {
            moved = true;
            match event {
                Event::Pinged { .. } => link.pings += 1,
                event => link.events.push_back(event),
            }
        }
        let unsent = link.initiator.poll_transmit();
        let len = unsent.len();
        let left = link.breaks_after.map_or(len, |most| most - link.sent_bytes);
        let arrives = len.min(left);
        link.to_target.extend(&unsent[..arrives]);
        link.sent_bytes += arrives;
        link.initiator.transmitted(len);
        moved | (len > 0)
    }

    fn target_turn(&mut self, index: usize) -> bool {
        match self.links[index].side {
            Side::Closed => {
                self.links[index].to_target.clear();
                false
            }
            Side::Login(_) => self.login_turn(index),
            Side::Draining(_, old) => {
                let gone = !self.sessions.iter().any(|s| s.seat == old);
                if gone {
                    self.open(index);
                }
                gone
            }
            Side::Session(seat) => self.session_turn(index, seat),
        }
    }

    fn login_turn(&mut self, index: usize) -> bool {
        let waiting = self.links[index].to_target.len();
        let wanted = self.segment(waiting);
        let now = self.now;
        let link = &mut self.links[index];
        let Side::Login(login) = &mut link.side else {
            return false;
        };
        let mut result = Ok(());
        let mut moved = false;
        if wanted > 0 {
            moved = true;
            let room = login.receive_into();
            let len = wanted.min(room.len());
            for (place, byte) in room.iter_mut().zip(link.to_target.drain(..len)) {
                *place = byte;
            }
            result = login.handle_received(now, len);
        }
        let mut complete = false;
        while let Some(event) = self.login_of(index).poll_event() {
            moved = true;
            match event {
                LoginEvent::Place(request) => {
                    let placement = self.place(index, &request);
                    result = result.and(self.login_of(index).placed(placement));
                }
                LoginEvent::Complete => complete = true,
            }
        }
        let login = self.login_of(index);
        let answer = login.poll_transmit().to_vec();
        login.transmitted(answer.len());
        self.links[index].to_initiator.extend(&answer);
        if let Err(error) = result {
            self.close(index, Closed::Login(error));
        } else if complete {
            self.reinstate(index);
        }
        moved | !answer.is_empty()
    }

    fn login_of(&mut self, index: usize) -> &mut Login {
        match &mut self.links[index].side {
            Side::Login(login) | Side::Draining(login, _) => login,
            _ => panic!("not logging in"),
        }
    }

    /// The directory of this process: sessions are found by their handle, new ones go round.
    fn place(&mut self, index: usize, request: &PlaceRequest) -> Result<u16, LoginStatus> {
        if request.tsih != 0 {
            return Err(LoginStatus::SESSION_DOES_NOT_EXIST);
        }
        let nexus = Nexus {
            initiator_name: request.initiator_name.clone(),
            isid: request.isid,
            target: request.target.as_ref().map(|target| target.name.clone()),
            portal_group_tag: request.portal_group_tag,
        };
        let old = self.sessions.iter().find(|s| s.nexus == nexus);
        let tsih = self.next_tsih;
        let round = usize::from(tsih) % self.shards.len();
        let shard = old.map_or(self.next_shard.unwrap_or(round), |s| s.seat.shard);
        self.next_tsih += 1;
        self.links[index].placed = Some((nexus, shard));
        Ok(tsih)
    }

    /// Before a login ends, the session it takes the place of must be gone.
    fn reinstate(&mut self, index: usize) {
        let (nexus, _) = self.links[index].placed.clone().expect("it was placed");
        let Some(old) = self
            .sessions
            .iter()
            .find(|s| s.nexus == nexus)
            .map(|s| s.seat)
        else {
            return self.open(index);
        };
        if let Some(link) = self.link_of(old) {
            self.close(link, Closed::Reinstated);
        }
        let Side::Login(login) = std::mem::replace(&mut self.links[index].side, Side::Closed)
        else {
            panic!("not logging in");
        };
        self.links[index].side = Side::Draining(login, old);
    }

    fn open(&mut self, index: usize) {
        let (nexus, shard) = self.links[index].placed.clone().expect("it was placed");
        let window = self.shards[shard].window_for_new_session();
        let side = std::mem::replace(&mut self.links[index].side, Side::Closed);
        let (Side::Login(mut login) | Side::Draining(mut login, _)) = side else {
            panic!("not logging in");
        };
        if window == 0 {
            let error = login.refuse(LoginStatus::OUT_OF_RESOURCES);
            self.links[index].to_initiator.extend(login.poll_transmit());
            self.links[index].closed = Some(Closed::Login(error));
            return;
        }
        match self.shards[shard].open_session(login.finish(window), self.now) {
            Ok(key) => {
                let seat = Seat { shard, key };
                self.sessions.push(Session { nexus, seat });
                self.links[index].side = Side::Session(seat);
                // The session starts with the last Login Response to send.
                self.links[index].ready = true;
            }
            Err(status) => self.links[index].closed = Some(Closed::NotOpened(status)),
        }
    }

    fn session_turn(&mut self, index: usize, seat: Seat) -> bool {
        let waiting = self.links[index].to_target.len();
        let mut wanted = self.segment(waiting);
        let shard = &mut self.shards[seat.shard];
        let link = &mut self.links[index];
        let mut received = 0;
        if wanted > 0 {
            for mut place in shard.receive_into(seat.key) {
                let len = place.len().min(wanted);
                for (place, byte) in place.iter_mut().zip(link.to_target.drain(..len)) {
                    *place = byte;
                }
                wanted -= len;
                received += len;
            }
            if received > 0
                && let Err(error) = shard.handle_received(self.now, seat.key, received)
            {
                self.send(index, seat);
                self.close(index, Closed::Connection(error));
                return true;
            }
        }
        (received > 0) | self.send(index, seat)
    }

    /// What a session has to say, as far as a segment goes.
    fn send(&mut self, index: usize, seat: Seat) -> bool {
        if !self.links[index].ready || self.links[index].deaf {
            return false;
        }
        let mut pieces = [IoSlice::new(&[]); 16];
        let count = self.shards[seat.shard].gather(seat.key, &mut pieces);
        let total = pieces[..count].iter().map(|piece| piece.len()).sum();
        if total == 0 {
            self.links[index].ready = false;
            return false;
        }
        let len = cut(self.segments, &mut self.random, total);
        let mut rest = len;
        for piece in &pieces[..count] {
            let part = piece.len().min(rest);
            self.links[index].to_initiator.extend(&piece[..part]);
            rest -= part;
        }
        self.shards[seat.shard].transmitted(seat.key, len);
        true
    }

    fn close(&mut self, index: usize, why: Closed) {
        let side = std::mem::replace(&mut self.links[index].side, Side::Closed);
        match side {
            Side::Session(seat) => self.shards[seat.shard].connection_lost(seat.key),
            Side::Login(login) | Side::Draining(login, _) => {
                self.links[index].to_initiator.extend(login.poll_transmit());
            }
            Side::Closed => return,
        }
        self.links[index].closed.get_or_insert(why);
    }

    // What a test says.

    /// Sessions of which something is left.
    pub fn open_sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Every connection breaks: then no session, no operation and no memory in use is left.
    #[track_caller]
    pub fn assert_all_comes_back(&mut self) {
        for link in 0..self.links.len() {
            self.cut(link);
        }
        self.run();
        assert_eq!(self.sessions.len(), 0, "sessions");
        for disk in &self.disks {
            assert_eq!(disk.in_flight(), 0, "operations");
        }
        for pool in &self.pools {
            let fresh = pool_like(pool);
            assert_eq!(pool.promised(), 0, "promises");
            assert_eq!(pool.free_bytes(), fresh, "memory");
        }
    }

    /// The next event of a link.
    pub fn event(&mut self, link: usize) -> Option<Event> {
        self.links[link].events.pop_front()
    }

    /// The initiator finds nothing wrong with the target, and the connection is open.
    #[track_caller]
    pub fn assert_well(&self, link: usize) {
        assert_eq!(self.links[link].error, None);
        assert_eq!(self.links[link].closed, None);
    }

    /// The target closed the connection for this reason.
    #[track_caller]
    pub fn assert_closed(&self, link: usize, why: Closed) {
        assert_eq!(self.links[link].closed.as_ref(), Some(&why));
    }

    /// Issues a command on LUN 0; its tag.
    pub fn submit(&mut self, link: usize, cdb: Cdb, payload: Payload) -> u32 {
        self.submit_on(link, 0, cdb, payload)
    }

    pub fn submit_on(&mut self, link: usize, lun: u16, cdb: Cdb, payload: Payload) -> u32 {
        let command = Command::new(0, wire_lun(lun), cdb, payload);
        self.links[link]
            .initiator
            .submit(command)
            .expect("there is room")
    }

    /// Issues a command on LUN 0 and waits for its end.
    pub fn command(&mut self, link: usize, cdb: Cdb, payload: Payload) -> CommandDone {
        self.command_on(link, 0, cdb, payload)
    }

    #[track_caller]
    pub fn command_on(&mut self, link: usize, lun: u16, cdb: Cdb, payload: Payload) -> CommandDone {
        let tag = self.submit_on(link, lun, cdb, payload);
        self.run();
        self.done(link, tag)
    }

    /// The end of the command with this tag, which has come.
    #[track_caller]
    pub fn done(&mut self, link: usize, tag: u32) -> CommandDone {
        let Link {
            events,
            error,
            closed,
            ..
        } = &mut self.links[link];
        let place = events.iter().position(
            |event| matches!(event, Event::Command(done) if done.initiator_task_tag == tag),
        );
        let Some(place) = place else {
            panic!("no end of {tag:#x}: {error:?} {closed:?} {events:?}");
        };
        match events.remove(place) {
            Some(Event::Command(done)) => done,
            _ => unreachable!(),
        }
    }

    /// Reads blocks of LUN 0 with READ(10); they must come.
    #[track_caller]
    pub fn read(&mut self, link: usize, lba: u32, blocks: u16) -> Vec<u8> {
        let buffer = vec![0; usize::from(blocks) * BLOCK];
        let done = self.command(link, cdb::read_10(lba, blocks), Payload::Read(buffer));
        assert!(done.is_good(), "{done:?}");
        match done.payload {
            Payload::Read(data) => data,
            _ => unreachable!(),
        }
    }

    /// Writes blocks of LUN 0 with WRITE(10); it must succeed.
    #[track_caller]
    pub fn write(&mut self, link: usize, lba: u32, data: &[u8]) {
        let blocks = u16::try_from(data.len() / BLOCK).unwrap();
        let done = self.command(
            link,
            cdb::write_10(lba, blocks),
            Payload::Write(data.to_vec()),
        );
        assert!(done.is_good(), "{done:?}");
    }

    /// Both sides are well, and reads and writes work.
    #[track_caller]
    pub fn assert_works(&mut self, link: usize) {
        self.assert_well(link);
        let data = self.random.bytes(4 * BLOCK);
        let lba = u32::try_from(self.random.below(BLOCKS - 4)).unwrap();
        self.write(link, lba, &data);
        assert_eq!(self.read(link, lba, 4), data);
        self.assert_well(link);
    }
}
