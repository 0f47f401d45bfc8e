//! What holds on several cores at once.

use super::*;

/// Two cores, one unit, messages in any order: after a reset is answered no earlier write reaches the medium.
#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one story, from the held write to the answer"
)]
fn a_reset_reaches_every_core_before_it_is_answered() {
    for seed in 1..200_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut dice = move |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        let medium = medium();
        let mut shards = [shard(0, 2, &medium, 8), shard(1, 2, &medium, 8)];
        let mut hosts: Vec<Host> = Vec::new();
        for shard in &mut shards {
            hosts.push(Host::open(shard, wide()));
        }
        medium.borrow_mut().holds = true;
        for (host, shard) in hosts.iter_mut().zip(&mut shards) {
            for tag in 0..3 {
                host.write(shard, tag, tag * 8, 1, &[0xee; 512]);
            }
            host.write(shard, 9, 100, 1, &[]);
        }
        let asker = usize::try_from(dice(2)).unwrap();
        let clear = dice(2) == 0;
        let function = if clear {
            TaskManagementFunction::CLEAR_TASK_SET
        } else {
            TaskManagementFunction::LOGICAL_UNIT_RESET
        };
        hosts[asker].function(&mut shards[asker], 50, function, (NO_TAG, 0));
        let mut mail: Vec<(usize, ShardMessage)> = Vec::new();
        let mut answered = false;
        for step in 0..1000 {
            match dice(4) {
                0 => medium.borrow_mut().holds = dice(2) == 0,
                1 => {
                    let at = usize::try_from(dice(2)).unwrap();
                    shards[at].poll_backends(Instant::now());
                }
                2 if !mail.is_empty() => {
                    // Messages of one pair of cores stay in order: take the first for some core.
                    let to = mail[usize::try_from(dice(mail.len() as u64)).unwrap()].0;
                    let at = mail.iter().position(|m| m.0 == to).unwrap();
                    let (to, message) = mail.remove(at);
                    shards[to].handle_message(Instant::now(), message);
                }
                _ => {}
            }
            for shard in &mut shards {
                while let Some((to, message)) = shard.poll_message() {
                    mail.push((usize::from(to.0), message));
                }
            }
            let holds = std::mem::replace(&mut medium.borrow_mut().holds, true);
            for (at, host) in hosts.iter().enumerate() {
                let pdus = host.receive(&mut shards[at]);
                answered |= pdus
                    .iter()
                    .any(|p| p.opcode() == Opcode::TASK_MANAGEMENT_RESPONSE);
            }
            medium.borrow_mut().holds = holds;
            if answered {
                let left = medium.borrow().queue.len();
                assert_eq!(left, 0, "seed {seed}: an aborted write is still in flight");
                break;
            }
            assert!(step < 999, "seed {seed}: never answered");
        }
        medium.borrow_mut().holds = false;
        // The other nexus hears of it.
        let other = 1 - asker;
        hosts[other].command(&mut shards[other], 60, FINAL, 0, [0; 16], &[]);
        let pdus = hosts[other].receive(&mut shards[other]);
        let sense = asc(pdus.last().unwrap());
        assert_eq!(sense, if clear { (0x2f, 0) } else { (0x29, 0x03) });
    }
}

#[test]
fn a_stop_holds_on_every_core() {
    let medium = medium();
    let mut shards = [shard(0, 2, &medium, 8), shard(1, 2, &medium, 8)];
    let mut hosts: Vec<Host> = Vec::new();
    for shard in &mut shards {
        hosts.push(Host::open(shard, wide()));
    }
    let mut stop = [0; 16];
    stop[0] = 0x1b;
    hosts[1].command(&mut shards[1], 1, FINAL, 0, stop, &[]);
    for _ in 0..8 {
        for from in 0..2 {
            while let Some((to, message)) = shards[from].poll_message() {
                shards[usize::from(to.0)].handle_message(Instant::now(), message);
            }
        }
    }
    let pdus = hosts[1].receive(&mut shards[1]);
    assert_eq!(response_status(&pdus[0]), 0);
    hosts[0].read(&mut shards[0], 1, 0, 1);
    assert_eq!(asc(&hosts[0].receive(&mut shards[0])[0]), (0x04, 0x02));
}
