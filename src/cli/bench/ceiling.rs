//! `ringtgt bench --ceiling`: the limit that a target is held against.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};

use super::{BenchError, size};
use crate::initiator::Offers;
use crate::initiator::ceiling::{Ceiling, CeilingPlan, Way};

/// Bytes per logical block that the ceiling claims.
const LOGICAL_BLOCK_SIZE: u32 = 512;

/// Options of the ceiling.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "The ceiling")]
pub(super) struct CeilingArgs {
    /// Serves instead of measuring: answers the same PDUs, with the same negotiation, in the cheapest way
    /// there is (no device server, no medium, no checks, no copies; never sleeps while somebody is
    /// connected). Prints its URL, and runs until SIGINT or SIGTERM. What `ringtgt bench URL` reaches
    /// against it, over the same kind of socket and in the same minute, is the limit for a target there.
    #[arg(long, value_name = "ADDR:PORT", num_args = 0..=1, require_equals = true, default_missing_value = "127.0.0.1:0")]
    pub(super) ceiling: Option<SocketAddr>,

    /// How the ceiling serves its sockets: "best", or "naive": blocking, a send for every PDU. A best that
    /// is not at least 3.5 times as quick as naive (4 KiB, depth 32) is no ceiling.
    #[arg(long, value_enum, default_value_t = CeilingLoop::Best, requires = "ceiling")]
    pub(super) ceiling_loop: CeilingLoop,

    /// Size that the ceiling's logical unit claims to have.
    #[arg(long, value_name = "BYTES", default_value = "1G", value_parser = size, requires = "ceiling")]
    pub(super) ceiling_size: u64,

    /// Bytes that the ceiling receives at a time.
    #[arg(long, value_name = "BYTES", default_value = "128k", value_parser = size, requires = "ceiling", hide_short_help = true)]
    pub(super) ceiling_receive: u64,
}

/// How sockets are served.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CeilingLoop {
    /// One receive and one gathered send per connection and turn; never sleeps.
    Best,
    /// A receive per header and per data segment, a send per PDU; sleeps in the kernel.
    Naive,
}

/// Serves until a signal.
pub(super) fn serve(
    args: &CeilingArgs,
    address: SocketAddr,
    offers: Offers,
    core: Option<u32>,
) -> Result<(), BenchError> {
    let failed =
        |what: &str, error: &std::io::Error| BenchError::Ceiling(format!("{what}: {error}"));
    let plan = CeilingPlan {
        address,
        offers,
        blocks: args.ceiling_size / u64::from(LOGICAL_BLOCK_SIZE),
        logical_block_size: LOGICAL_BLOCK_SIZE,
        way: match args.ceiling_loop {
            CeilingLoop::Best => Way::Best,
            CeilingLoop::Naive => Way::OnePerPdu,
        },
        core,
        receive_buffer: usize::try_from(args.ceiling_receive)
            .ok()
            .filter(|bytes| (4096..=64 << 20).contains(bytes))
            .ok_or_else(|| BenchError::Options("--ceiling-receive must be 4k to 64M".to_owned()))?,
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| failed("signals", &error))?;
    }
    let ceiling = Ceiling::bind(plan)
        .map_err(|error| failed(&format!("cannot listen on {address}"), &error))?;
    let mut out = std::io::stdout().lock();
    // Nobody may be reading; serving goes on.
    let _ = writeln!(out, "{}", ceiling.url()).and_then(|()| out.flush());
    ceiling
        .serve(&stop)
        .map_err(|error| failed("the ceiling cannot serve", &error))
}
