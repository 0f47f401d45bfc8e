//! Two kinds of pieces that a send is gathered from: memory for the kernel alone, and slices.

use std::io::IoSlice;

use super::task::TaskTable;
use super::transmit::Payload;
use crate::buffer::Piece;

/// A part of what is sent. For slices nothing may be lent.
pub(super) trait Part<'a>: Sized {
    /// All of something, of which a part is cut.
    type Whole;

    fn whole(bytes: &'a [u8]) -> Self::Whole;
    fn payload(payload: &'a Payload, tasks: &'a TaskTable) -> Self::Whole;
    fn len(whole: &Self::Whole) -> usize;
    /// The bytes from `start` to `end`, which are inside.
    fn cut(whole: Self::Whole, start: usize, end: usize) -> Self;
}

impl<'a> Part<'a> for Piece<'a> {
    type Whole = Self;

    fn whole(bytes: &'a [u8]) -> Self {
        Piece::of(bytes)
    }

    fn payload(payload: &'a Payload, tasks: &'a TaskTable) -> Self {
        if let Payload::Task { slot, at, len } = payload
            && let Some(lent) = tasks.get(*slot).lent.as_ref()
        {
            return lent.piece(*at as usize, *len as usize);
        }
        Piece::of(payload.bytes(tasks))
    }

    fn len(whole: &Self) -> usize {
        whole.len()
    }

    fn cut(whole: Self, start: usize, end: usize) -> Self {
        whole.skip(start).first(end - start)
    }
}

impl<'a> Part<'a> for IoSlice<'a> {
    type Whole = &'a [u8];

    fn whole(bytes: &'a [u8]) -> Self::Whole {
        bytes
    }

    fn payload(payload: &'a Payload, tasks: &'a TaskTable) -> Self::Whole {
        payload.bytes(tasks)
    }

    fn len(whole: &Self::Whole) -> usize {
        whole.len()
    }

    fn cut(whole: Self::Whole, start: usize, end: usize) -> Self {
        IoSlice::new(&whole[start..end])
    }
}
