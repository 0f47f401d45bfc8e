//! Threads off the reactors' cores for what runs neither inline nor on the ring.

/// The pool.
#[derive(Debug)]
pub struct OffloadPool;
