//! The life of a command: checked by the table, planned by its handler, resumed until it ends.

use super::opcodes::{self, Access};
use super::parameter::Parameter;
use super::sbc::{Flush, Prefetch, Read, StartStop, Verify, Write};
use super::{Bounds, Cdb, Context, LogicalUnit, Memory, Outcome, Sense, Status, Step};
use crate::backend::BlockIo;

/// One command, between its arrival and its end. A plain value: it may be dropped at any step.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    opcode: u8,
    plan: Plan,
    sent: u64,
}

const _: () = assert!(size_of::<Command>() <= 128, "one per task, kept small");

/// What a handler makes of a CDB: the work, and how much the CDB itself asks to move.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    work: Work,
    data_in: u64,
    data_out: u64,
}

#[derive(Clone, Copy, Debug)]
enum Work {
    End(Status),
    Parameter(Parameter),
    Read(Read),
    Write(Write),
    Verify(Verify),
    Prefetch(Prefetch),
    Flush(Flush),
    StartStop(StartStop),
}

impl Plan {
    /// Nothing to do but to say so.
    pub(super) const GOOD: Self = Self::of(Work::End(Status::Good), 0, 0);

    const fn of(work: Work, data_in: u64, data_out: u64) -> Self {
        Self {
            work,
            data_in,
            data_out,
        }
    }

    const fn failed(sense: Sense) -> Self {
        Self::of(Work::End(Status::CheckCondition(sense)), 0, 0)
    }

    pub(super) const fn parameter(parameter: Parameter, data_in: u64) -> Self {
        Self::of(Work::Parameter(parameter), data_in, 0)
    }

    pub(super) const fn read(read: Read, data_in: u64) -> Self {
        Self::of(Work::Read(read), data_in, 0)
    }

    pub(super) const fn write(write: Write, data_out: u64) -> Self {
        Self::of(Work::Write(write), 0, data_out)
    }

    pub(super) const fn verify(verify: Verify, data_out: u64) -> Self {
        Self::of(Work::Verify(verify), 0, data_out)
    }

    pub(super) const fn prefetch(prefetch: Prefetch) -> Self {
        Self::of(Work::Prefetch(prefetch), 0, 0)
    }

    pub(super) const fn flush() -> Self {
        Self::of(Work::Flush(Flush), 0, 0)
    }

    pub(super) const fn start_stop(start_stop: StartStop) -> Self {
        Self::of(Work::StartStop(start_stop), 0, 0)
    }
}

impl Step {
    /// A caller that broke the contract gets a HARDWARE ERROR, not a panic on the data plane.
    pub(super) const BROKEN: Self =
        Self::Done(Status::CheckCondition(Sense::INTERNAL_TARGET_FAILURE));

    /// The command ends with this sense.
    pub(super) const fn failed(sense: Sense) -> Self {
        Self::Done(Status::CheckCondition(sense))
    }
}

/// Decodes and checks `cdb`. An error becomes a command that ends at its first resume.
///
/// Takes a pending unit attention from the nexus when this is the command that reports it.
#[must_use]
pub fn start(cdb: &Cdb, bounds: Bounds, cx: &mut Context<'_>) -> Command {
    Command {
        opcode: cdb[0],
        plan: plan(cdb, bounds, cx).unwrap_or_else(Plan::failed),
        sent: 0,
    }
}

/// The checks, in this order: is there a
/// logical unit, has it news, does it know the command, are the bits right, may its medium be accessed.
fn plan(cdb: &Cdb, bounds: Bounds, cx: &mut Context<'_>) -> Result<Plan, Sense> {
    let row = opcodes::find(cdb);
    if !matches!(row, Ok(row) if row.access == Access::Always) {
        if cx.unit.is_none() {
            return Err(Sense::LUN_NOT_SUPPORTED);
        }
        if cx.nexus.is_pending()
            && let Some(unit_attention) = cx.nexus.take()
        {
            return Err(unit_attention.sense());
        }
    }
    let row = row?;
    row.check_reserved(cdb)?;
    if let Some(unit) = cx.unit {
        row.check_access(unit)?;
    }
    (row.run)(cdb, bounds, cx)
}

