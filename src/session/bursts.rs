//! Data-out of one write, in numbers: what was asked for, what came (RFC 7143, sections 11.7 and 11.8).

use crate::scsi::Sense;

/// R2Ts of one task that may be open, whatever MaxOutstandingR2T allows.
pub(super) const R2TS: usize = 8;
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum R2tState {
    #[default]
    Free,
    /// To be sent.
    Pending,
    /// Sent: data may come.
    Open,
}

/// A request for one burst. Offsets are places in the command's data.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct R2t {
    pub(super) state: R2tState,
    pub(super) tag: u32,
    pub(super) offset: u32,
    pub(super) len: u32,
    pub(super) received: u32,
    pub(super) data_sn: u32,
}

/// How far the data-out of a task has come. In bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DataOut {
    /// Survives the task: an old Target Transfer Tag is not soon used again.
    pub(super) next_tag: u16,
    pub(super) r2ts: [R2t; R2TS],
    r2t_sn: u32,
    /// There has been an R2T: most commands never have one, and need not look.
    asked: bool,
    /// The command's F bit was 0: unsolicited Data-Out follows.
    pub(super) unsolicited_open: bool,
    /// Immediate and unsolicited data that has landed.
    pub(super) unsolicited: u32,
    pub(super) unsolicited_sn: u32,
    /// Data of earlier portions.
    pub(super) consumed: u32,
    pub(super) portion_len: u32,
    pub(super) filled: u32,
    pub(super) requested: u32,
    /// Why the command cannot succeed any more.
    pub(super) failed: Option<Sense>,
}

impl DataOut {
    /// That of a new task in the place of this one.
    pub(super) fn begin(&mut self) {
        let Self {
            next_tag: _,
            r2ts,
            r2t_sn,
            asked,
            unsolicited_open,
            unsolicited,
            unsolicited_sn,
            consumed,
            portion_len,
            filled,
            requested,
            failed,
        } = self;
        if std::mem::take(asked) {
            *r2ts = [R2t::default(); R2TS];
        }
        *r2t_sn = 0;
        *unsolicited_open = false;
        (*unsolicited, *unsolicited_sn) = (0, 0);
        (*consumed, *portion_len, *filled, *requested) = (0, 0, 0, 0);
        *failed = None;
    }

    /// Whether the initiator still owes Data-Out PDUs.
    pub(super) fn expects_more(&self) -> bool {
        self.unsolicited_open || (self.asked && self.r2ts.iter().any(|r| r.state == R2tState::Open))
    }

    /// Whether an R2T is to be sent.
    pub(super) fn has_r2t(&self) -> bool {
        self.asked && self.r2ts.iter().any(|r| r.state == R2tState::Pending)
    }

    /// The next R2T to send: tag, offset, length; and its R2TSN.
    pub(super) fn poll_r2t(&mut self) -> Option<(u32, u32, u32, u32)> {
        let pending = self.r2ts.iter_mut();
        let r2t = pending
            .filter(|r| r.state == R2tState::Pending)
            .min_by_key(|r| r.offset)?;
        r2t.state = R2tState::Open;
        let sn = self.r2t_sn;
        self.r2t_sn += 1;
        Some((r2t.tag, r2t.offset, r2t.len, sn))
    }

    /// Takes back R2Ts that were not sent yet.
    pub(super) fn forget_pending(&mut self) {
        for r2t in &mut self.r2ts {
            if r2t.state == R2tState::Pending {
                r2t.state = R2tState::Free;
            }
        }
    }

    /// The task was aborted: nothing is expected any more.
    pub(super) fn forget(&mut self) {
        self.r2ts = [R2t::default(); R2TS];
        self.unsolicited_open = false;
    }

    /// Asks for what is missing of the portion.
    pub(super) fn request(&mut self, slot: u16, max_outstanding: u16, max_burst: u32) {
        let allowed = usize::from(max_outstanding).clamp(1, R2TS);
        self.asked |= self.requested < self.portion_len;
        while self.requested < self.portion_len {
            let used = self.r2ts.iter().filter(|r| r.state != R2tState::Free);
            if used.count() >= allowed {
                return;
            }
            let len = max_burst.min(self.portion_len - self.requested);
            let tag = u32::from(slot) << 16 | u32::from(self.next_tag);
            self.next_tag = self.next_tag.wrapping_add(1);
            let offset = self.consumed + self.requested;
            let free = self.r2ts.iter_mut().find(|r| r.state == R2tState::Free);
            *free.expect("fewer than allowed are used") = R2t {
                state: R2tState::Pending,
                tag,
                offset,
                len,
                received: 0,
                data_sn: 0,
            };
            self.requested += len;
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        !self.unsolicited_open && self.filled == self.portion_len && !self.expects_more()
    }
}

/// The open R2T with this Target Transfer Tag.
pub(super) fn open_r2t(r2ts: &mut [R2t; R2TS], tag: u32) -> Option<&mut R2t> {
    r2ts.iter_mut()
        .find(|r| r.state == R2tState::Open && r.tag == tag)
}
