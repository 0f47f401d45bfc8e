//! THE table: one row per operation code and service action. Whatever depends on which command it is (what
//! is checked, what is reported, who handles it) is looked up here.

use super::command::Plan;
use super::{Bounds, Cdb, Context, LogicalUnit, Sense, sbc, spc};

/// Makes a plan of a CDB whose reserved bits and access were checked.
pub(super) type Handler = fn(&Cdb, Bounds, &mut Context<'_>) -> Result<Plan, Sense>;

/// What a command needs of its logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: it is answered with a unit attention pending, and where there is no logical unit.
    Always,
    /// That there is one; ready or not.
    Unit,
    /// That it is ready.
    Ready,
    /// That blocks may be written.
    Writes,
    /// That blocks may be written and are still there afterwards.
    Keeps,
}

/// One row.
#[derive(Debug)]
pub struct Row {
    /// Operation code.
    pub code: u8,
    /// Service action, for the codes that have them.
    pub action: Option<u8>,
    /// The standard's name.
    pub name: &'static str,
    /// What it needs.
    pub access: Access,
    /// Bits that are evaluated, byte by byte, from the operation code to CONTROL.
    pub usage: &'static [u8],
    pub(super) run: Handler,
    /// The opposite of `usage`, as one number.
    reserved: u128,
}

impl Row {
    /// Refuses bits that nobody evaluates, by position.
    pub(super) fn check_reserved(&self, cdb: &Cdb) -> Result<(), Sense> {
        let wrong = u128::from_be_bytes(*cdb) & self.reserved;
        if wrong == 0 {
            return Ok(());
        }
        let [byte, bit] = [wrong.leading_zeros() / 8, 7 - wrong.leading_zeros() % 8];
        let small = |n: u32| u8::try_from(n).expect("below 16");
        Err(Sense::INVALID_FIELD_IN_CDB.at(small(byte), small(bit)))
    }

    /// Refuses what the logical unit cannot do now.
    pub(super) fn check_access(&self, unit: &LogicalUnit) -> Result<(), Sense> {
        match self.access {
            Access::Always | Access::Unit => Ok(()),
            Access::Ready => unit.ready(),
            Access::Writes | Access::Keeps => {
                if !self.is_supported_by(unit) {
                    return Err(Sense::INVALID_OPCODE);
                }
                unit.ready()?;
                if unit.geometry.read_only {
                    return Err(Sense::WRITE_PROTECTED);
                }
                Ok(())
            }
        }
    }

    /// Whether this logical unit has the command: a medium that forgets cannot verify what it wrote.
    #[must_use]
    pub fn is_supported_by(&self, unit: &LogicalUnit) -> bool {
        self.access != Access::Keeps || !unit.geometry.forgets
    }
}

const fn row(
    code: u8,
    name: &'static str,
    access: Access,
    run: Handler,
    usage: &'static [u8],
) -> Row {
    let mut reserved = 0;
    let mut byte = 0;
    while byte < usage.len() {
        reserved |= (!usage[byte] as u128) << (8 * (15 - byte));
        byte += 1;
    }
    Row {
        code,
        action: None,
        name,
        access,
        usage,
        run,
        reserved,
    }
}

const fn action(action: u8, row: Row) -> Row {
    Row {
        action: Some(action),
        ..row
    }
}

const ALL: u8 = 0xff;
const NONE: u8 = 0x00;
/// GROUP NUMBER groups commands for statistics that nobody keeps here: any is right (SBC-3, "Grouping function").
const GROUP: u8 = 0x1f;
/// CONTROL: no NACA, nothing vendor specific (SAM-5).
const CTRL: u8 = 0x00;
/// SERVICE ACTION.
const ACT: u8 = 0x1f;
/// DPO and FUA, with RDPROTECT or WRPROTECT 0.
const DPO_FUA: u8 = 0x18;
/// DPO and BYTCHK, with VRPROTECT or WRPROTECT 0.
const DPO_CHK: u8 = 0x16;
/// IMMED of SYNCHRONIZE CACHE and PRE-FETCH.
const IMMED: u8 = 0x02;

