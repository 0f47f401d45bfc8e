//! What leaves a connection: a queue of what is to be said, and a window of encoded PDUs on the wire.
//!
//! Numbers (StatSN, ExpCmdSN, MaxCmdSN) are given when a PDU is encoded, which is when the socket has
//! room for it; so they are in the order of the wire, and as fresh as can be.

use std::collections::VecDeque;

use super::memory::Source;
use super::part::Part;
use super::task::TaskTable;
use super::turn::SENT_PER_TURN;
use crate::buffer::Buffer;
use crate::pdu::bhs::BHS_LEN;
use crate::pdu::code::{LogoutResponse, RejectReason, TaskManagementResponse};
use crate::pdu::frame::{EncodedHeader, EncodedTrailer};
use crate::units::SerialNumber;

/// Encoded PDUs that may be on the wire of one connection.
pub(super) const WIRE: usize = 128;
/// Answers that are not tasks (NOP-In, Reject, ...) that may be queued before reception pauses.
pub(super) const MISC: usize = 32;
/// Bytes a PDU can carry without a buffer: sense data, a rejected header, a short ping.
pub(super) const INLINE: usize = 128;

/// Longest logical block, in bytes: shorter ones divide it.
const LARGEST_BLOCK: usize = 4096;

/// A few bytes, held in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inline {
    bytes: [u8; INLINE],
    len: u8,
}

impl Inline {
    pub(super) const EMPTY: Self = Self {
        bytes: [0; INLINE],
        len: 0,
    };

    /// As much of `bytes` as there is room for.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let len = bytes.len().min(INLINE);
        let mut inline = Self::EMPTY;
        inline.bytes[..len].copy_from_slice(&bytes[..len]);
        inline.len = u8::try_from(len).expect("INLINE is below 256");
        inline
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Something to say.
#[derive(Debug)]
pub(super) enum Out {
    /// Whatever the task in this slot has to send.
    Task(u16),
    /// An answer to a NOP-Out.
    NopIn {
        initiator_task_tag: u32,
        lun: u64,
        ping: Payload,
        numbered: bool,
    },
    /// A NOP-In that only carries the command window.
    Window,
    Reject {
        reason: RejectReason,
        header: Inline,
    },
    TaskManagement {
        initiator_task_tag: u32,
        response: TaskManagementResponse,
        /// The connection ends with it.
        last: bool,
        numbered: bool,
    },
    Logout {
        initiator_task_tag: u32,
        response: LogoutResponse,
        last: bool,
        numbered: bool,
    },
    Text {
        initiator_task_tag: u32,
        lun: u64,
        target_transfer_tag: u32,
        last: bool,
        /// C: the text goes on in the next response.
        more: bool,
        text: Vec<u8>,
        numbered: bool,
    },
}

/// The data of a PDU.
#[derive(Debug)]
pub(super) enum Payload {
    None,
    Inline(Inline),
    /// From the data buffer of a task.
    Task {
        slot: u16,
        at: u32,
        len: u32,
    },
    /// A buffer of its own.
    Own {
        buffer: Buffer,
        len: usize,
        from: Source,
    },
    /// Text: control traffic, off the hot path.
    Heap(Vec<u8>),
}

impl Payload {
    /// How many bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Inline(inline) => inline.as_slice().len(),
            Self::Task { len, .. } => *len as usize,
            Self::Own { len, .. } => *len,
            Self::Heap(text) => text.len(),
        }
    }

    /// Where in the memory that the task was lent they start; `None`: they are its own.
    fn lent_from(&self, tasks: &TaskTable) -> Option<usize> {
        match self {
            Self::Task { slot, at, .. } => {
                let lent = tasks.get(*slot).lent.as_ref();
                lent.map(|_| *at as usize)
            }
            _ => None,
        }
    }

    /// The bytes, unless they are lent by the medium.
    pub(super) fn bytes<'a>(&'a self, tasks: &'a TaskTable) -> &'a [u8] {
        match self {
            Self::None => &[],
            Self::Inline(inline) => inline.as_slice(),
            Self::Task { slot, at, len } => {
                let (at, len) = (*at as usize, *len as usize);
                let data = tasks.get(*slot).data.as_ref();
                data.map_or(&[][..], |d| &d.as_slice()[at..at + len])
            }
            Self::Own { buffer, len, .. } => &buffer.as_slice()[..*len],
            Self::Heap(text) => text,
        }
    }
}

