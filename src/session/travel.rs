//! A session in plain memory, on its way from one core to another.
//!
//! Buffers belong to a core's pool and stay there, so a [`Parcel`] is a copy: everything a session is, with the bytes of
//! its buffers. The destination either finds memory for all of it (the promises of the command window that was told
//! included: MaxCmdSN never goes back) or for nothing. How it gets there is the matter of `departure.rs`.

use super::command::Received;
use super::command_window::CommandWindow;
use super::home::{Heard, Home};
use super::lun_table::LunTable;
use super::memory::Source;
use super::params::OperationalParams;
use super::parked::{Forsaken, Parked, ParkedCommand};
use super::receive::{Direct, Receiver, Sink};
use super::task::{State, Task, TaskTable};
use super::task_management::{FUNCTIONS, InProgress};
use super::text::Exchange;
use super::transmit::{Inline, Transmitter};
use super::turn::Turn;
use super::{Facts, Phase, Session, SessionKey};
use crate::buffer::{Buffer, CHUNK};
use crate::pdu::frame::{Framing, PduLayout};
use crate::units::SerialNumber;

/// A session between two cores.
#[derive(Debug)]
pub struct Parcel {
    facts: Facts,
    params: OperationalParams,
    window: CommandWindow,
    tasks: Vec<PlainTask>,
    /// The task table's free slots, and its table of tags.
    order: (Vec<u16>, Vec<u16>),
    luns: LunTable,
    framing: Framing,
    received: Vec<u8>,
    direct: Option<PlainDirect>,
    stat_sn: SerialNumber,
    told_max_cmd_sn: SerialNumber,
    dormant: Vec<u16>,
    parked: Vec<PlainParked>,
    forsaken: Vec<Forsaken>,
    functions: [InProgress; FUNCTIONS],
    text: Option<Exchange>,
    next_text_tag: u32,
    memory: usize,
    traffic: u64,
    promises: u32,
    promise_each: bool,
    immediate_tasks: u32,
    /// Tasks in waiting lines, in their order.
    pub(super) waiting: Vec<u16>,
    /// What the core it comes from has heard of.
    heard: Heard,
}

const fn travels<T: Send>() {}
const _: () = travels::<Parcel>();

/// A buffer's length, and its first bytes: those that matter.
#[derive(Debug)]
struct Plain {
    len: usize,
    bytes: Vec<u8>,
}

impl Plain {
    fn of(buffer: &Buffer, used: usize) -> Self {
        Self {
            len: buffer.len(),
            bytes: buffer.as_slice()[..used].to_vec(),
        }
    }

    /// A buffer of the same length with the same bytes.
    fn take(&self, home: &Home) -> Option<Buffer> {
        let mut buffer = home.pool.take(self.len, self.len)?;
        buffer.as_mut_slice()[..self.bytes.len()].copy_from_slice(&self.bytes);
        Some(buffer)
    }
}

/// A task, its buffers aside.
#[derive(Debug)]
struct PlainTask {
    /// Without buffers; a [`Task`] as such could not travel.
    fields: Fields,
    data: Option<Plain>,
    scratch: Option<Plain>,
}

macro_rules! fields {
    ($($field:ident: $type:ty,)*) => {
        /// What a [`Task`] has besides its buffers.
        #[derive(Debug)]
        struct Fields {
            $($field: $type,)*
        }

        impl Fields {
            /// Names every field, so that a new one is not forgotten.
            fn of(task: &Task) -> Self {
                // Nothing is lent to a session that leaves.
                let Task { data: _, scratch: _, lent: _, $($field,)* } = task;
                Self { $($field: $field.clone(),)* }
            }

            fn with(self, data: Option<Buffer>, scratch: Option<Buffer>) -> Task {
                Task { data, scratch, lent: None, $($field: self.$field,)* }
            }
        }
    };
}

fields! {
    generation: u32,
    state: State,
    initiator_task_tag: u32,
    lun: u64,
    unit: Option<u16>,
    cmd_sn: SerialNumber,
    immediate: bool,
    attribute: super::task::Attribute,
    expected_len: u32,
    bidirectional_read_len: u32,
    reads: bool,
    writes: bool,
    retired: bool,
    active: bool,
    promised: bool,
    queued: bool,
    wire: u16,
    fenced: bool,
    waiters: u8,
    cdb: crate::scsi::Cdb,
    command: Option<crate::scsi::Command>,
    out: super::bursts::DataOut,
    data_in: super::data_in::DataIn,
}

impl PlainTask {
    /// `is_filled`: part of a payload is in its data buffer already, beside what the task knows of.
    fn of(task: &Task, is_filled: bool) -> Self {
        let out = &task.out;
        let has_data = match task.state {
            State::AwaitData => {
                is_filled || out.filled > 0 || (out.consumed == 0 && out.unsolicited > 0)
            }
            State::Absorbing(_) => false,
            _ => true,
        };
        let used = |buffer: &Buffer| if has_data { buffer.len() } else { 0 };
        Self {
            fields: Fields::of(task),
            data: task.data.as_ref().map(|b| Plain::of(b, used(b))),
            scratch: task.scratch.as_ref().map(|b| Plain::of(b, b.len())),
        }
    }

