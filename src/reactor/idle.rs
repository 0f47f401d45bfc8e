//! What a reactor does when it has nothing to do.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How a reactor waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PollPolicy {
    /// Spins: the lowest latency, a whole core.
    Busy,
    /// Spins for a budget after the last work, then sleeps in the kernel.
    #[default]
    Adaptive,
    /// Sleeps as soon as there is nothing to do.
    Event,
}

impl FromStr for PollPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "busy" => Ok(Self::Busy),
            "adaptive" => Ok(Self::Adaptive),
            "event" => Ok(Self::Event),
            _ => Err(format!(
                "\"{text}\" is no poll policy; there are busy, adaptive and event"
            )),
        }
    }
}

impl fmt::Display for PollPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "busy",
            Self::Adaptive => "adaptive",
            Self::Event => "event",
        })
    }
}

/// How long `adaptive` spins when nobody says: longer than a round trip on a fast network, shorter than
/// anybody notices on an electricity bill.
pub const SPIN: Duration = Duration::from_micros(50);

/// Idle turns between two readings of the clock, and between two looks at cold sockets: an idle turn costs
/// a fraction of a microsecond, a reading 24 ns, a look 160 ns.
const TURNS_PER_LOOK: u32 = 8;

/// Giving way takes this long when nobody else wanted the core.
const UNWANTED: Duration = Duration::from_micros(3);
/// While others want the core, giving way is better than sleeping: sleeping, each completion of a worker's would
/// take the core from it again, for one answer (measured, 4 KiB buffered writes at depth 32: 72 k/s by `event`, which
/// sleeps, against 161 k/s by `busy`, which gives way). But not for ever: they need not be our workers.
const TIMES_TO_GIVE_WAY: u32 = 64;

/// What to do after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Take another turn at once.
    Spin,
    /// Let the threads that share the core run, the operations in flight may need them; then take another turn.
    GiveWay,
    /// Ask the kernel which sockets are ready, without waiting; then take another turn.
    Look,
    /// Sleep until something happens.
    Sleep,
}

/// Remembers how long there has been nothing to do.
#[derive(Debug)]
pub(super) struct Idle {
    policy: PollPolicy,
    budget: Duration,
    since: Option<Instant>,
    turns: u32,
    /// Whether the threads that do what blocks share this core.
    shares_core: bool,
    /// How often they took it since the last work.
    given_way: u32,
}

impl Idle {
    pub(super) fn new(policy: PollPolicy, budget: Duration, shares_core: bool) -> Self {
        Self {
            policy,
            budget,
            since: None,
            turns: 0,
            shares_core,
            given_way: 0,
        }
    }

    /// Waits like this from now on.
    pub(super) fn set_policy(&mut self, policy: PollPolicy) {
        self.policy = policy;
        self.since = None;
    }

    /// After a turn that did something. Cold sockets are looked at now and then, so that busy ones cannot
    /// starve them.
    pub(super) fn worked(&mut self) -> Next {
        self.since = None;
        self.given_way = 0;
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(2 * TURNS_PER_LOOK) {
            Next::Look
        } else {
            Next::Spin
        }
    }

