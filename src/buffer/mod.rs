//! Hugepage, NUMA-local buffers of one core.

/// A piece of the pool's memory; goes back when dropped.
#[derive(Debug)]
pub struct Buffer;
