//! Every order in which messages, completions and requests may meet, in small scenarios of two cores.
//!
//! A path is a list of choices. The scenario is run anew for each path, until there is no other.

use std::collections::BTreeMap;

use super::*;

/// What an initiator (or the network) does, once, at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Host and function.
    Function(usize, TaskManagementFunction),
    /// START STOP UNIT without flush, by this host.
    Stop(usize),
    /// A young write by this host.
    Write(usize),
    /// A new session on this core writes.
    Open(usize),
    /// The connection of this host is lost.
    Lose(usize),
    /// The backend of this core is replaced.
    Attach(usize),
    /// The session of this host is to move to the next core.
    Move(usize),
}

impl Act {
    /// The host whose socket it needs.
    fn host(self) -> Option<usize> {
        match self {
            Self::Function(at, _)
            | Self::Stop(at)
            | Self::Write(at)
            | Self::Lose(at)
            | Self::Move(at) => Some(at),
            Self::Open(_) | Self::Attach(_) => None,
        }
    }
}

/// From one core to another.
#[derive(Debug)]
enum Letter {
    Shard(ShardMessage),
    /// A host's session, from this key.
    Parcel(usize, SessionKey, Box<Parcel>),
    Adopted(SessionKey),
    Refused(usize, SessionKey),
}

/// Where a host's session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    Here(usize),
    /// Still here, but to move.
    Departing(usize),
    Away,
}

/// The old writes carry this, young ones do not.
const OLD: u8 = 0xee;
/// Where the old writes go that wait for their data: a block for each host.
const WAITS: u32 = 64;

struct World {
    medium: Rc<RefCell<Medium>>,
    shards: Vec<Shard>,
    hosts: Vec<Host>,
    seats: Vec<Seat>,
    /// What hosts did while nobody listened.
    later: Vec<Act>,
    /// The tag by which data is asked for: of a write that waits for it.
    transfer_tags: Vec<u32>,
    /// How often each host heard of a reset.
    told: Vec<usize>,
    /// Moves that were made, and that were refused.
    moves: (usize, usize),
    lost: Vec<bool>,
    mail: BTreeMap<(usize, usize), VecDeque<Letter>>,
    acts: Vec<Act>,
    /// Functions (by tag) that were asked for, and were answered.
    asked: Vec<(usize, u32)>,
    answered: Vec<(usize, u32)>,
    /// Those that are resets.
    resets: Vec<(usize, u32)>,
    /// Stops that may be aborted.
    aborts: Vec<u32>,
    /// There are functions among the acts.
    functions: bool,
    stopped: bool,
    next_tag: u32,
    backends: u16,
    /// What happened, for people.
    log: Vec<String>,
}

/// The units have different owners.
fn with_two_units() -> Established {
    let mut established = established(wide());
    let target = Target {
        name: "iqn.2026-01.test:disk".into(),
        alias: None,
        portal_groups: Vec::new(),
        luns: vec![(0, UnitId(0)), (1, UnitId(1))],
    };
    established.target = Some(Arc::new(target));
    established
}

impl World {
    fn new(pools: &[Pool], acts: &[Act]) -> Self {
        let medium = medium();
        let cores = u16::try_from(pools.len()).unwrap();
        let make = |reactor: u16| {
            let mut shard = Shard::new(ShardConfig {
                reactor: ReactorId(reactor),
                reactors: cores,
                pool: pools[usize::from(reactor)].clone(),
                limits: SessionLimits {
                    window: 8,
                    receive_ring: 64 * 1024,
                    ..SessionLimits::default()
                },
            });
            for id in [0, 1] {
                let backend = Held(medium.clone(), 10 * id + reactor, 0);
                shard.attach_unit(UnitId(id.into()), unit(), Box::new(backend));
            }
            shard
        };
        let mut shards: Vec<Shard> = (0..cores).map(make).collect();
        let open = |shard| Host::open_with(shard, with_two_units());
        let mut hosts: Vec<Host> = shards.iter_mut().map(open).collect();
        medium.borrow_mut().holds = true;
        for (host, shard) in hosts.iter_mut().zip(&mut shards) {
            host.write(shard, 1, 0, 1, &[OLD; 512]);
        }
        let mut transfer_tags = Vec::new();
        for (at, (host, shard)) in hosts.iter_mut().zip(&mut shards).enumerate() {
            host.write(shard, 2, WAITS + u32::try_from(at).unwrap(), 1, &[]);
            let pdus = host.receive(shard);
            assert_eq!(pdus[0].opcode(), Opcode::R2T);
            transfer_tags.push(pdus[0].as_::<R2tBhs>().target_transfer_tag.get());
        }
        Self {
            medium,
            seats: (0..pools.len()).map(Seat::Here).collect(),
            later: Vec::new(),
            transfer_tags,
            told: vec![0; pools.len()],
            moves: (0, 0),
            shards,
            hosts,
            lost: vec![false; pools.len()],
            mail: BTreeMap::new(),
            acts: acts.to_vec(),
            asked: Vec::new(),
            answered: Vec::new(),
            resets: Vec::new(),
            aborts: Vec::new(),
            functions: acts.iter().any(|a| matches!(a, Act::Function(..))),
            stopped: false,
            next_tag: 100,
            backends: 20,
            log: Vec::new(),
        }
    }