    /// After a turn that found nothing, with storage operations in flight or not; `clock` is read only when it
    /// matters.
    pub(super) fn idled(&mut self, in_flight: bool, clock: impl FnOnce() -> Instant) -> Next {
        let in_the_way = self.shares_core && in_flight;
        if self.policy == PollPolicy::Event
            || (self.policy == PollPolicy::Adaptive && self.budget.is_zero())
        {
            return Next::Sleep;
        }
        self.turns = self.turns.wrapping_add(1);
        if !self.turns.is_multiple_of(TURNS_PER_LOOK) {
            return if in_the_way {
                Next::GiveWay
            } else {
                Next::Spin
            };
        }
        if self.policy == PollPolicy::Busy {
            return Next::Look;
        }
        let now = clock();
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) < self.budget {
            Next::Look
        } else {
            Next::Sleep
        }
    }

    /// Gave way, and got the core back after so long.
    pub(super) fn gave_way(&mut self, took: Duration) {
        if took > UNWANTED && self.given_way < TIMES_TO_GIVE_WAY {
            self.given_way += 1;
            // That was no time spent idle.
            self.since = None;
        }
    }

    /// Whether a socket that was busy just now should be tried without asking the kernel first.
    pub(super) fn speculates(&self) -> bool {
        self.policy != PollPolicy::Event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns_until_sleep(idle: &mut Idle, start: Instant, step: Duration) -> Option<u32> {
        (0..10_000).find(|&n| idle.idled(false, || start + step * n) == Next::Sleep)
    }

    #[test]
    fn busy_never_sleeps_and_event_always_does() {
        let start = Instant::now();
        let step = Duration::from_micros(1);
        assert_eq!(
            turns_until_sleep(&mut Idle::new(PollPolicy::Busy, SPIN, false), start, step),
            None
        );
        assert_eq!(
            turns_until_sleep(&mut Idle::new(PollPolicy::Event, SPIN, false), start, step),
            Some(0)
        );
        assert_eq!(
            turns_until_sleep(
                &mut Idle::new(PollPolicy::Adaptive, Duration::ZERO, false),
                start,
                step
            ),
            Some(0)
        );
    }

    #[test]
    fn adaptive_sleeps_after_its_budget_and_work_renews_it() {
        let start = Instant::now();
        let step = Duration::from_micros(1);
        let mut idle = Idle::new(PollPolicy::Adaptive, SPIN, false);
        let first = turns_until_sleep(&mut idle, start, step).expect("sleeps");
        assert!((50..=70).contains(&first), "{first}");
        idle.worked();
        let again =
            turns_until_sleep(&mut idle, start + Duration::from_secs(1), step).expect("sleeps");
        assert!((50..=70).contains(&again), "{again}");
    }

    #[test]
    fn an_idle_turn_seldom_reads_the_clock() {
        let start = Instant::now();
        let mut idle = Idle::new(PollPolicy::Adaptive, SPIN, false);
        let mut readings = 0;
        for _ in 0..800 {
            idle.idled(false, || {
                readings += 1;
                start
            });
        }
        assert!(readings <= 100);
    }

    #[test]
    fn a_shared_core_is_given_away_while_operations_need_its_threads() {
        let start = Instant::now();
        let mut idle = Idle::new(PollPolicy::Adaptive, SPIN, true);
        assert_eq!(idle.idled(false, || start), Next::Spin);
        assert_eq!(idle.idled(true, || start), Next::GiveWay);
        let turns_until_sleep = |idle: &mut Idle, took: Duration| {
            let mut now = start;
            (0..10_000).find(|_| {
                now += took;
                let next = idle.idled(true, || now);
                if next == Next::GiveWay {
                    idle.gave_way(took);
                }
                next == Next::Sleep
            })
        };
        // Nobody wants it: the budget, as without them.
        let alone = turns_until_sleep(&mut idle, Duration::from_micros(1));
        assert!(alone.is_some_and(|n| n < 80), "{alone:?}");
        // Somebody does: longer, but not for ever.
        idle.worked();
        let wanted = turns_until_sleep(&mut idle, Duration::from_micros(20));
        assert!(wanted.is_some_and(|n| (64..120).contains(&n)), "{wanted:?}");
    }

    #[test]
    fn busy_gives_way_and_does_not_sleep() {
        let start = Instant::now();
        let mut idle = Idle::new(PollPolicy::Busy, SPIN, true);
        let mut gave_way = 0;
        for n in 0..80 {
            match idle.idled(true, || start + SPIN * n) {
                Next::GiveWay => {
                    gave_way += 1;
                    idle.gave_way(Duration::from_micros(5));
                }
                next => assert_eq!(next, Next::Look),
            }
        }
        assert_eq!(gave_way, 70);
    }

    #[test]
    fn policies_have_names() {
        for policy in [PollPolicy::Busy, PollPolicy::Adaptive, PollPolicy::Event] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("often".parse::<PollPolicy>().is_err());
    }
}