/// The rows, in ascending order of operation code and service action.
#[rustfmt::skip]
pub static OPCODES: &[Row] = {
    use Access::{Always, Keeps, Ready, Unit, Writes};
    &[
        //  code  name                          needs   handler                  bits evaluated, byte by byte
        row(0x00, "TEST UNIT READY",            Ready,  spc::test_unit_ready,    &[ALL, NONE, NONE, NONE, NONE, CTRL]),
        row(0x03, "REQUEST SENSE",              Always, spc::request_sense,      &[ALL, 0x01, NONE, NONE, ALL, CTRL]),
        row(0x08, "READ(6)",                    Ready,  sbc::read_6,             &[ALL, 0x1f, ALL, ALL, ALL, CTRL]),
        row(0x0a, "WRITE(6)",                   Writes, sbc::write_6,            &[ALL, 0x1f, ALL, ALL, ALL, CTRL]),
        row(0x12, "INQUIRY",                    Always, spc::inquiry,            &[ALL, 0x01, ALL, ALL, ALL, CTRL]),
        row(0x1a, "MODE SENSE(6)",              Unit,   spc::mode_sense_6,       &[ALL, 0x08, ALL, ALL, ALL, CTRL]),
        row(0x1b, "START STOP UNIT",            Unit,   sbc::start_stop_unit,    &[ALL, 0x01, NONE, NONE, 0x05, CTRL]),
        row(0x1e, "PREVENT ALLOW MEDIUM REMOVAL", Unit, spc::prevent_allow,      &[ALL, NONE, NONE, NONE, 0x01, CTRL]),
        row(0x25, "READ CAPACITY(10)",          Ready,  sbc::read_capacity_10,   &[ALL, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, CTRL]),
        row(0x28, "READ(10)",                   Ready,  sbc::read_10,            &[ALL, DPO_FUA, ALL, ALL, ALL, ALL, GROUP, ALL, ALL, CTRL]),
        row(0x2a, "WRITE(10)",                  Writes, sbc::write_10,           &[ALL, DPO_FUA, ALL, ALL, ALL, ALL, GROUP, ALL, ALL, CTRL]),
        row(0x2e, "WRITE AND VERIFY(10)",       Keeps,  sbc::write_verify_10,    &[ALL, DPO_CHK, ALL, ALL, ALL, ALL, GROUP, ALL, ALL, CTRL]),
        row(0x2f, "VERIFY(10)",                 Ready,  sbc::verify_10,          &[ALL, DPO_CHK, ALL, ALL, ALL, ALL, GROUP, ALL, ALL, CTRL]),
        row(0x34, "PRE-FETCH(10)",              Ready,  sbc::prefetch_10,        &[ALL, IMMED, ALL, ALL, ALL, ALL, GROUP, ALL, ALL, CTRL]),
        row(0x35, "SYNCHRONIZE CACHE(10)",      Ready,  sbc::synchronize_cache_10, &[ALL, IMMED, ALL, ALL, ALL, ALL, GROUP, ALL, ALL, CTRL]),
        row(0x37, "READ DEFECT DATA(10)",       Ready,  sbc::read_defect_data_10, &[ALL, NONE, 0x1f, NONE, NONE, NONE, NONE, ALL, ALL, CTRL]),
        row(0x5a, "MODE SENSE(10)",             Unit,   spc::mode_sense_10,      &[ALL, 0x18, ALL, ALL, NONE, NONE, NONE, ALL, ALL, CTRL]),
        action(0x00,
        row(0x5e, "PERSISTENT RESERVE IN, READ KEYS", Unit, spc::persistent_reserve_in,
                                                                                 &[ALL, ACT, NONE, NONE, NONE, NONE, NONE, ALL, ALL, CTRL])),
        action(0x01,
        row(0x5e, "PERSISTENT RESERVE IN, READ RESERVATION", Unit, spc::persistent_reserve_in,
                                                                                 &[ALL, ACT, NONE, NONE, NONE, NONE, NONE, ALL, ALL, CTRL])),
        action(0x02,
        row(0x5e, "PERSISTENT RESERVE IN, REPORT CAPABILITIES", Unit, spc::report_capabilities,
                                                                                 &[ALL, ACT, NONE, NONE, NONE, NONE, NONE, ALL, ALL, CTRL])),
        action(0x03,
        row(0x5e, "PERSISTENT RESERVE IN, READ FULL STATUS", Unit, spc::persistent_reserve_in,
                                                                                 &[ALL, ACT, NONE, NONE, NONE, NONE, NONE, ALL, ALL, CTRL])),
        row(0x88, "READ(16)",                   Ready,  sbc::read_16,            &[ALL, DPO_FUA, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, GROUP, CTRL]),
        row(0x8a, "WRITE(16)",                  Writes, sbc::write_16,           &[ALL, DPO_FUA, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, GROUP, CTRL]),
        row(0x8e, "WRITE AND VERIFY(16)",       Keeps,  sbc::write_verify_16,    &[ALL, DPO_CHK, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, GROUP, CTRL]),
        row(0x8f, "VERIFY(16)",                 Ready,  sbc::verify_16,          &[ALL, DPO_CHK, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, GROUP, CTRL]),
        row(0x90, "PRE-FETCH(16)",              Ready,  sbc::prefetch_16,        &[ALL, IMMED, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, GROUP, CTRL]),
        row(0x91, "SYNCHRONIZE CACHE(16)",      Ready,  sbc::synchronize_cache_16, &[ALL, IMMED, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, GROUP, CTRL]),
        action(0x10,
        row(0x9e, "READ CAPACITY(16)",          Ready,  sbc::read_capacity_16,   &[ALL, ACT, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, ALL, ALL, ALL, ALL, NONE, CTRL])),
        row(0xa0, "REPORT LUNS",                Always, spc::report_luns,        &[ALL, NONE, ALL, NONE, NONE, NONE, ALL, ALL, ALL, ALL, NONE, CTRL]),
        action(0x0c,
        row(0xa3, "REPORT SUPPORTED OPERATION CODES", Unit, spc::report_supported_operation_codes,
                                                                                 &[ALL, ACT, 0x87, ALL, ALL, ALL, ALL, ALL, ALL, ALL, NONE, CTRL])),
        action(0x0d,
        row(0xa3, "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", Unit, spc::report_supported_task_management,
                                                                                 &[ALL, ACT, 0x80, NONE, NONE, NONE, ALL, ALL, ALL, ALL, NONE, CTRL])),
        row(0xa8, "READ(12)",                   Ready,  sbc::read_12,            &[ALL, DPO_FUA, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, GROUP, CTRL]),
        row(0xaa, "WRITE(12)",                  Writes, sbc::write_12,           &[ALL, DPO_FUA, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, GROUP, CTRL]),
        row(0xae, "WRITE AND VERIFY(12)",       Keeps,  sbc::write_verify_12,    &[ALL, DPO_CHK, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, GROUP, CTRL]),
        row(0xaf, "VERIFY(12)",                 Ready,  sbc::verify_12,          &[ALL, DPO_CHK, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, GROUP, CTRL]),
        row(0xb7, "READ DEFECT DATA(12)",       Ready,  sbc::read_defect_data_12, &[ALL, 0x1f, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, NONE, CTRL]),
    ]
};

