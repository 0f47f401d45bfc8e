//! What is to be sent: headers of our own, and data that is always the same.

use std::io::IoSlice;

use crate::pdu::digest::data_digest;
use crate::pdu::padding;

/// Pieces given to one send, at most.
pub(super) const MOST_PIECES: usize = 128;

/// Bytes of the data that all reads get. Longer data repeats it, so that it stays in the first cache.
const FILL: usize = 16 * 1024;
/// What all data consists of.
const FILL_BYTE: u8 = 0xc5;

static DATA: [u8; FILL] = [FILL_BYTE; FILL];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// So many bytes of the headers.
    Own(usize),
    /// So many bytes of [`DATA`].
    Fill(usize),
}

/// A queue of bytes to send. Nothing is allocated once it has grown.
#[derive(Debug, Default)]
pub(in crate::initiator) struct Answers {
    own: Vec<u8>,
    pieces: Vec<Piece>,
    /// Bytes of `own` that were sent.
    own_sent: usize,
    /// Pieces that were sent.
    pieces_sent: usize,
    /// The last length a digest was computed for, and the digest.
    digest: Option<(usize, [u8; 4])>,
}

impl Answers {
    /// Appends bytes as they are.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.own.extend_from_slice(bytes);
        self.count_own(bytes.len());
    }

    fn count_own(&mut self, len: usize) {
        let unsent = self.pieces_sent < self.pieces.len();
        match self.pieces.last_mut() {
            Some(Piece::Own(last)) if unsent => *last += len,
            _ => self.pieces.push(Piece::Own(len)),
        }
    }

    /// Appends a data segment of `len` bytes with its padding, and its digest if `digest`.
    pub(super) fn push_fill(&mut self, len: usize, digest: bool) {
        let mut rest = len;
        while rest > 0 {
            let piece = rest.min(FILL);
            self.pieces.push(Piece::Fill(piece));
            rest -= piece;
        }
        if padding(len) > 0 {
            self.push(&[0; 3][..padding(len)]);
        }
        if digest {
            let crc = match self.digest {
                Some((known, crc)) if known == len => crc,
                _ => data_digest(&vec![FILL_BYTE; len]),
            };
            self.digest = Some((len, crc));
            self.push(&crc);
        }
    }

    /// Whether everything was sent.
    pub(in crate::initiator) fn is_empty(&self) -> bool {
        self.pieces_sent == self.pieces.len()
    }

    /// Fills `slices` with what comes next; gives how many there are.
    pub(in crate::initiator) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut own = &self.own[self.own_sent..];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces[self.pieces_sent..]) {
            *slice = match *piece {
                Piece::Own(len) => {
                    let (now, later) = own.split_at(len);
                    own = later;
                    IoSlice::new(now)
                }
                Piece::Fill(len) => IoSlice::new(&DATA[..len]),
            };
            count += 1;
        }
        count
    }

    /// `len` bytes of what was gathered were sent.
    pub(in crate::initiator) fn sent(&mut self, mut len: usize) {
        while len > 0 {
            let Some(piece) = self.pieces.get_mut(self.pieces_sent) else {
                break;
            };
            let (Piece::Own(left) | Piece::Fill(left)) = piece;
            let now = len.min(*left);
            *left -= now;
            len -= now;
            let done = *left == 0;
            if matches!(piece, Piece::Own(_)) {
                self.own_sent += now;
            }
            if done {
                self.pieces_sent += 1;
            }
        }
        if self.is_empty() {
            self.own.clear();
            self.pieces.clear();
            (self.own_sent, self.pieces_sent) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent_in_pieces_of(answers: &mut Answers, most: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !answers.is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let count = answers.gather(&mut slices);
            let bytes: Vec<u8> = slices[..count].iter().flat_map(|s| s.to_vec()).collect();
            let len = bytes.len().min(most);
            all.extend_from_slice(&bytes[..len]);
            answers.sent(len);
        }
        all
    }

    #[test]
    fn what_is_sent_does_not_depend_on_how_much_the_socket_takes() {
        let mut wanted = vec![1; 48];
        wanted.extend(vec![FILL_BYTE; 40_001]);
        wanted.extend([0; 3]);
        wanted.extend(data_digest(&vec![FILL_BYTE; 40_001]));
        wanted.extend([2; 96]);
        for most in [1, 7, 48, 5000, 1 << 20] {
            let mut answers = Answers::default();
            answers.push(&[1; 48]);
            answers.push_fill(40_001, true);
            answers.push(&[2; 48]);
            answers.push(&[2; 48]);
            assert_eq!(sent_in_pieces_of(&mut answers, most), wanted, "{most}");
            assert!(answers.is_empty());
        }
    }

    #[test]
    fn what_is_added_while_sending_comes_after_it() {
        let mut answers = Answers::default();
        answers.push(&[1; 10]);
        answers.sent(4);
        answers.push(&[2; 5]);
        answers.push_fill(3, false);
        let rest = sent_in_pieces_of(&mut answers, 4);
        assert_eq!(rest, [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0xc5, 0xc5, 0xc5, 0]);
    }
}