    /// What may happen next: acts, then channels, then completions of one core.
    fn choices(&self) -> usize {
        self.acts.len() + self.mail.len() + self.busy().len()
    }

    fn busy(&self) -> Vec<usize> {
        (0..self.shards.len())
            .filter(|at| self.shards[*at].has_in_flight())
            .collect()
    }

    fn take(&mut self, choice: usize) {
        let (acts, channels) = (self.acts.len(), self.mail.len());
        if choice < acts {
            let act = self.acts.remove(choice);
            self.log.push(format!("{act:?}"));
            self.act(act);
        } else if choice < acts + channels {
            let channel = *self.mail.keys().nth(choice - acts).expect("counted");
            let queue = self.mail.get_mut(&channel).expect("there");
            let message = queue.pop_front().expect("not empty");
            if queue.is_empty() {
                self.mail.remove(&channel);
            }
            self.log.push(format!("{channel:?} {message:?}"));
            self.read(channel, message);
        } else {
            let at = self.busy()[choice - acts - channels];
            self.log.push(format!("{at} completes"));
            self.medium.borrow_mut().holds = false;
            self.shards[at].poll_backends(Instant::now());
            self.medium.borrow_mut().holds = true;
        }
        for from in 0..self.shards.len() {
            while let Some((to, message)) = self.shards[from].poll_message() {
                let channel = (from, usize::from(to.0));
                let queue = self.mail.entry(channel).or_default();
                queue.push_back(Letter::Shard(message));
            }
        }
        self.listen();
        self.depart();
    }

    fn read(&mut self, (from, to): (usize, usize), letter: Letter) {
        let shard = &mut self.shards[to];
        match letter {
            Letter::Shard(message) => shard.handle_message(Instant::now(), message),
            Letter::Parcel(host, old, parcel) => {
                let answer = match shard.adopt(*parcel) {
                    Some(key) => {
                        self.hosts[host].key = key;
                        self.moves.0 += 1;
                        self.settle(host, to);
                        Letter::Adopted(old)
                    }
                    None => {
                        self.moves.1 += 1;
                        Letter::Refused(host, old)
                    }
                };
                self.mail.entry((to, from)).or_default().push_back(answer);
            }
            Letter::Adopted(key) => shard.departed(key),
            Letter::Refused(host, key) => {
                shard.stay(key);
                self.settle(host, to);
            }
        }
    }

    /// A host's session is somewhere again: it hears what was said meanwhile.
    fn settle(&mut self, host: usize, core: usize) {
        self.seats[host] = Seat::Here(core);
        let later = std::mem::take(&mut self.later);
        for act in later {
            self.act(act);
        }
    }

    /// Whoever is to move goes as soon as it can.
    fn depart(&mut self) {
        for host in 0..self.hosts.len() {
            let Seat::Departing(core) = self.seats[host] else {
                continue;
            };
            let key = self.hosts[host].key;
            if let Some(parcel) = self.shards[core].pack(key) {
                self.seats[host] = Seat::Away;
                let channel = (core, (core + 1) % self.shards.len());
                let letter = Letter::Parcel(host, key, Box::new(parcel));
                self.mail.entry(channel).or_default().push_back(letter);
            }
        }
    }