/// Row number of the first row of each operation code; beyond the table where there is none.
static INDEX: [u8; 256] = {
    let mut index = [u8::MAX; 256];
    let mut at = OPCODES.len();
    assert!(at < u8::MAX as usize, "rows are numbered in a byte");
    while at > 0 {
        at -= 1;
        #[allow(clippy::cast_possible_truncation, reason = "asserted above")]
        let number = at as u8;
        index[OPCODES[at].code as usize] = number;
    }
    index
};

/// The rows of an operation code: none, one, or one per service action.
#[must_use]
pub fn rows(code: u8) -> &'static [Row] {
    let first = usize::from(INDEX[usize::from(code)]);
    let rows = OPCODES.get(first..).unwrap_or_default();
    let count = rows.iter().take_while(|row| row.code == code).count();
    &rows[..count]
}

/// The row of this command.
pub(super) fn find(cdb: &Cdb) -> Result<&'static Row, Sense> {
    let first = usize::from(INDEX[usize::from(cdb[0])]);
    let row = OPCODES.get(first).ok_or(Sense::INVALID_OPCODE)?;
    if row.action.is_none() {
        return Ok(row);
    }
    let action = Some(cdb[1] & ACT);
    rows(cdb[0])
        .iter()
        .find(|row| row.action == action)
        .ok_or(Sense::INVALID_FIELD_IN_CDB.at(1, 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_as_long_as_their_group_says() {
        assert!(OPCODES.is_sorted_by_key(|row| (row.code, row.action)));
        for row in OPCODES {
            let len = match row.code >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                5 => 12,
                group => panic!("{}: group {group}", row.name),
            };
            assert_eq!(row.usage.len(), len, "{}", row.name);
            assert_eq!(row.usage[0], ALL, "{}", row.name);
            assert_eq!(row.usage[len - 1], CTRL, "{}", row.name);
        }
    }

    #[test]
    fn the_index_finds_every_row() {
        for row in OPCODES {
            let mut cdb = [0; 16];
            cdb[0] = row.code;
            cdb[1] = row.action.unwrap_or(0);
            assert_eq!(find(&cdb).expect("it is there").name, row.name);
        }
        assert_eq!(find(&[0xff; 16]).unwrap_err(), Sense::INVALID_OPCODE);
    }

    #[test]
    fn reserved_bit_is_reported_by_position() {
        for row in OPCODES {
            for (byte, used) in row.usage.iter().enumerate() {
                for bit in (0..8).filter(|bit| used & 1 << bit == 0) {
                    let mut cdb = [0; 16];
                    cdb[0] = row.code;
                    cdb[byte] |= 1 << bit;
                    let sense = row.check_reserved(&cdb).unwrap_err();
                    assert_eq!(sense.field(), Some((u8::try_from(byte).unwrap(), bit)));
                }
            }
        }
    }
}
