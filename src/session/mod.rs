//! iSCSI without sockets: bytes and completions in, bytes and block operations out.
//!
//! A [`Shard`] is what one core serves: its sessions, and the logical units attached to it. Bytes come in,
//! every whole PDU is run to completion, and what is to be sent is gathered; nothing here knows a socket,
//! a clock or a thread.

mod bursts;
mod command;
mod command_window;
mod data_in;
mod data_out;
mod departure;
mod direct;
pub mod discovery;
mod encode;
mod error;
mod full_feature;
mod home;
mod in_place;
mod leftover;
pub mod login;
mod lun_table;
mod mail;
mod memory;
mod owner;
pub mod params;
mod parked;
mod part;
mod ping;
mod queue_line;
mod receive;
pub mod shard;
mod steps;
pub mod target;
mod task;
mod task_management;
mod text;
mod transmit;
mod travel;
pub mod turn;
mod unit;

#[cfg(test)]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small numbers made by the tests"
)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::pdu::frame::Framing;
pub use crate::scsi::LogicalUnit;
use command_window::CommandWindow;
pub use departure::Weight;
pub use error::{ConnectionError, Counters, Event};
use home::Home;
use login::Established;
use lun_table::{LunTable, VisibleLuns};
pub use owner::ShardMessage;
use params::OperationalParams;
use parked::{Forsaken, Parked};
use receive::Receiver;
pub use shard::{Shard, ShardConfig};
use target::{Target, TargetSet};
use task::{State, TaskTable};
use task_management::{FUNCTIONS, InProgress};
use text::Exchange;
use transmit::{Out, Transmitter, WIRE};
pub use travel::Parcel;
use turn::Turn;

/// A logical unit of this process: an index that control gives out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitId(pub u32);

/// A reactor of this process, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReactorId(pub u16);

/// An open session of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    pub(self) index: u32,
    pub(self) generation: u32,
}

/// Bounds of every session.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Commands a session may have in progress (at least 1, at most 4096).
    pub window: u32,
    /// Bytes of the receive ring: a power of two from 64 KiB to 1 MiB.
    pub receive_ring: usize,
    /// PDUs run per session and turn.
    pub pdus_per_turn: usize,
    /// Bytes of data memory one session may hold, beyond what it needs for one command. 0: a quarter of
    /// the pool.
    pub session_memory: usize,
    /// Sessions of one shard, at most 65 535.
    pub sessions: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            window: 128,
            receive_ring: 128 * 1024,
            pdus_per_turn: 128,
            session_memory: 0,
            sessions: 4096,
        }
    }
}

/// What does not change while the session lives.
#[derive(Clone, Debug)]
struct Facts {
    target: Option<Arc<Target>>,
    targets: Arc<TargetSet>,
    portal: SocketAddr,
    portal_group_tag: u16,
    cid: u16,
    visible: VisibleLuns,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Full feature.
    Open,
    /// A logout is to be answered when nothing is in flight any more.
    LoggingOut { initiator_task_tag: u32 },
    /// Everything is said; the socket is to be closed.
    Ending,
    /// The connection is gone; operations in flight drain.
    Draining,
}

/// One I_T nexus: a command window, a task table, and (for now) one connection.
#[derive(Debug)]
struct Session {
    key: SessionKey,
    phase: Phase,
    facts: Facts,
    params: OperationalParams,
    window: CommandWindow,
    tasks: TaskTable,
    luns: LunTable,
    rx: Receiver,
    tx: Transmitter,
    /// Tasks that wait for older ones, oldest first.
    dormant: VecDeque<u16>,
    /// Commands that came before their turn.
    parked: Vec<Parked>,
    /// Commands still to come that functions have aborted.
    forsaken: Vec<Forsaken>,
    functions: [InProgress; FUNCTIONS],
    text: Option<Exchange>,
    next_text_tag: u32,
    /// Bytes of data memory held.
    memory: usize,
    /// Tasks whose data-in is sent from the medium's own memory.
    lent: u32,
    turn: Turn,
    /// Bytes received and sent, so that what it costs can be told from others.
    traffic: u64,
    /// Chunks promised to commands that may still come.
    promises: u32,
    /// A chunk is promised for one ping.
    reserved: bool,
    /// Unsolicited data is possible: every command that is let in needs a promise.
    promise_each: bool,
    immediate_tasks: u32,
    in_ready: bool,
    in_backlog: bool,
    in_starved: bool,
    /// PDUs were left in the ring because too much was unanswered, or a ping that has the memory kept for them.
    paused: bool,
    close_requested: bool,
    /// Its stream cannot be followed: why its socket is to be closed.
    fault: Option<ConnectionError>,
    /// Sessions that it took the place of while something of them was left.
    predecessors: Vec<SessionKey>,
}

/// Tasks beyond the window: answered ones that are still on the wire, and immediate ones.
const SPARE_TASKS: usize = WIRE + 32;

