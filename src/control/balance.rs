//! When a session should move to another reactor, and which.
//!
//! Pure: busy time and what sessions have done go in, advice comes out. It moves seldom and never back and forth: a core
//! must have been much busier than another for some seconds, and moving one session must make the busiest core of the two
//! clearly less busy, whichever that is then. So a single busy session stays, as moving it would only move the load.

use std::collections::HashMap;
use std::time::Duration;

use crate::reactor::Load;
use crate::session::{ReactorId, Weight};

/// Time between two looks, and so between two moves.
pub(super) const PERIOD: Duration = Duration::from_secs(1);
/// A reactor that works less of its time than this has no need of help.
const BUSY: f64 = 0.6;
/// Nor does one that is no busier than the least busy one and this.
const GAP: f64 = 0.3;
/// What a move must save the busier of the two, at least.
const GAIN: f64 = 0.1;
/// Looks that must show the same reactor too busy. (At least 2: what sessions do is told by the difference of two.)
const LOOKS: u32 = 3;
/// Looks for which a session that moved stays where it is.
const REST: u64 = 30;
/// What a command costs beside its bytes, in bytes: about a microsecond, at some gigabytes in a second.
const COMMAND: f64 = 4096.0;

/// Watches the reactors.
#[derive(Debug, Default)]
pub(super) struct Balancer {
    look: u64,
    /// The busiest reactor, if it is too busy, and how many looks in a row.
    hot: Option<(usize, u32)>,
    busy: Vec<Option<f64>>,
    /// What the sessions of that reactor had done at the last look.
    before: HashMap<u16, Weight>,
    /// Sessions that moved, and the look after which they may again.
    resting: HashMap<u16, u64>,
}

impl Balancer {
    /// A period has passed, in which the reactors were busy for these parts of it (`None`: gone). The reactor whose
    /// sessions are to be weighed, for [`Self::advise`].
    pub(super) fn look(&mut self, busy: Vec<Option<f64>>) -> Option<ReactorId> {
        self.look += 1;
        let now = self.look;
        self.resting.retain(|_, until| *until > now);
        let hot = lopsided(&busy);
        self.busy = busy;
        self.hot = hot.map(|hot| match self.hot {
            Some((same, looks)) if same == hot => (hot, looks + 1),
            _ => (hot, 1),
        });
        match self.hot {
            None => {
                self.before.clear();
                None
            }
            Some((hot, looks)) => {
                if looks == 1 {
                    self.before.clear();
                }
                u16::try_from(hot).ok().map(ReactorId)
            }
        }
    }

    /// What the sessions of the reactor that was asked have done. The session to move, and where to.
    pub(super) fn advise(
        &mut self,
        reactor: ReactorId,
        loads: &[Load],
    ) -> Option<(u16, ReactorId)> {
        let (hot, looks) = self.hot?;
        if hot != usize::from(reactor.0) {
            return None;
        }
        let costs: Vec<(u16, f64)> = loads
            .iter()
            .map(|load| {
                let before = self.before.insert(load.tsih, load.weight);
                (load.tsih, before.map_or(0.0, |b| cost(b, load.weight)))
            })
            .collect();
        if looks < LOOKS {
            return None;
        }
        let all: f64 = costs.iter().map(|(_, cost)| cost).sum();
        if all <= 0.0 {
            return None;
        }
        let free = costs
            .iter()
            .filter(|(tsih, _)| !self.resting.contains_key(tsih));
        let shares: Vec<(u16, f64)> = free.map(|&(tsih, cost)| (tsih, cost / all)).collect();
        let (tsih, to) = choose(&self.busy, hot, &shares)?;
        // The next look begins anew, with what came of this.
        self.hot = None;
        self.before.clear();
        self.resting.insert(tsih, self.look + REST);
        u16::try_from(to).ok().map(|to| (tsih, ReactorId(to)))
    }
}

fn cost(before: Weight, now: Weight) -> f64 {
    let commands = f64::from(now.commands.wrapping_sub(before.commands));
    let bytes = now.bytes.wrapping_sub(before.bytes);
    // More than 4 GiB in a period is enough, however much it is.
    commands * COMMAND + f64::from(u32::try_from(bytes).unwrap_or(u32::MAX))
}

/// The busiest reactor, if it is much busier than another.
fn lopsided(busy: &[Option<f64>]) -> Option<usize> {
    let (hot, most) = extreme(busy, |a, b| a > b)?;
    let (_, least) = extreme(busy, |a, b| a < b)?;
    (most >= BUSY && most - least >= GAP).then_some(hot)
}

fn extreme(busy: &[Option<f64>], better: impl Fn(f64, f64) -> bool) -> Option<(usize, f64)> {
    let mut found: Option<(usize, f64)> = None;
    for (at, busy) in busy.iter().enumerate() {
        if let Some(busy) = *busy
            && found.is_none_or(|(_, best)| better(busy, best))
        {
            found = Some((at, busy));
        }
    }
    found
}