impl Command {
    /// What must happen next, after `outcome`. Not to be called again after a step that ends the command.
    pub fn resume(&mut self, outcome: Outcome, memory: Memory<'_>, cx: &mut Context<'_>) -> Step {
        let step = match &mut self.plan.work {
            Work::Read(read) => read.resume(outcome, cx),
            Work::Write(write) => write.resume(outcome, cx),
            Work::End(status) => Step::Done(*status),
            Work::Parameter(parameter) => parameter.resume(outcome, memory, cx),
            Work::Verify(verify) => verify.resume(outcome, memory, cx),
            Work::Prefetch(prefetch) => prefetch.resume(outcome),
            Work::Flush(flush) => flush.resume(outcome),
            Work::StartStop(start_stop) => start_stop.resume(outcome),
        };
        match step {
            Step::Send { len, .. } => self.sent += u64::from(len),
            Step::Done(Status::CheckCondition(_)) => self.plan.data_in = self.sent,
            _ => {}
        }
        step
    }

    /// Whether `io`, which a step has just asked for, may go to the medium of `unit` as it is now: the
    /// checks of the start hold for the snapshot of then, and a change may have come between. After an
    /// error the command ends with this sense.
    ///
    /// # Errors
    /// Why it must not.
    pub fn permit(&mut self, unit: &LogicalUnit, io: BlockIo) -> Result<(), Sense> {
        let ready = match self.plan.work {
            // What makes the medium ready or not is not asked whether it is.
            Work::StartStop(_) => Ok(()),
            _ => unit.ready(),
        };
        let inside = |end: u64| {
            (end <= unit.geometry.capacity.0)
                .then_some(())
                .ok_or(Sense::LBA_OUT_OF_RANGE)
        };
        let permitted = ready.and_then(|()| match io {
            BlockIo::Write { .. } if unit.geometry.read_only => Err(Sense::WRITE_PROTECTED),
            BlockIo::Read(extent) | BlockIo::Write { extent, .. } => inside(extent.end().0),
            BlockIo::Prefetch(_) | BlockIo::Flush => Ok(()),
        });
        if permitted.is_err() {
            self.plan.data_in = self.sent;
        }
        permitted
    }

    /// Bytes of data-in that the CDB asks for, however much the transport's header has room for; of
    /// parameter data, the lesser of allocation length and what there is. After an error, what was sent.
    #[must_use]
    pub fn data_in(&self) -> u64 {
        self.plan.data_in
    }

    /// Bytes of data-out that the CDB asks for, however much the transport's header promises. 0 when the
    /// command was refused.
    #[must_use]
    pub fn data_out(&self) -> u64 {
        self.plan.data_out
    }

    /// Operation code.
    #[must_use]
    pub fn opcode(&self) -> u8 {
        self.opcode
    }

    /// Whether its data goes between medium and initiator as it is: nothing here looks at it.
    #[must_use]
    pub fn forwards_data(&self) -> bool {
        matches!(self.plan.work, Work::Read(_) | Work::Write(_))
    }