    /// The core of a host whose session can be talked to.
    fn core_of(&self, host: usize) -> Option<usize> {
        match self.seats[host] {
            Seat::Here(core) | Seat::Departing(core) => Some(core),
            Seat::Away => None,
        }
    }

    fn act(&mut self, act: Act) {
        let mut core = 0;
        if let Some(host) = act.host() {
            if self.lost[host] {
                return;
            }
            match (self.seats[host], act) {
                (Seat::Here(at), _) | (Seat::Departing(at), Act::Lose(_)) => core = at,
                // What it says stays in its socket.
                _ => return self.later.push(act),
            }
        }
        self.next_tag += 1;
        let tag = self.next_tag;
        let shard = &mut self.shards[core];
        match act {
            Act::Function(at, function) => {
                self.asked.push((at, tag));
                if function != CLEAR {
                    self.resets.push((at, tag));
                }
                self.hosts[at].function(shard, tag, function, (NO_TAG, 0));
            }
            Act::Stop(at) => {
                self.asked.push((at, tag));
                if self.functions {
                    self.aborts.push(tag);
                }
                let mut cdb = [0; 16];
                (cdb[0], cdb[4]) = (0x1b, 4);
                self.hosts[at].command(shard, tag, FINAL, 0, cdb, &[]);
            }
            Act::Write(at) => {
                self.hosts[at].write(shard, tag, 1, 1, &[0xdd; 512]);
            }
            Act::Open(at) => {
                let key = self.shards[at].open_session(with_two_units(), Instant::now());
                let mut host = Host {
                    key: key.expect("room"),
                    params: wide(),
                    cmd_sn: 1,
                    cut: usize::MAX,
                };
                for tag in 0..2 {
                    host.write(&mut self.shards[at], tag, 2, 1, &[0xdd; 512]);
                }
                host.receive(&mut self.shards[at]);
            }
            Act::Lose(at) => {
                self.lost[at] = true;
                self.seats[at] = Seat::Here(core);
                shard.connection_lost(self.hosts[at].key);
            }
            Act::Attach(at) => {
                let backend = Held(self.medium.clone(), self.backends, 0);
                self.backends += 1;
                self.shards[at].attach_unit(UnitId(0), unit(), Box::new(backend));
            }
            Act::Move(at) => {
                assert!(shard.begin_departure(self.hosts[at].key));
                self.seats[at] = Seat::Departing(core);
            }
        }
    }

    /// Takes in answers, and checks what must be true when there are some.
    fn listen(&mut self) {
        for at in 0..self.hosts.len() {
            let Some(core) = self.core_of(at).filter(|_| !self.lost[at]) else {
                continue;
            };
            for pdu in self.hosts[at].receive(&mut self.shards[core]) {
                self.told[at] += usize::from(is_reset(&pdu));
                let tag = pdu.as_::<ScsiResponseBhs>().initiator_task_tag.get();
                if !self.asked.contains(&(at, tag)) {
                    continue;
                }
                assert!(!self.answered.contains(&(at, tag)), "answered twice");
                self.answered.push((at, tag));
                if pdu.opcode() == Opcode::TASK_MANAGEMENT_RESPONSE {
                    assert!(
                        !self.in_flight(|data| data == OLD),
                        "aborted, but in flight"
                    );
                } else if pdu.as_::<ScsiResponseBhs>().status == 0 {
                    self.stopped = true;
                }
            }
        }
        if self.stopped {
            assert!(!self.in_flight(|_| true), "stopped, but in flight");
        }
    }

    /// Data for the writes that wait comes now: none that was aborted, or is not permitted, is done. And everybody has
    /// heard of a reset, no more often than there was one.
    fn check_changes(&mut self) {
        self.medium.borrow_mut().holds = false;
        let over = self.stopped || !self.answered.is_empty();
        for at in 0..self.hosts.len() {
            if self.lost[at] {
                continue;
            }
            let core = self.core_of(at).expect("nobody is on the way any more");
            let (host, shard) = (&mut self.hosts[at], &mut self.shards[core]);
            let tag = self.transfer_tags[at];
            host.data_out(shard, 2, tag, (0, 0), true, &[OLD; 512]);
            host.command(shard, 3, FINAL, 0, [0; 16], &[]);
            let pdus = host.receive(shard);
            self.told[at] += pdus.iter().filter(|p| is_reset(p)).count();
            let block = (WAITS as usize + at) * 512;
            let written = self.medium.borrow().bytes[block] == OLD;
            assert!(!(over && written), "aborted, and done: {:?}", self.log);
            let quiet = self.asked.is_empty();
            assert!(!quiet || written, "lost: {:?}", self.log);
            let is_reset = |asked: &&(usize, u32)| self.resets.contains(asked);
            let (most, least) = (
                self.asked.iter().filter(is_reset).count(),
                self.answered.iter().filter(is_reset).count(),
            );
            let told = self.told[at];
            assert!(told <= most, "told {told} times: {:?}", self.log);
            assert!(told >= least.min(1), "never told: {:?}", self.log);
        }
        self.medium.borrow_mut().holds = true;
    }