    fn unpack(self, home: &Home) -> Option<Task> {
        let take = |plain: Option<Plain>| match plain {
            Some(plain) => plain.take(home).map(Some),
            None => Some(None),
        };
        let (data, scratch) = (take(self.data)?, take(self.scratch)?);
        Some(self.fields.with(data, scratch))
    }
}

/// A payload that goes past the receive ring.
#[derive(Debug)]
struct PlainDirect {
    layout: PduLayout,
    filled: usize,
    sink: PlainSink,
}

#[derive(Debug)]
enum PlainSink {
    Own { buffer: Plain, from: Source },
    Task { slot: u16, at: usize },
    Drop,
}

impl PlainDirect {
    fn of(direct: &Direct) -> Self {
        Self {
            layout: direct.layout,
            filled: direct.filled,
            sink: match &direct.sink {
                Sink::Own { buffer, from } => PlainSink::Own {
                    buffer: Plain::of(buffer, direct.filled),
                    from: *from,
                },
                Sink::Task { slot, at } => PlainSink::Task {
                    slot: *slot,
                    at: *at,
                },
                Sink::Drop => PlainSink::Drop,
            },
        }
    }

    fn unpack(self, home: &Home) -> Option<Direct> {
        Some(Direct {
            layout: self.layout,
            filled: self.filled,
            sink: match self.sink {
                PlainSink::Own { buffer, from } => Sink::Own {
                    buffer: buffer.take(home)?,
                    from,
                },
                PlainSink::Task { slot, at } => Sink::Task { slot, at },
                PlainSink::Drop => Sink::Drop,
            },
        })
    }
}

/// A command before its turn.
#[derive(Debug)]
struct PlainParked {
    cmd_sn: SerialNumber,
    command: Option<(Inline, PlainData)>,
}

#[derive(Debug)]
enum PlainData {
    None,
    Own {
        buffer: Plain,
        len: usize,
        from: Source,
    },
    Gone {
        len: usize,
    },
}

impl PlainParked {
    fn of(parked: &Parked) -> Self {
        let data = |data: &Received<'static>| match data {
            Received::Bytes(_) => PlainData::None,
            Received::Own { buffer, len, from } => PlainData::Own {
                buffer: Plain::of(buffer, *len),
                len: *len,
                from: *from,
            },
            Received::Gone { len } => PlainData::Gone { len: *len },
        };
        Self {
            cmd_sn: parked.cmd_sn,
            command: (parked.command.as_ref()).map(|c| (c.header, data(&c.data))),
        }
    }

    fn unpack(self, home: &Home) -> Option<Parked> {
        let command = match self.command {
            None => None,
            Some((header, data)) => {
                let data = match data {
                    // Only what has no data is parked in the ring.
                    PlainData::None => Received::Bytes(&[]),
                    PlainData::Own { buffer, len, from } => Received::Own {
                        buffer: buffer.take(home)?,
                        len,
                        from,
                    },
                    PlainData::Gone { len } => Received::Gone { len },
                };
                Some(ParkedCommand { header, data })
            }
        };
        Some(Parked {
            cmd_sn: self.cmd_sn,
            command,
        })
    }
}

impl Session {
    /// A copy of all of it; `waiting`: its tasks in waiting lines, in order.
    pub(super) fn pack(&self, home: &Home, waiting: Vec<u16>) -> Parcel {
        debug_assert!(self.tx.is_idle(), "what is on the wire cannot travel");
        let rx = &self.rx;
        let ring = rx.aside.as_ref().or(rx.ring.as_ref());
        let filled_directly = |slot: u16| {
            matches!(&rx.direct, Some(d) if d.filled > 0
            && matches!(d.sink, Sink::Task { slot: s, .. } if s == slot))
        };
        let (free, index) = self.tasks.order();
        let task = |slot| PlainTask::of(self.tasks.get(slot), filled_directly(slot));
        Parcel {
            facts: self.facts.clone(),
            params: self.params,
            window: self.window,
            tasks: self.tasks.slots().map(task).collect(),
            order: (free.to_vec(), index.to_vec()),
            luns: self.luns.clone(),
            framing: rx.framing,
            received: ring.map_or_else(Vec::new, |r| r.as_slice()[rx.start..rx.end].to_vec()),
            direct: rx.direct.as_ref().map(PlainDirect::of),
            stat_sn: self.tx.stat_sn,
            told_max_cmd_sn: self.tx.told_max_cmd_sn,
            dormant: self.dormant.iter().copied().collect(),
            parked: self.parked.iter().map(PlainParked::of).collect(),
            forsaken: self.forsaken.clone(),
            functions: self.functions,
            text: self.text.clone(),
            next_text_tag: self.next_text_tag,
            memory: self.memory,
            traffic: self.traffic,
            promises: self.promises,
            promise_each: self.promise_each,
            immediate_tasks: self.immediate_tasks,
            waiting,
            heard: home.heard.clone(),
        }
    }

