//! What leaves a connection: a queue of what is to be said, and a window of encoded PDUs on the wire.
//!
//! Numbers (StatSN, ExpCmdSN, MaxCmdSN) are given when a PDU is encoded, which is when the socket has
//! room for it; so they are in the order of the wire, and as fresh as can be.

use std::collections::VecDeque;
use std::io::IoSlice;

use super::memory::Source;
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
pub(super) struct WirePdu {
    header: EncodedHeader,
    payload: Payload,
    trailer: EncodedTrailer,
    total: usize,
    /// The task whose memory it needs.
    pub(super) task: Option<u16>,
    /// The connection ends when it has left.
    pub(super) last: bool,
}

impl WirePdu {
    /// The chunk that its session keeps for one ping, when it was this one.
    pub(super) fn into_reserve(self) -> Option<Buffer> {
        match self.payload {
            Payload::Own {
                buffer,
                from: Source::Reserve,
                ..
            } => Some(buffer),
            _ => None,
        }
    }
}

/// The sending half of a connection.
#[derive(Debug)]
pub(super) struct Transmitter {
    pub(super) stat_sn: SerialNumber,
    pub(super) queue: VecDeque<Out>,
    /// Entries of the queue that are not tasks.
    pub(super) misc: usize,
    wire: VecDeque<WirePdu>,
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
            wire: VecDeque::with_capacity(WIRE),
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
        self.wire.len() < WIRE && self.on_wire < SENT_PER_TURN + self.sent
    }

    /// Whether another PDU of the initiator may be answered.
    pub(super) fn has_room(&self) -> bool {
        self.misc < MISC
    }

    /// Whether nothing is left to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.wire.is_empty() && self.prefix.is_empty()
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
        let bytes = payload.bytes(tasks);
        let header = EncodedHeader::new(bhs, self.header_digest);
        let trailer = EncodedTrailer::new(bytes, self.data_digest);
        let total = header.as_slice().len() + bytes.len() + trailer.as_slice().len();
        self.on_wire += total;
        self.wire.push_back(WirePdu {
            header,
            payload,
            trailer,
            total,
            task,
            last: false,
        });
    }

    /// The connection ends with the PDU encoded last.
    pub(super) fn mark_last(&mut self) {
        if let Some(pdu) = self.wire.back_mut() {
            pdu.last = true;
        }
    }

    /// The bytes to send next, at most `room` of them, in as many pieces as `pieces` has room for; returns how
    /// many.
    pub(super) fn gather<'a>(
        &'a self,
        tasks: &'a TaskTable,
        pieces: &mut [IoSlice<'a>],
        room: usize,
    ) -> usize {
        let mut count = 0;
        let mut room = room;
        let mut skip = self.sent;
        let mut put = |bytes: &'a [u8]| {
            if skip >= bytes.len() {
                skip -= bytes.len();
                return true;
            }
            if count == pieces.len() || room == 0 {
                return false;
            }
            let len = (bytes.len() - skip).min(room);
            room -= len;
            pieces[count] = IoSlice::new(&bytes[skip..skip + len]);
            count += 1;
            skip = 0;
            true
        };
        if !put(&self.prefix) {
            return count;
        }
        for pdu in &self.wire {
            let parts = [
                pdu.header.as_slice(),
                pdu.payload.bytes(tasks),
                pdu.trailer.as_slice(),
            ];
            if !parts.into_iter().all(&mut put) {
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

    /// A PDU that has left as a whole.
    pub(super) fn poll_left(&mut self) -> Option<WirePdu> {
        if !self.prefix.is_empty() || self.wire.front()?.total > self.sent {
            return None;
        }
        let pdu = self.wire.pop_front()?;
        self.sent -= pdu.total;
        self.on_wire -= pdu.total;
        Some(pdu)
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