    fn in_flight(&self, which: impl Fn(u8) -> bool) -> bool {
        let medium = self.medium.borrow();
        let mut held = medium.queue.iter();
        held.any(|(_, _, _, buffer)| buffer.as_ref().is_some_and(|b| which(b.as_slice()[0])))
    }

    /// Nothing can happen any more: everything must have been answered, and nothing be left behind.
    fn check_end(&mut self) {
        for (at, tag) in &self.asked {
            let answered = self.answered.contains(&(*at, *tag));
            // A function may have aborted the stop.
            let silent = self.lost[*at] || self.aborts.contains(tag);
            assert!(
                answered || silent,
                "{tag} of {at} was never answered: {:?}",
                self.log
            );
        }
        self.check_changes();
        for shard in &mut self.shards {
            assert!(shard.home.passing.is_empty() && shard.away.is_empty());
            assert!(!shard.has_in_flight());
        }
        for (core, shard) in self.shards.iter_mut().enumerate() {
            let closed: Vec<_> = std::iter::from_fn(|| shard.poll_closed()).collect();
            let lost = (0..self.hosts.len()).filter(|&at| self.lost[at]);
            let here = lost.filter(|&at| self.seats[at] == Seat::Here(core));
            let mut gone: Vec<_> = here.map(|at| self.hosts[at].key).collect();
            assert_eq!(closed.len(), gone.len());
            gone.retain(|key| !closed.contains(key));
            assert!(gone.is_empty());
        }
        for shard in &mut self.shards {
            let entries = shard.sessions.iter();
            let open = entries.filter_map(|e| e.session.as_ref().map(|s| s.key));
            for key in open.collect::<Vec<_>>() {
                shard.connection_lost(key);
            }
            assert_eq!(shard.session_count(), 0);
            let pool = &shard.home.pool;
            assert_eq!(
                (pool.promised(), pool.free_bytes()),
                (0, pool.total_bytes())
            );
        }
    }
}

/// Whether it tells of a reset of the unit.
fn is_reset(pdu: &Pdu) -> bool {
    pdu.opcode() == Opcode::SCSI_RESPONSE
        && pdu.as_::<ScsiResponseBhs>().status == 2
        && asc(pdu) == (0x29, 0x03)
}

/// Runs `acts` in every order, among messages and completions in every order; returns how many there are.
fn every_order(acts: &[Act]) -> usize {
    let pools = [pool(2), pool(2)];
    let mut path: Vec<(usize, usize)> = Vec::new();
    let mut paths = 0;
    loop {
        let mut world = World::new(&pools, acts);
        let mut depth = 0;
        while world.choices() > 0 {
            if depth == path.len() {
                path.push((0, world.choices()));
            }
            assert_eq!(path[depth].1, world.choices(), "the same path again");
            world.take(path[depth].0);
            depth += 1;
            assert!(depth < 100, "it ends");
        }
        world.check_end();
        paths += 1;
        while let Some((choice, count)) = path.pop() {
            if choice + 1 < count {
                path.push((choice + 1, count));
                break;
            }
        }
        if path.is_empty() {
            return paths;
        }
    }
}

const RESET: TaskManagementFunction = TaskManagementFunction::LOGICAL_UNIT_RESET;
const TARGET_RESET: TaskManagementFunction = TaskManagementFunction::TARGET_WARM_RESET;
const CLEAR: TaskManagementFunction = TaskManagementFunction::CLEAR_TASK_SET;

#[test]
fn a_reset_holds_in_every_order() {
    for other in [
        Act::Write(0),
        Act::Open(1),
        Act::Lose(0),
        Act::Lose(1),
        Act::Attach(0),
    ] {
        for asker in 0..2 {
            assert!(every_order(&[Act::Function(asker, RESET), other]) > 50);
        }
    }
}

