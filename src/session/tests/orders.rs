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
}

/// The old writes carry this, young ones do not.
const OLD: u8 = 0xee;

struct World {
    medium: Rc<RefCell<Medium>>,
    shards: Vec<Shard>,
    hosts: Vec<Host>,
    lost: Vec<bool>,
    mail: BTreeMap<(usize, usize), VecDeque<ShardMessage>>,
    acts: Vec<Act>,
    /// Functions (by tag) that were asked for, and were answered.
    asked: Vec<(usize, u32)>,
    answered: Vec<(usize, u32)>,
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
        Self {
            medium,
            shards,
            hosts,
            lost: vec![false; pools.len()],
            mail: BTreeMap::new(),
            acts: acts.to_vec(),
            asked: Vec::new(),
            answered: Vec::new(),
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
            self.log.push(format!("{channel:?} {message:?}"));
            if queue.is_empty() {
                self.mail.remove(&channel);
            }
            self.shards[channel.1].handle_message(Instant::now(), message);
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
                self.mail.entry(channel).or_default().push_back(message);
            }
        }
        self.listen();
    }

    fn act(&mut self, act: Act) {
        self.next_tag += 1;
        let tag = self.next_tag;
        match act {
            Act::Function(at, function) if !self.lost[at] => {
                self.asked.push((at, tag));
                self.hosts[at].function(&mut self.shards[at], tag, function, (NO_TAG, 0));
            }
            Act::Stop(at) if !self.lost[at] => {
                self.asked.push((at, tag));
                if self.functions {
                    self.aborts.push(tag);
                }
                let mut cdb = [0; 16];
                (cdb[0], cdb[4]) = (0x1b, 4);
                self.hosts[at].command(&mut self.shards[at], tag, FINAL, 0, cdb, &[]);
            }
            Act::Write(at) if !self.lost[at] => {
                self.hosts[at].write(&mut self.shards[at], tag, 1, 1, &[0xdd; 512]);
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
                self.shards[at].connection_lost(self.hosts[at].key);
            }
            Act::Attach(at) => {
                let backend = Held(self.medium.clone(), self.backends, 0);
                self.backends += 1;
                self.shards[at].attach_unit(UnitId(0), unit(), Box::new(backend));
            }
            _ => {}
        }
    }

    /// Takes in answers, and checks what must be true when there are some.
    fn listen(&mut self) {
        for at in 0..self.shards.len() {
            if self.lost[at] {
                continue;
            }
            for pdu in self.hosts[at].receive(&mut self.shards[at]) {
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
        for shard in &mut self.shards {
            assert!(shard.home.passing.is_empty());
            assert!(!shard.has_in_flight());
        }
        for at in 0..self.shards.len() {
            if self.lost[at] {
                assert_eq!(self.shards[at].poll_closed(), Some(self.hosts[at].key));
            }
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
