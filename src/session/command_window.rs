//! CmdSN, ExpCmdSN, MaxCmdSN: which commands may enter, and in what order (RFC 7143, section 4.2.2.1).

use crate::units::SerialNumber;

/// What to do with a non-immediate command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is the next one: run it.
    Next,
    /// A gap is before it: hold it.
    Early,
    /// Outside of the window: ignore it silently.
    Outside,
}

/// The window of one session. MaxCmdSN only ever advances.
#[derive(Clone, Copy, Debug)]
pub(super) struct CommandWindow {
    exp_cmd_sn: SerialNumber,
    /// Commands that may still come: MaxCmdSN - ExpCmdSN + 1.
    open: u32,
    /// Admitted, non-immediate, not yet answered.
    outstanding: u32,
    limit: u32,
}

impl CommandWindow {
    /// A closed window before `exp_cmd_sn`, to be opened up to `limit` commands.
    pub(super) const fn new(exp_cmd_sn: SerialNumber, limit: u32) -> Self {
        Self {
            exp_cmd_sn,
            open: 0,
            outstanding: 0,
            limit: if limit == 0 { 1 } else { limit },
        }
    }

    /// ExpCmdSN.
    pub(super) const fn exp_cmd_sn(&self) -> SerialNumber {
        self.exp_cmd_sn
    }

    /// MaxCmdSN.
    pub(super) const fn max_cmd_sn(&self) -> SerialNumber {
        SerialNumber(self.exp_cmd_sn.0.wrapping_add(self.open).wrapping_sub(1))
    }

    /// Commands that may still come.
    pub(super) const fn open(&self) -> u32 {
        self.open
    }

    /// Judges a non-immediate command.
    pub(super) const fn judge(&self, cmd_sn: SerialNumber) -> Arrival {
        let ahead = cmd_sn.distance_from(self.exp_cmd_sn);
        if ahead >= self.open {
            Arrival::Outside
        } else if ahead == 0 {
            Arrival::Next
        } else {
            Arrival::Early
        }
    }

    /// Takes the next command in.
    pub(super) fn admit(&mut self) {
        assert!(self.open > 0, "judged before");
        self.exp_cmd_sn = self.exp_cmd_sn.next();
        self.open -= 1;
        self.outstanding += 1;
    }

    /// An admitted command was answered, or will never be.
    pub(super) fn retire(&mut self) {
        assert!(self.outstanding > 0, "every command is retired once");
        self.outstanding -= 1;
    }

    /// Whether one more command may be let in, as far as the window itself is concerned.
    pub(super) const fn may_advance(&self) -> bool {
        self.open + self.outstanding < self.limit
    }

    /// Lets one more command in.
    pub(super) fn advance(&mut self) {
        self.open += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_cmd_sn_never_goes_back() {
        let mut w = CommandWindow::new(SerialNumber(u32::MAX), 4);
        let mut last = w.max_cmd_sn();
        for round in 0..100_u32 {
            while w.may_advance() {
                w.advance();
            }
            let max = w.max_cmd_sn();
            assert!(max == last || last.is_before(max));
            last = max;
            w.admit();
            if round % 3 != 0 {
                w.retire();
            }
            if w.open() == 0 {
                while w.outstanding > 0 {
                    w.retire();
                }
            }
            assert!(!w.max_cmd_sn().is_before(last));
        }
    }

    #[test]
    fn a_command_is_next_early_or_outside() {
        let mut w = CommandWindow::new(SerialNumber(10), 3);
        assert_eq!(w.judge(SerialNumber(10)), Arrival::Outside);
        while w.may_advance() {
            w.advance();
        }
        assert_eq!(w.max_cmd_sn(), SerialNumber(12));
        assert_eq!(w.judge(SerialNumber(10)), Arrival::Next);
        assert_eq!(w.judge(SerialNumber(12)), Arrival::Early);
        assert_eq!(w.judge(SerialNumber(13)), Arrival::Outside);
        assert_eq!(w.judge(SerialNumber(9)), Arrival::Outside);
        w.admit();
        assert_eq!(w.judge(SerialNumber(10)), Arrival::Outside);
    }
}
