//! The connections of one reactor, by number.

use super::message::Ticket;

/// Values by small numbers. A number is used again, but never with the same generation.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<usize>,
}

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// The number that the next [`Self::insert`] uses.
    pub(super) fn next(&self) -> usize {
        self.free.last().copied().unwrap_or(self.slots.len())
    }

    pub(super) fn insert(&mut self, value: T) -> usize {
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot].1 = Some(value);
                slot
            }
            None => {
                self.slots.push((0, Some(value)));
                self.slots.len() - 1
            }
        }
    }

    pub(super) fn remove(&mut self, slot: usize) -> Option<T> {
        let (generation, value) = self.slots.get_mut(slot)?;
        let value = value.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(slot);
        Some(value)
    }

    pub(super) fn at(&mut self, slot: usize) -> Option<&mut T> {
        self.slots.get_mut(slot)?.1.as_mut()
    }

    pub(super) fn ticket(&self, slot: usize) -> Ticket {
        Ticket {
            slot,
            generation: self.slots[slot].0,
        }
    }

    /// The number that `ticket` names, if it is still the same connection's.
    pub(super) fn redeem(&self, ticket: Ticket) -> Option<usize> {
        let (generation, value) = self.slots.get(ticket.slot)?;
        (value.is_some() && *generation == ticket.generation).then_some(ticket.slot)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// One more than the highest number there ever was.
    pub(super) fn bound(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = usize> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, (_, value))| value.is_some())
            .map(|(slot, _)| slot)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|(_, value)| value.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_dies_with_its_connection() {
        let mut slots = Slots::new();
        assert_eq!(slots.next(), 0);
        let a = slots.insert('a');
        let ticket = slots.ticket(a);
        assert_eq!(slots.redeem(ticket), Some(a));
        assert_eq!(slots.remove(a), Some('a'));
        assert_eq!(slots.redeem(ticket), None);
        assert_eq!(slots.next(), a);
        assert_eq!(slots.insert('b'), a, "the number is used again");
        assert_eq!(slots.redeem(ticket), None);
        assert_eq!(slots.remove(9), None);
        assert_eq!(slots.numbers().collect::<Vec<_>>(), [a]);
    }
}