impl Session {
    /// A session that has its receive ring, and the promise of a chunk for its pings.
    fn new(key: SessionKey, home: &mut Home, established: Established, ring: Buffer) -> Self {
        let params = established.params;
        let limit = home.limits.window;
        let tasks = limit as usize + SPARE_TASKS;
        let luns = established.target.as_ref();
        let visible = luns.map_or_else(Vec::new, |t| t.luns.iter().map(|l| l.0).collect());
        let framing = Framing {
            header_digest: params.header_digest,
            data_digest: params.data_digest,
            max_data_segment_length: params.max_recv_data_segment_length,
            max_ahs_length: 1020,
        };
        let digests = (params.header_digest, params.data_digest);
        let mut session = Self {
            key,
            phase: Phase::Open,
            params,
            window: CommandWindow::new(established.cmd_sn, limit),
            tasks: TaskTable::new(tasks),
            luns: LunTable::new(established.target.as_deref()),
            rx: Receiver::new(framing, ring),
            tx: Transmitter::new(established.stat_sn, digests, established.response, tasks),
            dormant: VecDeque::with_capacity(tasks),
            parked: Vec::with_capacity(limit as usize),
            forsaken: Vec::with_capacity(FUNCTIONS),
            functions: [InProgress::default(); FUNCTIONS],
            text: None,
            next_text_tag: 0,
            memory: 0,
            lent: 0,
            turn: Turn::default(),
            traffic: 0,
            promises: 0,
            reserved: true,
            promise_each: params.immediate_data || !params.initial_r2t,
            immediate_tasks: 0,
            in_ready: false,
            in_backlog: false,
            in_starved: false,
            paused: false,
            close_requested: false,
            fault: None,
            predecessors: Vec::new(),
            facts: Facts {
                target: established.target,
                targets: established.targets,
                portal: established.portal,
                portal_group_tag: established.portal_group_tag,
                cid: established.cid,
                visible: VisibleLuns(visible),
            },
        };
        // The last Login Response told of a window: nothing is to be said about it now.
        session.tx.told_max_cmd_sn = session.window.exp_cmd_sn();
        session.open_window(home);
        session.tx.told_max_cmd_sn = session.window.max_cmd_sn();
        session
    }

    /// A command that was taken in will not be answered by a response of its own.
    fn disown(&mut self, home: &mut Home, immediate: bool) {
        if !immediate {
            self.spend_and_unpromise(home);
            self.window.retire();
            self.open_window(home);
        }
    }

    /// The task is answered, or never will be: the window may let another one in.
    fn retire(&mut self, home: &mut Home, slot: u16) {
        let task = self.tasks.get_mut(slot);
        if std::mem::replace(&mut task.retired, true) {
            return;
        }
        let immediate = task.immediate;
        if task.lent.is_none() || task.data.is_some() {
            self.release_promise(home, slot);
        }
        if immediate {
            self.immediate_tasks -= 1;
        } else {
            self.window.retire();
            self.open_window(home);
        }
    }

    /// Tells the shard that there is something to send.
    fn make_ready(&mut self, home: &mut Home) {
        if !std::mem::replace(&mut self.in_ready, true) {
            home.ready.push_back(self.key);
        }
    }

    /// Asks the shard to come back to this session in the next turn.
    fn add_backlog(&mut self, home: &mut Home) {
        if !std::mem::replace(&mut self.in_backlog, true) {
            home.backlog.push_back(self.key);
        }
    }

    /// Asks for the socket to be closed.
    fn request_close(&mut self, home: &mut Home) {
        if !std::mem::replace(&mut self.close_requested, true) {
            home.close_requests.push_back(self.key);
        }
    }

    /// Aborts every task.
    fn abort_all(&mut self, home: &mut Home) {
        for slot in self.tasks.slots() {
            if self.tasks.get(slot).state != State::Free {
                self.abort(home, slot);
            }
        }
        while let Some(parked) = self.parked.pop() {
            self.forget_parked(home, parked);
        }
    }

    /// Whether something of any task may still take effect.
    fn is_held(&self) -> bool {
        self.tasks.used() > 0 && self.tasks.slots().any(|s| self.tasks.get(s).is_held())
    }

    /// Takes the step that waited for the last operation in flight.
    fn settle(&mut self, home: &mut Home) {
        if let Phase::LoggingOut { initiator_task_tag } = self.phase
            && !self.is_held()
        {
            self.phase = Phase::Ending;
            self.tx.say(Out::Logout {
                initiator_task_tag,
                response: crate::pdu::code::LogoutResponse::CLOSED,
                last: true,
                numbered: false,
            });
            self.make_ready(home);
        }
    }

    /// The connection is gone: what has not started is dropped.
    fn drop_connection(&mut self, home: &mut Home) {
        if self.phase == Phase::Draining {
            return;
        }
        self.phase = Phase::Draining;
        self.tx.clear();
        self.rx.direct = None;
        self.rx.ring = None;
        self.rx.aside = None;
        self.text = None;
        for slot in self.tasks.slots() {
            let task = self.tasks.get_mut(slot);
            if task.state == State::Free {
                continue;
            }
            task.queued = false;
            task.wire = 0;
            if matches!(task.state, State::Answering(_)) {
                task.state = State::Answered;
            } else if task.state == State::AbortedAtOwner {
                // The owner's answer has nobody to go to.
                task.state = State::Aborted { in_flight: false };
            }
            self.abort(home, slot);
            self.release_if_over(home, slot);
        }
        while let Some(parked) = self.parked.pop() {
            self.forget_parked(home, parked);
        }
        let reserved = u32::from(std::mem::take(&mut self.reserved));
        for _ in 0..std::mem::take(&mut self.promises) + reserved {
            home.pool.unpromise();
        }
    }

    /// Whether nothing is to be done or sent before the initiator speaks again.
    fn is_quiet(&self) -> bool {
        let waits = |slot| {
            let state = self.tasks.get(slot).state;
            matches!(
                state,
                State::Free | State::AwaitData | State::Absorbing(_) | State::Dormant
            )
        };
        self.tx.is_idle() && (self.tasks.used() == 0 || self.tasks.slots().all(waits))
    }

    /// Whether nothing is left of it.
    fn is_drained(&self) -> bool {
        self.phase == Phase::Draining && self.tasks.used() == 0
    }
}
