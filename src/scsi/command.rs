//! The life of a command: checked by the table, planned by its handler, resumed until it ends.

use super::opcodes::{self, Access};
use super::parameter::Parameter;
use super::sbc::{Flush, Prefetch, Read, StartStop, Verify, Write};
use super::{Bounds, Cdb, Context, Memory, Outcome, Sense, Status, Step};

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

/// The checks, in the order that SAM-5 (sections 5.14 and 4.6) and SPC-4 (section 4.3) give them: is there a
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

    /// Whether it takes data-out.
    #[must_use]
    pub fn moves_data_out(&self) -> bool {
        self.plan.data_out != 0
    }
}
