//! Which blocks are next, and what is written to them.

/// SplitMix64: a small generator whose every seed is good.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that always gives the same numbers for the same `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is not 0. The bias is below `bound` / 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills `buffer` with what belongs at byte `at` of the medium: every 8 bytes depend on their address
/// and on `seed` alone, so that they can be checked without having been kept. `at` and the length are
/// multiples of 8.
pub fn fill(buffer: &mut [u8], at: u64, seed: u64) {
    for (word, expected) in buffer.chunks_exact_mut(8).zip(words(at, seed)) {
        word.copy_from_slice(&expected);
    }
}

/// The first byte of `buffer` that is not what [`fill`] puts there.
#[must_use]
pub fn first_difference(buffer: &[u8], at: u64, seed: u64) -> Option<usize> {
    let differs = buffer
        .chunks_exact(8)
        .zip(words(at, seed))
        .position(|(word, expected)| word != expected)?;
    let start = differs * 8;
    let expected = words(at + start as u64, seed).next()?;
    let within = buffer
        .get(start..)?
        .iter()
        .zip(expected)
        .position(|(a, b)| *a != b)?;
    Some(start + within)
}

fn words(at: u64, seed: u64) -> impl Iterator<Item = [u8; 8]> {
    (at / 8..).map(move |word| mix(word.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed).to_le_bytes())
}

/// A set of slots: pieces of the medium, each as long as one command.
#[derive(Clone, Debug)]
pub struct Slots {
    bits: Vec<u64>,
}

impl Slots {
    /// The empty set of `count` possible slots.
    #[must_use]
    pub fn new(count: u64) -> Self {
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(usize::MAX);
        Self {
            bits: vec![0; words],
        }
    }

    /// Puts `slot` into the set.
    pub fn insert(&mut self, slot: u64) {
        if let Some(word) = self.bits.get_mut(Self::word(slot)) {
            *word |= 1 << (slot % 64);
        }
    }

    /// Whether `slot` is in the set.
    #[must_use]
    pub fn contains(&self, slot: u64) -> bool {
        self.bits
            .get(Self::word(slot))
            .is_some_and(|word| word >> (slot % 64) & 1 != 0)
    }

    /// The first slot of the set that is not below `slot`.
    #[must_use]
    pub fn next_from(&self, slot: u64) -> Option<u64> {
        let first = Self::word(slot);
        let mut mask = u64::MAX << (slot % 64);
        for (index, word) in self.bits.iter().enumerate().skip(first) {
            let set = word & mask;
            if set != 0 {
                return Some(index as u64 * 64 + u64::from(set.trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }

    fn word(slot: u64) -> usize {
        usize::try_from(slot / 64).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_pattern_is_recognised_wherever_it_is_cut(at in 0..1u64 << 40, seed in any::<u64>(), len in 1..64usize) {
            let mut buffer = vec![0; len * 8];
            fill(&mut buffer, at * 8, seed);
            prop_assert_eq!(first_difference(&buffer, at * 8, seed), None);
            prop_assert_eq!(first_difference(&buffer[8..], at * 8 + 8, seed), None);
        }

        #[test]
        fn one_wrong_byte_is_found(at in 0..1u64 << 40, seed in any::<u64>(), wrong in 0..512usize) {
            let mut buffer = vec![0; 512];
            fill(&mut buffer, at * 512, seed);
            buffer[wrong] ^= 1;
            prop_assert_eq!(first_difference(&buffer, at * 512, seed), Some(wrong));
        }

        #[test]
        fn slots_come_back_in_order(mut slots in proptest::collection::btree_set(0..1000u64, 0..99)) {
            let mut set = Slots::new(1000);
            slots.iter().for_each(|&slot| set.insert(slot));
            let mut from = 0;
            while let Some(slot) = set.next_from(from) {
                prop_assert!(set.contains(slot));
                prop_assert_eq!(slots.pop_first(), Some(slot));
                from = slot + 1;
            }
            prop_assert!(slots.is_empty());
        }

        #[test]
        fn random_numbers_stay_below_their_bound(seed in any::<u64>(), bound in 1..u64::MAX) {
            prop_assert!(Random::new(seed).below(bound) < bound);
        }
    }

    #[test]
    fn blocks_that_were_swapped_differ() {
        let (mut a, mut b) = (vec![0; 512], vec![0; 512]);
        fill(&mut a, 0, 1);
        fill(&mut b, 512, 1);
        assert!(first_difference(&a, 512, 1).is_some() && first_difference(&b, 0, 1).is_some());
        assert!(first_difference(&a, 0, 2).is_some());
    }
}