#[test]
fn a_clear_task_set_holds_in_every_order() {
    for asker in 0..2 {
        let acts = [Act::Function(asker, CLEAR), Act::Write(1), Act::Lose(1)];
        assert!(every_order(&acts) > 200);
    }
}

#[test]
fn two_functions_at_once_are_both_answered_in_every_order() {
    for second in [RESET, CLEAR, TARGET_RESET] {
        let acts = [Act::Function(0, CLEAR), Act::Function(1, second)];
        assert!(every_order(&acts) > 200);
    }
}

/// Three cores, and more at once than can be tried in every order.
#[test]
fn requests_of_three_cores_hold_in_many_orders() {
    let pools = [pool(2), pool(2), pool(2)];
    let all = [
        Act::Function(0, CLEAR),
        Act::Function(1, TARGET_RESET),
        Act::Function(2, RESET),
        Act::Function(2, CLEAR),
        Act::Stop(1),
        Act::Write(0),
        Act::Write(2),
        Act::Open(1),
        Act::Lose(0),
        Act::Attach(2),
        Act::Stop(2),
    ];
    for seed in 1..400_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut dice = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random >> 8
        };
        let chosen: Vec<Act> = all.into_iter().filter(|_| dice() % 2 == 0).collect();
        let mut world = World::new(&pools, &chosen);
        while world.choices() > 0 {
            let count = world.choices() as u64;
            world.take(usize::try_from(dice() % count).unwrap());
        }
        world.check_end();
    }
}

#[test]
fn a_target_reset_over_two_owners_is_answered_in_every_order() {
    for other in [Act::Lose(0), Act::Open(1)] {
        assert!(every_order(&[Act::Function(1, TARGET_RESET), other]) > 200);
    }
}

#[test]
fn a_stop_holds_in_every_order() {
    for other in [
        Act::Write(0),
        Act::Open(0),
        Act::Attach(1),
        Act::Lose(1),
        Act::Function(0, RESET),
        Act::Function(1, RESET),
    ] {
        assert!(every_order(&[Act::Stop(1), other]) > 50);
    }
}

#[test]
fn a_session_that_moves_misses_no_change_in_any_order() {
    for change in [
        Act::Function(1, RESET),
        Act::Function(1, CLEAR),
        Act::Function(1, TARGET_RESET),
        Act::Function(0, RESET),
        Act::Stop(1),
        Act::Stop(0),
    ] {
        assert!(every_order(&[Act::Move(0), change]) > 20);
    }
}

#[test]
fn a_session_that_moves_and_ends_misses_no_change_in_any_order() {
    let acts = [Act::Move(0), Act::Function(1, CLEAR), Act::Lose(0)];
    assert!(every_order(&acts) > 100);
}

#[test]
fn sessions_that_change_places_miss_no_change_in_any_order() {
    let acts = [Act::Move(0), Act::Move(1), Act::Function(0, RESET)];
    assert!(every_order(&acts) > 1000);
}

/// Three cores, sessions that move again and again, and more at once than can be tried in every order.
#[test]
fn moves_among_three_cores_hold_in_many_orders() {
    let pools = [pool(4), pool(4), pool(4)];
    let all = [
        Act::Move(0),
        Act::Move(0),
        Act::Move(1),
        Act::Move(1),
        Act::Move(2),
        Act::Function(0, CLEAR),
        Act::Function(1, TARGET_RESET),
        Act::Function(2, RESET),
        Act::Stop(1),
        Act::Write(0),
        Act::Write(2),
        Act::Open(1),
        Act::Lose(1),
        Act::Attach(2),
    ];
    let mut moves = (0, 0);
    for seed in 1..600_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut dice = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random >> 8
        };
        let chosen: Vec<Act> = all.into_iter().filter(|_| dice() % 2 == 0).collect();
        let mut world = World::new(&pools, &chosen);
        while world.choices() > 0 {
            let count = world.choices() as u64;
            world.take(usize::try_from(dice() % count).unwrap());
        }
        world.check_end();
        moves = (moves.0 + world.moves.0, moves.1 + world.moves.1);
    }
    assert!(moves.0 > 500 && moves.1 > 50, "{moves:?}");
}