/// An encoded PDU.
#[derive(Debug)]
struct WirePdu {
    header: EncodedHeader,
    payload: Payload,
    trailer: EncodedTrailer,
    total: usize,
    /// The task whose memory it needs.
    task: Option<u16>,
    /// The connection ends when it has left.
    last: bool,
}

impl WirePdu {
    const NONE: Self = Self {
        header: EncodedHeader::NONE,
        payload: Payload::None,
        trailer: EncodedTrailer::NONE,
        total: 0,
        task: None,
        last: false,
    };
}

/// What is to be known of a PDU that has left as a whole.
#[derive(Debug)]
pub(super) struct Left {
    /// The task whose memory it needed.
    pub(super) task: Option<u16>,
    /// The connection ends with it.
    pub(super) last: bool,
    /// The chunk that the session keeps for one ping, when it was this one.
    pub(super) reserve: Option<Buffer>,
}

/// Encoded PDUs, oldest first. They are large, so they are made in their places and stay there.
#[derive(Debug)]
struct Wire {
    places: Box<[WirePdu]>,
    first: usize,
    len: usize,
}

impl Wire {
    fn new() -> Self {
        Self {
            places: (0..WIRE).map(|_| WirePdu::NONE).collect(),
            first: 0,
            len: 0,
        }
    }

    fn place(&self, at: usize) -> usize {
        (self.first + at) % WIRE
    }

    fn front(&self) -> Option<&WirePdu> {
        (self.len > 0).then(|| &self.places[self.place(0)])
    }

    fn back_mut(&mut self) -> Option<&mut WirePdu> {
        let at = self.place(self.len.checked_sub(1)?);
        self.places.get_mut(at)
    }

    fn iter(&self) -> impl Iterator<Item = &WirePdu> {
        (0..self.len).map(|at| &self.places[self.place(at)])
    }

    /// The place of one more, with a payload of none.
    fn push(&mut self) -> &mut WirePdu {
        assert!(self.len < WIRE, "asked before");
        let at = self.place(self.len);
        self.len += 1;
        &mut self.places[at]
    }

    fn pop(&mut self) -> Option<Left> {
        let at = self.place(0);
        self.len = self.len.checked_sub(1)?;
        // An empty one begins with the places that the cache has.
        self.first = if self.len == 0 { 0 } else { self.place(1) };
        let pdu = &mut self.places[at];
        let reserve = if let Payload::Task { .. } | Payload::None = pdu.payload {
            None
        } else {
            match std::mem::replace(&mut pdu.payload, Payload::None) {
                Payload::Own {
                    buffer,
                    from: Source::Reserve,
                    ..
                } => Some(buffer),
                _ => None,
            }
        };
        Some(Left {
            task: pdu.task,
            last: pdu.last,
            reserve,
        })
    }

    fn clear(&mut self) {
        while self.pop().is_some() {}
    }
}

/// The sending half of a connection.
#[derive(Debug)]
pub(super) struct Transmitter {
    pub(super) stat_sn: SerialNumber,
    pub(super) queue: VecDeque<Out>,
    /// Entries of the queue that are not tasks.
    pub(super) misc: usize,
    wire: Wire,
    /// Bytes of these PDUs.
    on_wire: usize,
    /// Bytes of the first PDU (or of the prefix) that have left.
    sent: usize,
    /// What login had still to send; before everything else.
    prefix: Vec<u8>,
    header_digest: bool,
    data_digest: bool,
    /// MaxCmdSN as last told.
    pub(super) told_max_cmd_sn: SerialNumber,
}

impl Transmitter {
    pub(super) fn new(
        stat_sn: SerialNumber,
        digests: (bool, bool),
        prefix: Vec<u8>,
        tasks: usize,
    ) -> Self {
        Self {
            stat_sn,
            queue: VecDeque::with_capacity(tasks + 2 * MISC),
            misc: 0,
            wire: Wire::new(),
            on_wire: 0,
            sent: 0,
            prefix,
            header_digest: digests.0,
            data_digest: digests.1,
            told_max_cmd_sn: SerialNumber(0),
        }
    }

    /// Whether there is room on the wire for another PDU.
    pub(super) fn has_wire(&self) -> bool {
        self.wire.len < WIRE && self.on_wire < SENT_PER_TURN + self.sent
    }

    /// Whether another PDU of the initiator may be answered.
    pub(super) fn has_room(&self) -> bool {
        self.misc < MISC
    }

