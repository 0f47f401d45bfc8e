//! io_uring of one core.

/// A ring shared by the backends of one reactor.
#[derive(Clone, Debug)]
pub struct SharedRing;
