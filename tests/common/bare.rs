//! A shard with one session and a `ram` disk: the target without sockets, reactor and login.

use std::sync::Arc;

use ringtgt::backend::offload::OffloadPool;
use ringtgt::backend::ram::RamMedium;
use ringtgt::backend::{AttachContext, Medium, Waker};
use ringtgt::buffer::{Pool, PoolConfig};
use ringtgt::scsi::{Identity, LogicalUnit};
use ringtgt::session::login::Established;
use ringtgt::session::params::OperationalParams;
use ringtgt::session::target::{Target, TargetSet};
use ringtgt::session::{ReactorId, SessionLimits, Shard, ShardConfig, UnitId};
use ringtgt::units::{BlockSize, SerialNumber};

/// Bytes of the disk; blocks of 512 bytes.
pub const DISK: u64 = 64 << 20;

/// A shard with `pool` bytes of buffers and the disk as unit 0.
pub fn shard_with_ram(pool: usize) -> Shard {
    let config = PoolConfig {
        bytes: pool,
        numa_node: None,
        hugepages: false,
    };
    let (pool, _) = Pool::new(config).expect("memory");
    let mut shard = Shard::new(ShardConfig {
        reactor: ReactorId(0),
        reactors: 1,
        pool,
        limits: SessionLimits::default(),
    });
    let medium = RamMedium::new("test", BlockSize::B512, DISK, false).expect("memory");
    let medium = Arc::new(medium);
    let context = AttachContext {
        ring: None,
        offload: OffloadPool::new(1, &[]).expect("a thread"),
        waker: Waker(Arc::new(|| {})),
        depth: 64,
    };
    let unit = LogicalUnit {
        geometry: medium.geometry(),
        identity: Identity {
            vendor: "RINGTGT".into(),
            product: "DISK".into(),
            revision: "1".into(),
            serial: "0001".into(),
        },
        online: true,
        stopped: false,
        generation: 1,
    };
    let backend = medium.attach(&context).expect("attaches");
    shard.attach_unit(UnitId(0), Arc::new(unit), backend);
    shard
}

/// What a login with these parameters would have come to.
pub fn established(params: OperationalParams) -> Established {
    let target = Arc::new(Target {
        name: "iqn.2026-01.test:disk".into(),
        alias: None,
        portal_groups: Vec::new(),
        luns: vec![(0, UnitId(0))],
    });
    Established {
        initiator_name: "iqn.2026-01.test:host".into(),
        isid: [0; 6],
        tsih: 1,
        cid: 0,
        discovery: false,
        target: Some(target.clone()),
        targets: Arc::new(TargetSet {
            targets: vec![target],
        }),
        portal: "127.0.0.1:3260".parse().expect("an address"),
        portal_group_tag: 1,
        params,
        cmd_sn: SerialNumber(1),
        stat_sn: SerialNumber(1),
        response: Vec::new(),
        received: Vec::new(),
    }
}