    /// Promises of the pool that it holds.
    pub(super) fn promises_held(&self) -> u32 {
        let tasks = self.tasks.slots().map(|slot| self.tasks.get(slot));
        let of_tasks: u32 = tasks.map(|t| u32::from(t.promised)).sum();
        self.promises + of_tasks + u32::from(self.reserved)
    }

    /// The session that was packed, in the memory of this core; `None`: there is not enough of it.
    pub(super) fn unpack(parcel: Parcel, home: &Home) -> Option<Self> {
        let wanted = parcel.promises_held();
        let made = (0..wanted).take_while(|_| home.pool.promise()).count();
        let session = (made == wanted as usize)
            .then(|| Self::unpack_promised(parcel, home))
            .flatten();
        if session.is_none() {
            for _ in 0..made {
                home.pool.unpromise();
            }
        }
        session
    }

    fn unpack_promised(parcel: Parcel, home: &Home) -> Option<Self> {
        let ring_len = home.limits.receive_ring;
        let mut ring = home.pool.take(ring_len, ring_len)?;
        let received = parcel.received.len();
        ring.as_mut_slice()
            .get_mut(..received)?
            .copy_from_slice(&parcel.received);
        let mut rx = Receiver::new(parcel.framing, ring);
        rx.end = received;
        if let Some(direct) = parcel.direct {
            rx.direct = Some(direct.unpack(home)?);
        }
        let slots = parcel.tasks.into_iter().map(|task| task.unpack(home));
        let slots: Vec<Task> = slots.collect::<Option<_>>()?;
        let count = slots.len();
        let window = home.limits.window as usize;
        let mut parked = Vec::with_capacity(window.max(parcel.parked.len()));
        for early in parcel.parked {
            parked.push(early.unpack(home)?);
        }
        let mut dormant = std::collections::VecDeque::with_capacity(count);
        dormant.extend(parcel.dormant);
        let mut forsaken = Vec::with_capacity(FUNCTIONS);
        forsaken.extend(parcel.forsaken);
        let params = parcel.params;
        let digests = (params.header_digest, params.data_digest);
        let mut tx = Transmitter::new(parcel.stat_sn, digests, Vec::new(), count);
        tx.told_max_cmd_sn = parcel.told_max_cmd_sn;
        let (free, index) = parcel.order;
        // The free slots grow again up to all of them, without allocating.
        let mut all_free = Vec::with_capacity(count);
        all_free.extend(free);
        Some(Self {
            lent: 0,
            // Given when it is seated.
            key: SessionKey {
                index: 0,
                generation: 0,
            },
            phase: Phase::Open,
            facts: parcel.facts,
            params,
            window: parcel.window,
            tasks: TaskTable::in_order(slots, all_free, index),
            luns: parcel.luns,
            rx,
            tx,
            dormant,
            parked,
            forsaken,
            functions: parcel.functions,
            text: parcel.text,
            next_text_tag: parcel.next_text_tag,
            memory: parcel.memory,
            turn: Turn::default(),
            traffic: parcel.traffic,
            promises: parcel.promises,
            reserved: true,
            promise_each: parcel.promise_each,
            immediate_tasks: parcel.immediate_tasks,
            in_ready: false,
            in_backlog: false,
            in_starved: false,
            paused: false,
            close_requested: false,
            fault: None,
            predecessors: Vec::new(),
        })
    }
}

impl Parcel {
    fn promises_held(&self) -> u32 {
        let tasks = self.tasks.iter().map(|t| u32::from(t.fields.promised));
        // And the chunk kept for one ping: it does not travel while that is in use.
        self.promises + tasks.sum::<u32>() + 1
    }

    /// Whether the bounds here are those it was made under, and what there is above what is kept for others is
    /// enough for it.
    pub(super) fn fits(&self, home: &Home) -> bool {
        let limits = &home.limits;
        let same = self.tasks.len() == limits.window as usize + super::SPARE_TASKS;
        let promised = self.promises_held() as usize * CHUNK;
        same && limits.receive_ring + self.memory + promised <= home.above_floor()
    }

    /// Whether this core has heard of exactly the changes that the session has gone through.
    pub(super) fn agrees_with(&self, heard: &Heard) -> bool {
        let same =
            |lun| (self.luns.unit(lun)).is_none_or(|u| self.heard.barrier(u) == heard.barrier(u));
        self.luns.indices().all(same) && self.heard.has_same_ends(heard)
    }
}