/// The session (of those on `hot`, each with its share of what is done there) whose move to the least busy reactor
/// helps most; and that reactor.
fn choose(busy: &[Option<f64>], hot: usize, shares: &[(u16, f64)]) -> Option<(u16, usize)> {
    let here = busy.get(hot).copied().flatten()?;
    let (to, there) = extreme(busy, |a, b| a < b)?;
    if to == hot {
        return None;
    }
    let after = |share: f64| (here - here * share).max(there + here * share);
    let (tsih, best) = shares
        .iter()
        .map(|&(tsih, share)| (tsih, after(share)))
        .min_by(|a, b| a.1.total_cmp(&b.1))?;
    (here - best >= GAIN).then_some((tsih, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some(busy: &[f64]) -> Vec<Option<f64>> {
        busy.iter().copied().map(Some).collect()
    }

    #[test]
    fn a_session_moves_from_a_busy_reactor_to_an_idle_one() {
        let shares = [(1, 0.5), (2, 0.3), (3, 0.2)];
        assert_eq!(choose(&some(&[1.0, 0.0]), 0, &shares), Some((1, 1)));
        assert_eq!(choose(&some(&[0.9, 0.3, 0.1]), 0, &shares), Some((1, 2)));
        // What evens out most, not the largest.
        assert_eq!(choose(&some(&[1.0, 0.5]), 0, &shares), Some((2, 1)));
    }

    #[test]
    fn a_single_session_stays_however_busy_it_is() {
        assert_eq!(choose(&some(&[1.0, 0.0]), 0, &[(1, 1.0)]), None);
        assert_eq!(choose(&some(&[1.0, 0.0]), 0, &[(1, 0.96), (2, 0.04)]), None);
    }

    #[test]
    fn nobody_moves_where_nobody_is_overworked_or_all_are() {
        assert_eq!(lopsided(&some(&[0.5, 0.0])), None);
        assert_eq!(lopsided(&some(&[1.0, 0.8])), None);
        assert_eq!(lopsided(&some(&[1.0])), None);
        assert_eq!(lopsided(&[Some(1.0), None]), None, "it is alone");
        assert_eq!(lopsided(&some(&[0.2, 0.9])), Some(1));
    }

    /// Reactors and sessions as they would be: what a session costs moves with it.
    struct Machine {
        sessions: Vec<(u16, usize, f64)>,
        done: HashMap<u16, f64>,
        balancer: Balancer,
        reactors: usize,
    }

    impl Machine {
        fn new(reactors: usize, costs: &[(usize, f64)]) -> Self {
            let numbered = (1..).zip(costs).map(|(tsih, &(at, cost))| (tsih, at, cost));
            Self {
                sessions: numbered.collect(),
                done: HashMap::new(),
                balancer: Balancer::default(),
                reactors,
            }
        }

        fn busy(&self) -> Vec<f64> {
            let mut busy = vec![0.0_f64; self.reactors];
            for &(_, at, cost) in &self.sessions {
                busy[at] += cost;
            }
            busy.iter().map(|b| b.min(1.0)).collect()
        }

        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a test"
        )]
        fn second(&mut self) -> Option<u16> {
            for &(tsih, _, cost) in &self.sessions {
                *self.done.entry(tsih).or_default() += cost * 100_000.0;
            }
            let asked = self.balancer.look(some(&self.busy()))?;
            let here = |s: &&(u16, usize, f64)| s.1 == usize::from(asked.0);
            let load = |s: &(u16, usize, f64)| Load {
                tsih: s.0,
                weight: Weight {
                    commands: self.done[&s.0] as u32,
                    bytes: 0,
                },
            };
            let loads: Vec<Load> = self.sessions.iter().filter(here).map(load).collect();
            let (tsih, to) = self.balancer.advise(asked, &loads)?;
            let moved = self.sessions.iter_mut().find(|s| s.0 == tsih)?;
            assert_ne!(moved.1, usize::from(to.0));
            moved.1 = usize::from(to.0);
            Some(tsih)
        }
    }

    #[test]
    fn it_takes_some_seconds_and_then_is_quiet() {
        let mut machine = Machine::new(2, &[(0, 0.3), (0, 0.3), (0, 0.3), (0, 0.1)]);
        let moves: Vec<_> = (1..=60).filter(|_| machine.second().is_some()).collect();
        assert_eq!(moves, [3], "one move is enough, and not at the first sight");
        let mut moved_to = machine.busy();
        moved_to.sort_by(f64::total_cmp);
        assert!((moved_to[1] - 0.7).abs() < 0.01, "{moved_to:?}");
    }

    proptest! {
        /// Whatever the load, as long as it stays the same: few moves, and none of them back and forth.
        #[test]
        fn it_comes_to_rest(
            costs in proptest::collection::vec((0_usize..4, 0.0_f64..0.5), 1..20),
            reactors in 1_usize..5,
        ) {
            let costs: Vec<_> = costs.into_iter().map(|(at, cost)| (at % reactors, cost)).collect();
            let mut machine = Machine::new(reactors, &costs);
            let most = costs.len() * 4;
            let moves = (0..2000).filter(|_| machine.second().is_some()).count();
            prop_assert!(moves <= most, "{moves} moves of {} sessions", costs.len());
            let late = (0..200).filter(|_| machine.second().is_some()).count();
            prop_assert_eq!(late, 0);
        }
    }
}