    /// Whether nothing is left to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.wire.len == 0 && self.prefix.is_empty()
    }

    /// The next to be encoded.
    pub(super) fn poll_queue(&mut self) -> Option<Out> {
        if let Some(&Out::Task(slot)) = self.queue.front() {
            self.queue.pop_front();
            if self.queue.is_empty() {
                // Begins anew with the places that the cache has.
                self.queue.clear();
            }
            return Some(Out::Task(slot));
        }
        self.queue.pop_front()
    }

    /// Queues something that is not a task.
    pub(super) fn say(&mut self, out: Out) {
        self.misc += 1;
        self.queue.push_back(out);
    }

    /// Puts a PDU on the wire.
    pub(super) fn encode<T>(
        &mut self,
        bhs: &T,
        payload: Payload,
        task: Option<u16>,
        tasks: &TaskTable,
    ) where
        T: zerocopy::IntoBytes + zerocopy::Immutable,
    {
        let len = payload.len();
        let pdu = self.wire.push();
        pdu.header.fill(bhs, self.header_digest);
        pdu.trailer = if self.data_digest {
            // Nothing of it is lent by now: it could change between here and the socket.
            EncodedTrailer::new(payload.bytes(tasks), true)
        } else {
            EncodedTrailer::of_pieces(len, None)
        };
        pdu.total = pdu.header.as_slice().len() + len + pdu.trailer.as_slice().len();
        pdu.task = task;
        pdu.last = false;
        pdu.payload = payload;
        self.on_wire += pdu.total;
    }

    /// The connection ends with the PDU encoded last.
    pub(super) fn mark_last(&mut self) {
        if let Some(pdu) = self.wire.back_mut() {
            pdu.last = true;
        }
    }

    /// The bytes to send next, at most `room` of them, in as many pieces as `pieces` has room for; returns how
    /// many. What is lent is cut between blocks only.
    pub(super) fn gather<'a, P: Part<'a>>(
        &'a self,
        tasks: &'a TaskTable,
        pieces: &mut [P],
        room: usize,
    ) -> usize {
        let (mut count, mut room) = (0, room);
        let mut skip = self.sent;
        let mut put = |part: P::Whole, lent_from: Option<usize>| {
            let len = P::len(&part);
            if skip >= len {
                skip -= len;
                return true;
            }
            if count == pieces.len() || room == 0 {
                return false;
            }
            let mut end = len;
            if end - skip > room {
                end = skip + room;
                if let Some(from) = lent_from {
                    end -= (from + end) % LARGEST_BLOCK;
                }
                if end <= skip {
                    room = 0;
                    return false;
                }
            }
            room -= end - skip;
            pieces[count] = P::cut(part, skip, end);
            count += 1;
            skip = 0;
            true
        };
        if !put(P::whole(&self.prefix), None) {
            return count;
        }
        for pdu in self.wire.iter() {
            let all = put(P::whole(pdu.header.as_slice()), None)
                && put(
                    P::payload(&pdu.payload, tasks),
                    pdu.payload.lent_from(tasks),
                )
                && put(P::whole(pdu.trailer.as_slice()), None);
            if !all {
                break;
            }
        }
        count
    }

    /// `len` more bytes have left.
    pub(super) fn note(&mut self, len: usize) {
        self.sent += len;
        if !self.prefix.is_empty() && self.sent >= self.prefix.len() {
            self.sent -= self.prefix.len();
            self.prefix = Vec::new();
        }
    }

    /// The task of which a PDU has left in part, and how much of its data has; `None`: what has left of it ends
    /// with a block.
    pub(super) fn cut_task(&self) -> Option<(u16, usize)> {
        let pdu = self.wire.front()?;
        let Payload::Task { slot, at, len } = pdu.payload else {
            return None;
        };
        let sent = self.sent.saturating_sub(pdu.header.as_slice().len());
        let left = at as usize + sent.min(len as usize);
        (sent > 0 && !left.is_multiple_of(LARGEST_BLOCK)).then_some((slot, left))
    }

    /// A PDU that has left as a whole.
    pub(super) fn poll_left(&mut self) -> Option<Left> {
        let total = self.wire.front()?.total;
        if !self.prefix.is_empty() || total > self.sent {
            return None;
        }
        self.sent -= total;
        self.on_wire -= total;
        self.wire.pop()
    }

    /// Forgets everything (the connection is gone).
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.wire.clear();
        self.prefix = Vec::new();
        self.sent = 0;
        self.on_wire = 0;
        self.misc = 0;
    }
}

const _: () = assert!(BHS_LEN + 64 <= INLINE, "a rejected header with some AHS");