    /// Whether it takes data-out.
    #[must_use]
    pub fn moves_data_out(&self) -> bool {
        self.plan.data_out != 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::BlockError;
    use crate::scsi::UnitAttention;
    use crate::scsi::opcodes::OPCODES;
    use crate::scsi::testing::{Rig, cdb};

    /// A CDB of some row, with its reserved bits mostly clear, or of nothing at all.
    fn any_cdb() -> impl Strategy<Value = Cdb> {
        let likely = (0..OPCODES.len(), any::<Cdb>(), 0..8u8, 0..12u64).prop_map(
            |(row, mut cdb, small, dirty)| {
                let row = &OPCODES[row];
                for (byte, used) in cdb.iter_mut().zip(row.usage) {
                    *byte &= if dirty == 0 { 0xff } else { *used };
                }
                cdb[0] = row.code;
                if let Some(action) = row.action {
                    cdb[1] = action;
                }
                // Mostly addresses and lengths that a medium of 1024 blocks can have.
                if small > 0 {
                    let high = match row.usage.len() {
                        6 => &mut cdb[1..2],
                        10 => &mut cdb[2..4],
                        12 => &mut cdb[2..4],
                        _ => &mut cdb[2..8],
                    };
                    high.fill(0);
                    let (at, mask) = match row.usage.len() {
                        6 => (2, 0x03),
                        10 | 12 => (4, 0x03),
                        _ => (8, 0x03),
                    };
                    cdb[at] &= mask;
                    match row.usage.len() {
                        10 => cdb[7] &= 0x03,
                        12 => (cdb[6], cdb[7], cdb[8]) = (0, 0, cdb[8] & 0x03),
                        16 => (cdb[10], cdb[11], cdb[12]) = (0, 0, cdb[12] & 0x03),
                        _ => {}
                    }
                }
                cdb
            },
        );
        prop_oneof![9 => likely, 1 => any::<Cdb>()]
    }

    /// The blocks that a reading or writing CDB names, decoded independently of the code under test.
    fn named(cdb: &Cdb) -> (u64, u64) {
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        match cdb[0] >> 5 {
            0 => {
                let count = if cdb[4] == 0 { 256 } else { cdb[4].into() };
                (number(&cdb[1..4]) & 0x1f_ffff, count)
            }
            1 => (number(&cdb[2..6]), number(&cdb[7..9])),
            5 => (number(&cdb[2..6]), number(&cdb[6..10])),
            _ => (number(&cdb[2..10]), number(&cdb[10..14])),
        }
    }

    proptest! {
        /// Any CDB, bounds and buffers: an answer, no panic, and no block touched but the command's own.
        #[test]
        fn any_cdb_stays_inside_its_own_blocks(
            cdb in any_cdb(),
            room in prop_oneof![Just(u32::MAX), 0..5000u32, 0..600_000u32],
            promised in prop_oneof![0..5000u32, 0..600_000u32],
            portion in 1..70_000u32,
            scratch in 1..70_000u32,
            present in any::<bool>(),
        ) {
            let mut rig = Rig::new();
            (rig.portion, rig.scratch) = (portion, scratch);
            if !present {
                rig.unit = rig.unit.filter(|_| cdb[1] & 0x80 == 0);
            }
            let before = rig.medium.clone();
            let data_out = vec![0xee; promised as usize];
            let bounds = Bounds { data_in: room, data_out: promised };
            let done = rig.run_with(&cdb, bounds, &data_out);
            let (lba, count) = named(&cdb);
            for io in &done.ios {
                match io {
                    BlockIo::Read(e) | BlockIo::Write { extent: e, .. } => {
                        prop_assert!(e.start().0 >= lba && e.end().0 <= lba + count && !e.is_empty());
                    }
                    BlockIo::Prefetch(e) => prop_assert!(e.start().0 >= lba && e.end().0 <= 1024),
                    BlockIo::Flush => {}
                }
            }
            prop_assert!(done.data_in.len() as u64 <= done.asked_in.min(room.into()));
            prop_assert!(done.taken_out as u64 <= done.asked_out.min(promised.into()));
            if done.status == Status::Good {
                prop_assert_eq!(done.data_in.len() as u64, done.asked_in.min(room.into()));
            }
            let writes = matches!(cdb[0], 0x0a | 0x2a | 0x2e | 0x8a | 0x8e | 0xaa | 0xae);
            let written = if writes && done.status == Status::Good {
                let from = usize::try_from(lba).unwrap() * 512;
                from..from + usize::try_from(count * 512).unwrap().min(promised as usize / 512 * 512)
            } else {
                0..0
            };
            prop_assert!(rig.medium[written.clone()].iter().all(|b| *b == 0xee));
            prop_assert!(rig.medium[..written.start] == before[..written.start]);
            prop_assert!(rig.medium[written.end..] == before[written.end..]);
        }

        /// Parameter data does not depend on how it is cut.
        #[test]
        fn portions_make_the_same_whole(
            code in prop::sample::select(vec![0x03, 0x12, 0x1a, 0x5a, 0x5e, 0x25, 0x9e, 0xa0, 0xa3]),
            fill in any_cdb(),
            portion in 1..300u32,
        ) {
            let row = &crate::scsi::opcodes::rows(code)[0];
            let mut cdb = cdb(&fill);
            for (byte, used) in cdb.iter_mut().zip(row.usage) {
                *byte &= used;
            }
            cdb[0] = code;
            cdb[1] = row.action.unwrap_or(cdb[1]);
            let whole = Rig::new().run(&cdb);
            let mut rig = Rig::new();
            rig.portion = portion;
            let parts = rig.run(&cdb);
            prop_assert_eq!(parts.status, whole.status);
            prop_assert_eq!(parts.data_in, whole.data_in);
        }
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        let len = prop_oneof![Just(0), Just(512), 0..5000u32, Just(u32::MAX)];
        let failed = prop::sample::select(vec![
            BlockError::Gone,
            BlockError::Cancelled,
            BlockError::NoSpace,
        ]);
        prop_oneof![
            Just(Outcome::Begin),
            len.clone().prop_map(|len| Outcome::Buffer { len }),
            len.clone().prop_map(|len| Outcome::Scratch { len }),
            len.prop_map(|len| Outcome::DataOut { len }),
            Just(Outcome::Io(Ok(()))),
            failed.prop_map(|error| Outcome::Io(Err(error))),
            Just(Outcome::Sent),
            Just(Outcome::OwnerDone),
        ]
    }

    proptest! {
        /// Any outcomes in any order, with buffers that are not those promised: no panic, and no
        /// operation outside the medium.
        #[test]
        fn outcomes_out_of_order_do_no_harm(
            cdb in any_cdb(),
            outcomes in prop::collection::vec(any_outcome(), 1..12),
            sizes in (0..5000usize, 0..5000usize),
            stopped in any::<bool>(),
        ) {
            let mut rig = Rig::new();
            rig.unit.as_mut().unwrap().stopped = stopped;
            let bounds = Bounds { data_in: 3000, data_out: 3000 };
            let mut cx = Context {
                unit: rig.unit.as_ref(),
                nexus: &mut rig.nexus,
                luns: &rig.luns,
                port: crate::scsi::Port { target_name: "iqn", portal_group_tag: 1 },
            };
            let (mut data, mut scratch) = (vec![0; sizes.0], vec![0; sizes.1]);
            let mut command = start(&cdb, bounds, &mut cx);
            for outcome in outcomes {
                let memory = Memory { data: &mut data, scratch: &mut scratch };
                match command.resume(outcome, memory, &mut cx) {
                    Step::Io { io: BlockIo::Read(e) | BlockIo::Write { extent: e, .. }, .. } => {
                        prop_assert!(!e.is_empty() && e.end().0 <= 1024);
                    }
                    Step::Send { status: Some(_), .. } | Step::Done(_) => break,
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn every_command_that_answers_with_parameter_data_cuts_it_at_the_allocation_length() {
        // CDB, and where the lowest byte of its ALLOCATION LENGTH is (the next higher one before it).
        let requests: [(&[u8], usize, bool); 22] = [
            (&[0x03, 0], 4, false),
            (&[0x03, 1], 4, false),
            (&[0x12], 4, true),
            (&[0x12, 1, 0x00], 4, true),
            (&[0x12, 1, 0x80], 4, true),
            (&[0x12, 1, 0x83], 4, true),
            (&[0x12, 1, 0x86], 4, true),
            (&[0x12, 1, 0xb0], 4, true),
            (&[0x12, 1, 0xb1], 4, true),
            (&[0x12, 1, 0xb2], 4, true),
            (&[0x1a, 0, 0x3f, 0xff], 4, false),
            (&[0x5a, 0x10, 0x3f, 0xff], 8, true),
            (&[0x5e, 0], 8, true),
            (&[0x5e, 1], 8, true),
            (&[0x5e, 2], 8, true),
            (&[0x5e, 3], 8, true),
            (&[0x9e, 0x10], 13, true),
            (&[0xa0], 9, true),
            (&[0xa3, 0x0c], 9, true),
            (&[0xa3, 0x0c, 0x80], 9, true),
            (&[0xa3, 0x0c, 0x81, 0x28], 9, true),
            (&[0xa3, 0x0d, 0x80], 9, true),
        ];
        for (request, low, wide) in requests {
            let ask = |len: usize, room: u32| {
                let mut cdb = cdb(request);
                let [high, low_byte] = u16::try_from(len).unwrap().to_be_bytes();
                cdb[low] = low_byte;
                if wide {
                    cdb[low - 1] = high;
                }
                let bounds = Bounds {
                    data_in: room,
                    data_out: 0,
                };
                let done = Rig::new().run_with(&cdb, bounds, &[]);
                assert_eq!(done.status, Status::Good, "{cdb:02x?}");
                done
            };
            let most = if wide { 0xffff } else { 0xff };
            let whole = ask(most, u32::MAX).data_in;
            assert!(!whole.is_empty() && whole.len() < most);
            for len in 0..(whole.len() + 3).min(most) {
                let done = ask(len, u32::MAX);
                let cut = len.min(whole.len());
                assert_eq!(done.data_in, whole[..cut], "{request:02x?} {len}");
                assert_eq!(done.asked_in, cut as u64);
                // What the header has room for cuts again, but not what the CDB asked for.
                let done = ask(most, u32::try_from(len).unwrap());
                assert_eq!(done.data_in, whole[..cut]);
                assert_eq!(done.asked_in, whole.len() as u64);
            }
        }
    }

    #[test]
    fn addresses_and_lengths_at_the_edge_of_their_numbers_are_out_of_range() {
        const SIXTEEN: [u8; 7] = [0x88, 0x8a, 0x8e, 0x8f, 0x90, 0x91, 0x8f];
        let mut rig = Rig::new();
        for code in SIXTEEN {
            for (lba, blocks) in [
                (u64::MAX, 1),
                (u64::MAX, u32::MAX),
                (u64::MAX - 5, 10),
                (1 << 63, 0),
                (0, u32::MAX),
                (1024, 1),
                (1025, 0),
                (u64::MAX, 0),
                (u64::MAX / 512 + 1, 1),
            ] {
                let mut cdb = cdb(&[code]);
                cdb[2..10].copy_from_slice(&lba.to_be_bytes());
                cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
                let done = rig.write(&cdb, &[0; 1000]);
                assert_eq!(done.sense(), Sense::LBA_OUT_OF_RANGE, "{cdb:02x?}");
                assert!(done.ios.is_empty() && done.taken_out == 0);
            }
        }
    }

    #[test]
    fn a_transfer_longer_than_its_bounds_moves_what_the_bounds_hold() {
        use crate::units::Blocks;
        let mut rig = Rig::new();
        // Only the start of this large medium is really there.
        rig.unit.as_mut().unwrap().geometry.capacity = Blocks(1 << 40);
        let mut read = cdb(&[0x88]);
        read[10..14].fill(0xff);
        let bounds = Bounds {
            data_in: 1000,
            data_out: 0,
        };
        let done = rig.run_with(&read, bounds, &[]);
        assert_eq!(done.status, Status::Good);
        assert_eq!(done.data_in, rig.medium[..1000]);
        assert_eq!(done.asked_in, u64::from(u32::MAX) * 512);
        let mut write = read;
        write[0] = 0x8a;
        let after = rig.medium[512..].to_vec();
        let done = rig.write(&write, &[0xee; 1000]);
        assert_eq!(done.status, Status::Good);
        assert_eq!(
            (done.asked_out, done.taken_out),
            (u64::from(u32::MAX) * 512, 512)
        );
        assert!(rig.medium[..512].iter().all(|b| *b == 0xee));
        assert!(rig.medium[512..] == after, "no part of a block is written");
    }

    #[test]
    fn a_unit_attention_is_reported_once_by_the_next_command() {
        for code in [0x00, 0x28, 0x2a, 0x25, 0x1a, 0x1b, 0x35, 0xff] {
            let mut rig = Rig::new();
            rig.nexus.raise(UnitAttention::PowerOn);
            let done = rig.run(&cdb(&[code]));
            assert_eq!(done.sense(), UnitAttention::PowerOn.sense(), "{code:02x}");
            assert!(done.ios.is_empty());
            assert!(!rig.nexus.is_pending());
        }
    }

    #[test]
    fn three_commands_are_answered_with_a_unit_attention_pending() {
        let mut rig = Rig::new();
        rig.nexus.raise(UnitAttention::LunReset);
        assert_eq!(rig.run(&cdb(&[0x12, 0, 0, 0, 36])).status, Status::Good);
        assert_eq!(
            rig.run(&cdb(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16])).status,
            Status::Good
        );
        assert!(rig.nexus.is_pending());
        assert_eq!(rig.run(&cdb(&[0x03, 0, 0, 0, 18])).status, Status::Good);
        assert!(!rig.nexus.is_pending());
    }

    #[test]
    fn without_a_logical_unit_only_three_commands_are_answered() {
        let mut rig = Rig::new();
        rig.unit = None;
        for code in 0..=255 {
            let done = rig.run(&cdb(&[code]));
            match code {
                0x03 | 0x12 | 0xa0 => assert_eq!(done.status, Status::Good),
                _ => assert_eq!(done.sense(), Sense::LUN_NOT_SUPPORTED, "{code:02x}"),
            }
        }
    }

    #[test]
    fn an_operation_code_outside_the_table_is_invalid() {
        for code in 0..=255 {
            if crate::scsi::opcodes::rows(code).is_empty() {
                assert_eq!(Rig::new().run(&cdb(&[code])).sense(), Sense::INVALID_OPCODE);
            }
        }
        let unknown_action = Rig::new().run(&cdb(&[0x9e, 0x11]));
        assert_eq!(unknown_action.sense(), Sense::INVALID_FIELD_IN_CDB.at(1, 4));
    }

    #[test]
    fn a_refused_command_asks_for_nothing() {
        let done = Rig::new().write(&cdb(&[0x2a, 0xff, 0, 0, 0, 0, 0, 0, 9, 0]), &[0; 512]);
        assert_eq!((done.asked_out, done.taken_out), (0, 0));
        assert_eq!(done.sense(), Sense::INVALID_FIELD_IN_CDB.at(1, 7));
    }

    #[test]
    fn a_caller_that_breaks_the_contract_gets_an_error_and_no_panic() {
        let rig = Rig::new();
        let bounds = Bounds {
            data_in: 512,
            data_out: 512,
        };
        for request in [
            cdb(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1]),
            cdb(&[0x2f, 2, 0, 0, 0, 0, 0, 0, 1]),
            cdb(&[0x12, 0, 0, 0, 36]),
        ] {
            let mut nexus = rig.nexus;
            let mut cx = Context {
                unit: rig.unit.as_ref(),
                nexus: &mut nexus,
                luns: &rig.luns,
                port: crate::scsi::Port {
                    target_name: "iqn",
                    portal_group_tag: 1,
                },
            };
            let mut command = start(&request, bounds, &mut cx);
            command.resume(Outcome::Begin, Memory::default(), &mut cx);
            let step = command.resume(Outcome::OwnerDone, Memory::default(), &mut cx);
            assert_eq!(step, Step::BROKEN);
        }
    }
}
