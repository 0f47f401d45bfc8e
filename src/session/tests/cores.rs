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

/// Delivers every message until there is none.
fn settle(shards: &mut [Shard]) {
    loop {
        let mut quiet = true;
        for from in 0..shards.len() {
            while let Some((to, message)) = shards[from].poll_message() {
                shards[usize::from(to.0)].handle_message(Instant::now(), message);
                quiet = false;
            }
        }
        if quiet {
            return;
        }
    }
}

fn stop(host: &mut Host, shard: &mut Shard, tag: u32) {
    let mut cdb = [0; 16];
    cdb[0] = 0x1b;
    host.command(shard, tag, FINAL, 0, cdb, &[]);
}

#[test]
fn a_write_that_waits_for_data_when_a_stop_is_answered_never_writes() {
    let medium = medium();
    let mut shards = [shard(0, 2, &medium, 8), shard(1, 2, &medium, 8)];
    let mut hosts = shards.each_mut().map(|shard| Host::open(shard, wide()));
    let before = medium.borrow().bytes.clone();
    hosts[0].write(&mut shards[0], 1, 0, 4096, &[]);
    stop(&mut hosts[1], &mut shards[1], 1);
    settle(&mut shards);
    assert_eq!(
        response_status(&hosts[1].receive(&mut shards[1])[0]),
        0,
        "an initiator that owes data holds up no stop"
    );
    let data = vec![0x77; 4096 * 512];
    let (pdu, _) = feed(&hosts[0], &mut shards[0], 1, &data, 8192);
    assert_eq!(asc(&pdu), (0x04, 0x02));
    assert!(medium.borrow().bytes == before);
}

#[test]
fn later_portions_of_a_read_see_the_stop() {
    let medium = medium();
    let mut shards = [shard(0, 2, &medium, 8), shard(1, 2, &medium, 8)];
    let mut hosts = shards.each_mut().map(|shard| Host::open(shard, wide()));
    medium.borrow_mut().holds = true;
    hosts[0].read(&mut shards[0], 1, 0, 4096);
    stop(&mut hosts[1], &mut shards[1], 1);
    medium.borrow_mut().holds = false;
    shards[1].poll_backends(Instant::now());
    settle(&mut shards);
    assert!(
        hosts[1].receive(&mut shards[1]).is_empty(),
        "a portion is still being read"
    );
    let pdus = hosts[0].receive(&mut shards[0]);
    settle(&mut shards);
    let bhs: &ScsiResponseBhs = pdus.last().unwrap().as_();
    assert_eq!(asc(pdus.last().unwrap()), (0x04, 0x02));
    let sent: usize = pdus[..pdus.len() - 1].iter().map(|p| p.data.len()).sum();
    assert_eq!(bhs.residual_count.get() as usize, 4096 * 512 - sent);
    assert_eq!(bhs.exp_data_sn.get() as usize, pdus.len() - 1);
    assert_eq!(response_status(&hosts[1].receive(&mut shards[1])[0]), 0);
}

#[test]
fn a_stop_that_the_owner_has_is_aborted_only_when_the_owner_has_answered() {
    let medium = medium();
    let mut shards = [shard(0, 2, &medium, 8), shard(1, 2, &medium, 8)];
    let mut hosts = shards.each_mut().map(|shard| Host::open(shard, wide()));
    let cmd_sn = hosts[1].cmd_sn;
    stop(&mut hosts[1], &mut shards[1], 1);
    hosts[1].function(
        &mut shards[1],
        2,
        TaskManagementFunction::ABORT_TASK,
        (1, cmd_sn),
    );
    assert!(hosts[1].receive(&mut shards[1]).is_empty());
    settle(&mut shards);
    let pdus = hosts[1].receive(&mut shards[1]);
    assert_eq!(pdus.len(), 1);
    assert_eq!(pdus[0].opcode(), Opcode::TASK_MANAGEMENT_RESPONSE);
}

#[test]
fn a_command_younger_than_a_reset_of_its_own_nexus_is_answered() {
    let medium = medium();
    let mut shards = [shard(0, 2, &medium, 8), shard(1, 2, &medium, 8)];
    let mut hosts = shards.each_mut().map(|shard| Host::open(shard, wide()));
    medium.borrow_mut().holds = true;
    hosts[1].write(&mut shards[1], 1, 0, 1, &[0xee; 512]);
    for (tag, function) in [
        (2, TaskManagementFunction::LOGICAL_UNIT_RESET),
        (3, TaskManagementFunction::TARGET_WARM_RESET),
    ] {
        hosts[1].function(&mut shards[1], tag, function, (NO_TAG, 0));
    }
    hosts[1].write(&mut shards[1], 4, 1, 1, &[0xdd; 512]);
    settle(&mut shards);
    medium.borrow_mut().holds = false;
    let mut pdus = hosts[1].receive(&mut shards[1]);
    settle(&mut shards);
    pdus.extend(hosts[1].receive(&mut shards[1]));
    let mut tags: Vec<u32> = pdus
        .iter()
        .map(|p| p.as_::<ScsiResponseBhs>().initiator_task_tag.get())
        .collect();
    tags.sort_unstable();
    assert_eq!(tags, [2, 3, 4]);
}

#[test]
fn a_backend_replaced_during_a_barrier_neither_loses_it_nor_what_it_has_in_flight() {
    let medium = medium();
    let mut shards = [shard(0, 2, &medium, 8), shard(1, 2, &medium, 8)];
    let mut hosts = shards.each_mut().map(|shard| Host::open(shard, wide()));
    medium.borrow_mut().holds = true;
    hosts[0].write(&mut shards[0], 1, 0, 1, &[0xee; 512]);
    let mut cdb = [0; 16];
    (cdb[0], cdb[4]) = (0x1b, 4);
    hosts[1].command(&mut shards[1], 1, FINAL, 0, cdb, &[]);
    settle(&mut shards);
    shards[0].attach_unit(UnitId(0), unit(), Box::new(Held(medium.clone(), 7, 0)));
    assert!(hosts[1].receive(&mut shards[1]).is_empty());
    medium.borrow_mut().holds = false;
    let pdus = hosts[0].receive(&mut shards[0]);
    assert_eq!(response_status(&pdus[0]), 0);
    settle(&mut shards);
    assert_eq!(response_status(&hosts[1].receive(&mut shards[1])[0]), 0);
    hosts[0].read(&mut shards[0], 2, 0, 1);
    let pdus = hosts[0].receive(&mut shards[0]);
    assert_eq!(asc(&pdus[0]), (0x04, 0x02), "the newer snapshot holds");
}
