//! Parameter data: what INQUIRY and its like send, written once, by the byte.

use super::command::Plan;
use super::{Bounds, Cdb, Context, LogicalUnit, Luns, Memory, Outcome, Port, Sense, Status, Step};

/// What a writer of parameter data may look at.
pub(super) struct Source<'a> {
    pub(super) cdb: &'a Cdb,
    pub(super) unit: Option<&'a LogicalUnit>,
    pub(super) luns: &'a dyn Luns,
    pub(super) port: Port<'a>,
    /// REQUEST SENSE: what to report.
    pub(super) sense: Sense,
}

/// Writes the whole of some parameter data. It runs once to be measured and once for every portion sent.
pub(super) type Writer = fn(&Source<'_>, &mut Out<'_>);

/// Takes parameter data from its first byte to its last and keeps what lies in its window.
#[derive(Debug, Default)]
pub(super) struct Out<'a> {
    window: &'a mut [u8],
    skip: usize,
    len: usize,
}

impl<'a> Out<'a> {
    /// Keeps the bytes from `skip` on that fit in `window`.
    pub(super) fn new(window: &'a mut [u8], skip: usize) -> Self {
        Self {
            window,
            skip,
            len: 0,
        }
    }

    /// How many bytes were written, kept or not.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The next bytes.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.patch(self.len, bytes);
        self.len += bytes.len();
    }

    /// `count` zeros.
    pub(super) fn zeros(&mut self, count: usize) {
        for _ in 0..count {
            self.put(&[0]);
        }
    }

    /// `text` in ASCII, cut or padded with spaces to `width`; what is not printable becomes a space.
    pub(super) fn text(&mut self, text: &str, width: usize) {
        let mut bytes = text.bytes();
        for _ in 0..width {
            let byte = bytes.next().unwrap_or(b' ');
            self.put(&[if matches!(byte, 0x20..=0x7e) {
                byte
            } else {
                b' '
            }]);
        }
    }

    /// Overwrites what was written at `at`: for length fields.
    pub(super) fn patch(&mut self, at: usize, bytes: &[u8]) {
        for (at, &byte) in (at..).zip(bytes) {
            if let Some(place) = at
                .checked_sub(self.skip)
                .and_then(|at| self.window.get_mut(at))
            {
                *place = byte;
            }
        }
    }

    /// Writes the length of everything after `from` into the two bytes at `at`.
    pub(super) fn patch_len_16(&mut self, at: usize, from: usize) {
        let len = u16::try_from(self.len - from).expect("pages are short");
        self.patch(at, &len.to_be_bytes());
    }

    /// Writes the length of everything after `from` into the byte at `at`.
    pub(super) fn patch_len_8(&mut self, at: usize, from: usize) {
        let len = u8::try_from(self.len - from).expect("pages are short");
        self.patch(at, &[len]);
    }
}

/// Portions are at least this long, in bytes, unless all is shorter.
const LEAST: u32 = 4096;

/// Sending parameter data, in as many portions as the buffers make of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter {
    cdb: Cdb,
    writer: Writer,
    sense: Sense,
    /// Bytes to send, and sent.
    limit: u32,
    sent: u32,
}

impl Parameter {
    /// Sends what `writer` writes, at most `allocation_length` bytes (SPC-4, "Allocation length") and what
    /// `bounds` allows.
    pub(super) fn plan(
        cdb: &Cdb,
        bounds: Bounds,
        cx: &Context<'_>,
        allocation_length: u32,
        writer: Writer,
    ) -> Plan {
        Self::plan_with_sense(cdb, bounds, cx, allocation_length, writer, Sense::NO_SENSE)
    }

    /// The same for REQUEST SENSE, whose data was taken from the nexus.
    pub(super) fn plan_with_sense(
        cdb: &Cdb,
        bounds: Bounds,
        cx: &Context<'_>,
        allocation_length: u32,
        writer: Writer,
        sense: Sense,
    ) -> Plan {
        let mut this = Self {
            cdb: *cdb,
            writer,
            sense,
            limit: 0,
            sent: 0,
        };
        let actual = this.write(cx, &mut [], 0);
        let data_in = u32::try_from(actual)
            .unwrap_or(u32::MAX)
            .min(allocation_length);
        this.limit = data_in.min(bounds.data_in);
        Plan::parameter(this, data_in.into())
    }

    fn write(&self, cx: &Context<'_>, window: &mut [u8], skip: usize) -> usize {
        let source = Source {
            cdb: &self.cdb,
            unit: cx.unit,
            luns: cx.luns,
            port: cx.port,
            sense: self.sense,
        };
        let mut out = Out::new(window, skip);
        (self.writer)(&source, &mut out);
        out.len()
    }

    pub(super) fn resume(
        &mut self,
        outcome: Outcome,
        memory: Memory<'_>,
        cx: &Context<'_>,
    ) -> Step {
        let left = self.limit - self.sent;
        match outcome {
            Outcome::Begin if left == 0 => Step::Done(Status::Good),
            Outcome::Begin | Outcome::Sent => Step::NeedBuffer {
                wanted: left,
                least: left.min(LEAST),
            },
            Outcome::Buffer { len } => {
                let Some(window) = memory.data.get_mut(..len.min(left) as usize) else {
                    return Step::BROKEN;
                };
                // The logical unit may have changed since it was measured: never an old buffer's bytes.
                window.fill(0);
                self.write(cx, window, self.sent as usize);
                let len = len.min(left);
                self.sent += len;
                Step::Send {
                    len,
                    status: (self.sent == self.limit).then_some(Status::Good),
                }
            }
            _ => Step::BROKEN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_shows_its_part_of_the_whole() {
        let write = |out: &mut Out<'_>| {
            out.put(&[1, 2, 0, 0, 5]);
            out.text("a\u{7}", 3);
            out.patch_len_16(2, 4);
        };
        let whole = [1, 2, 0, 4, 5, b'a', b' ', b' '];
        for skip in 0..9 {
            for len in 0..9 {
                let mut window = vec![0xee; len];
                let mut out = Out::new(&mut window, skip);
                write(&mut out);
                assert_eq!(out.len(), 8);
                let shown = whole.iter().skip(skip).copied();
                let expected: Vec<u8> = shown.chain([0xee; 9]).take(len).collect();
                assert_eq!(window, expected);
            }
        }
    }
}
