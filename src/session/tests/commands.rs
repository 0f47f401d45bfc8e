//! Commands and their data.

use super::*;

#[test]
fn a_read_is_cut_into_data_in_with_status_in_the_last() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    host.read(&mut shard, 7, 16, 40);
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus.len(), 3, "{pdus:?}");
    let mut bytes = Vec::new();
    for (n, pdu) in pdus.iter().enumerate() {
        let bhs: &DataInBhs = pdu.as_();
        assert_eq!(pdu.opcode(), Opcode::DATA_IN);
        assert_eq!(bhs.data_sn.get() as usize, n);
        assert_eq!(bhs.buffer_offset.get() as usize, bytes.len());
        assert_eq!(bhs.flags, if n == 2 { FINAL | STATUS } else { 0 });
        bytes.extend_from_slice(&pdu.data);
    }
    assert_eq!(bytes, medium.borrow().bytes[16 * 512..56 * 512]);
}

#[test]
fn a_large_read_comes_in_portions_and_bursts() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    host.read(&mut shard, 7, 0, 6000);
    let pdus = host.receive(&mut shard);
    let bytes: Vec<u8> = pdus.iter().flat_map(|p| p.data.clone()).collect();
    assert_eq!(bytes, medium.borrow().bytes[..6000 * 512]);
    let last: &DataInBhs = pdus.last().unwrap().as_();
    assert_eq!(last.flags, FINAL | STATUS);
}

#[test]
fn immediate_data_is_written_in_one_exchange() {
    for cut in [1, 7, 50, usize::MAX] {
        let medium = medium();
        let mut shard = shard(0, 1, &medium, 16);
        let mut host = Host::open(&mut shard, wide());
        host.cut = cut;
        host.write(&mut shard, 9, 3, 8, &[0xab; 4096]);
        let pdus = host.receive(&mut shard);
        assert_eq!(response_status(&pdus[0]), 0);
        assert_eq!(medium.borrow().bytes[3 * 512..11 * 512], [0xab; 4096]);
        assert_ne!(medium.borrow().bytes[11 * 512], 0xab);
    }
}

#[test]
fn a_large_write_is_asked_for_by_r2t_however_it_is_cut() {
    for (piece, cut, digests) in [
        (4096, usize::MAX, false),
        (65_536, 10_000, false),
        (200_000, 70_000, true),
        (8192, 1, true),
    ] {
        let medium = medium();
        let mut shard = shard(0, 1, &medium, 16);
        let params = OperationalParams {
            header_digest: digests,
            data_digest: digests,
            ..wide()
        };
        let mut host = Host::open(&mut shard, params);
        host.cut = cut;
        let blocks = if cut == 1 { 100 } else { 5000 };
        let data = pattern(usize::from(blocks) * 512);
        host.write(&mut shard, 5, 100, blocks, &data[..8192]);
        let (response, r2ts) = feed(&host, &mut shard, 5, &data, piece);
        assert_eq!(response_status(&response), 0);
        assert!(r2ts >= 1);
        assert_eq!(medium.borrow().bytes[51_200..51_200 + data.len()], data);
        assert_eq!(medium.borrow().bytes[51_199], 99);
    }
}

#[test]
fn unsolicited_data_must_be_as_much_as_first_burst_allows() {
    let params = OperationalParams {
        initial_r2t: false,
        first_burst_length: 16_384,
        ..wide()
    };
    let data = pattern(65_536);
    for (sent, ok) in [(16_384, true), (12_288, false), (20_480, false)] {
        let medium = medium();
        let mut shard = shard(0, 1, &medium, 16);
        let mut host = Host::open(&mut shard, params);
        let cdb = cdb_10(0x2a, 0, 128);
        host.command(&mut shard, 5, WRITE, 65_536, cdb, &data[..4096]);
        host.data_out(&mut shard, 5, NO_TAG, (0, 4096), true, &data[4096..sent]);
        let (response, _) = feed(&host, &mut shard, 5, &data, 8192);
        if ok {
            assert_eq!(response_status(&response), 0);
            assert_eq!(medium.borrow().bytes[..65_536], data);
        } else {
            let ascq = if sent < 16_384 { 0x0d } else { 0x0c };
            assert_eq!(asc(&response), (0x0c, ascq));
            assert_eq!(medium.borrow().bytes[600], 1, "nothing was written");
        }
    }
}

#[test]
fn data_past_its_burst_ends_the_task_and_nothing_is_written() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    host.write(&mut shard, 5, 0, 8, &[]);
    let r2t = host.receive(&mut shard).remove(0);
    let ttt = r2t.as_::<R2tBhs>().target_transfer_tag.get();
    host.data_out(&mut shard, 5, ttt, (0, 0), true, &[1; 8192]);
    let pdus = host.receive(&mut shard);
    assert_eq!(asc(&pdus[0]), (0x0c, 0x0d));
    assert_eq!(medium.borrow().bytes[512], 1);
    // Its tag is nobody's now.
    host.data_out(&mut shard, 5, ttt, (0, 0), true, &[1; 4096]);
    assert!(host.receive(&mut shard).is_empty());
    assert_eq!(shard.counters().of(Event::StaleData), 1);
}

#[test]
fn a_missing_data_sn_is_a_crc_error_after_the_last_data() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    host.write(&mut shard, 5, 0, 8, &[]);
    let r2t = host.receive(&mut shard).remove(0);
    let ttt = r2t.as_::<R2tBhs>().target_transfer_tag.get();
    host.data_out(&mut shard, 5, ttt, (1, 2048), false, &[1; 1024]);
    assert!(
        host.receive(&mut shard).is_empty(),
        "section 7.8: wait for F"
    );
    host.data_out(&mut shard, 5, ttt, (2, 3072), true, &[1; 1024]);
    assert_eq!(asc(&host.receive(&mut shard)[0]), (0x47, 0x05));
}

#[test]
fn a_damaged_data_segment_is_rejected_and_ends_its_write() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let params = OperationalParams {
        data_digest: true,
        ..wide()
    };
    for len in [4096_usize, 65_536] {
        let mut host = Host::open(&mut shard, params);
        host.write(&mut shard, 5, 0, u16::try_from(len / 512).unwrap(), &[]);
        let r2t = host.receive(&mut shard).remove(0);
        let mut raw = [0_u8; 48];
        raw[0] = Opcode::DATA_OUT.0;
        raw[1] = FINAL;
        raw[5..8].copy_from_slice(&length_to_24(u32::try_from(len).unwrap()));
        raw[16..20].copy_from_slice(&5_u32.to_be_bytes());
        raw[20..24].copy_from_slice(&r2t.bhs[20..24]);
        let mut bytes = raw.to_vec();
        bytes.resize(48 + len, 0x55);
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        host.send_raw(&mut shard, &bytes).unwrap();
        let pdus = host.receive(&mut shard);
        assert_eq!(pdus[0].opcode(), Opcode::REJECT);
        assert_eq!(pdus[0].bhs[2], RejectReason::DATA_DIGEST_ERROR.0);
        assert_eq!(pdus[0].data[..], raw);
        assert_eq!(asc(&pdus[1]), (0x47, 0x05));
        assert_ne!(medium.borrow().bytes[512], 0x55);
    }
}

#[test]
fn residuals_compare_the_cdb_with_what_is_expected() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    for (edtl, flag, count) in [(512, 0, 0), (1024, UNDERFLOW, 512), (200, OVERFLOW, 312)] {
        let cdb = cdb_10(0x28, 0, 1);
        host.command(&mut shard, 1, FINAL | READ, edtl, cdb, &[]);
        let pdus = host.receive(&mut shard);
        let bhs: &DataInBhs = pdus[0].as_();
        assert_eq!(bhs.flags, FINAL | STATUS | flag);
        assert_eq!(bhs.residual_count.get(), count);
        assert_eq!(pdus[0].data.len(), edtl.min(512) as usize);
    }
    let cdb = cdb_10(0x28, 0, 1);
    host.command(&mut shard, 1, FINAL, 0, cdb, &[]);
    let pdus = host.receive(&mut shard);
    let bhs: &ScsiResponseBhs = pdus[0].as_();
    assert_eq!(
        (bhs.flags, bhs.residual_count.get()),
        (FINAL | OVERFLOW, 512)
    );
}

#[test]
fn a_medium_error_is_check_condition_without_data() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    medium.borrow_mut().fail_reads = true;
    host.read(&mut shard, 1, 5, 8);
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus.len(), 1);
    assert_eq!(asc(&pdus[0]), (0x11, 0));
}

#[test]
fn commands_outside_the_window_are_ignored_and_early_ones_wait() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    let first = host.cmd_sn;
    host.cmd_sn = first + 4000;
    host.read(&mut shard, 1, 0, 1);
    host.cmd_sn = first - 1;
    host.read(&mut shard, 1, 0, 1);
    assert!(host.receive(&mut shard).is_empty());
    host.cmd_sn = first + 1;
    host.write(&mut shard, 2, 0, 1, &[9; 512]);
    assert!(host.receive(&mut shard).is_empty());
    host.cmd_sn = first;
    host.read(&mut shard, 1, 0, 1);
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus.len(), 2);
    assert_eq!(pdus[0].data[0], 0, "the read came before the write");
    assert_eq!(pdus[1].as_::<ScsiResponseBhs>().exp_cmd_sn.get(), first + 2);
    assert_eq!(medium.borrow().bytes[..512], [9; 512]);
}

#[test]
fn a_tag_in_use_is_rejected_as_task_in_progress() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    host.write(&mut shard, 5, 0, 8, &[]);
    host.read(&mut shard, 5, 0, 1);
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus[1].opcode(), Opcode::REJECT);
    assert_eq!(pdus[1].bhs[2], RejectReason::TASK_IN_PROGRESS.0);
    assert_eq!(pdus[1].data.len(), 48);
}

#[test]
fn a_ping_comes_back() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let host = Host::open(&mut shard, wide());
    for len in [0_usize, 5, 128, 5000] {
        let mut bhs = [0; 48];
        bhs[0] = Opcode::NOP_OUT.0 | IMMEDIATE;
        bhs[1] = FINAL;
        bhs[16..20].copy_from_slice(&77_u32.to_be_bytes());
        bhs[20..24].fill(0xff);
        host.send(&mut shard, &bhs, &pattern(len));
        let pdus = host.receive(&mut shard);
        assert_eq!(pdus[0].opcode(), Opcode::NOP_IN);
        assert_eq!(pdus[0].data, pattern(len));
    }
}

#[test]
fn unknown_opcodes_snack_and_login_are_rejected() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let host = Host::open(&mut shard, wide());
    for (opcode, reason) in [
        (0x1f, RejectReason::COMMAND_NOT_SUPPORTED),
        (0x10, RejectReason::SNACK_REJECT),
        (0x43, RejectReason::PROTOCOL_ERROR),
        (0x25, RejectReason::COMMAND_NOT_SUPPORTED),
    ] {
        let mut bhs = [0; 48];
        bhs[0] = opcode;
        host.send(&mut shard, &bhs, &[]);
        let pdus = host.receive(&mut shard);
        assert_eq!(pdus[0].bhs[2], reason.0);
    }
}

#[test]
fn logout_waits_for_what_is_in_flight_and_then_closes() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    medium.borrow_mut().holds = true;
    host.write(&mut shard, 5, 0, 1, &[1; 512]);
    let mut bhs = [0; 48];
    bhs[0] = Opcode::LOGOUT_REQUEST.0 | IMMEDIATE;
    bhs[1] = 0x80;
    host.send(&mut shard, &bhs, &[]);
    assert!(host.receive(&mut shard).is_empty());
    medium.borrow_mut().holds = false;
    shard.poll_backends(Instant::now());
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus[0].opcode(), Opcode::LOGOUT_RESPONSE);
    assert_eq!(shard.poll_close_request(), Some(host.key));
    shard.connection_lost(host.key);
    assert_eq!(shard.poll_closed(), Some(host.key));
    assert_eq!(shard.home.pool.promised(), 0);
}

#[test]
fn a_lost_connection_drains_before_it_is_closed() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let free = shard.home.pool.free_bytes();
    let mut host = Host::open(&mut shard, wide());
    medium.borrow_mut().holds = true;
    host.write(&mut shard, 5, 0, 1, &[1; 512]);
    host.write(&mut shard, 6, 0, 1, &[]);
    shard.connection_lost(host.key);
    assert_eq!(shard.poll_closed(), None);
    medium.borrow_mut().holds = false;
    shard.poll_backends(Instant::now());
    assert_eq!(shard.poll_closed(), Some(host.key));
    assert_eq!(shard.home.pool.free_bytes(), free);
    assert_eq!(shard.home.pool.promised(), 0);
}

#[test]
fn an_ordered_task_waits_for_older_ones_and_younger_ones_for_it() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    medium.borrow_mut().holds = true;
    host.read(&mut shard, 1, 0, 1);
    let cdb = cdb_10(0x28, 0, 1);
    host.command(&mut shard, 2, FINAL | READ | 2, 512, cdb, &[]);
    host.read(&mut shard, 3, 0, 1);
    assert_eq!(medium.borrow().queue.len(), 1);
    medium.borrow_mut().holds = false;
    let tags: Vec<u32> = host
        .receive(&mut shard)
        .iter()
        .map(|p| p.as_::<DataInBhs>().initiator_task_tag.get())
        .collect();
    assert_eq!(tags, [1, 2, 3]);
}

#[test]
fn a_pool_that_is_used_up_delays_but_never_fails() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 4);
    let mut host = Host::open(&mut shard, wide());
    let window = shard.window_of(host.key);
    assert!(window > 24, "{window}");
    for tag in 0..window {
        host.read(&mut shard, tag, 0, 2048);
    }
    let pdus = host.receive(&mut shard);
    let done = pdus.iter().filter(|p| p.bhs[1] & STATUS != 0).count();
    assert_eq!(done, window as usize);
    assert!(shard.counters().of(Event::MemoryWait) > 0);
    let bytes: usize = pdus.iter().map(|p| p.data.len()).sum();
    assert_eq!(bytes, (window as usize) << 20);
}

#[test]
fn a_wrong_header_digest_ends_the_connection() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let params = OperationalParams {
        header_digest: true,
        ..wide()
    };
    let host = Host::open(&mut shard, params);
    let error = host.send_raw(&mut shard, &[0; 52]).unwrap_err();
    assert_eq!(error.name(), "header_digest");
    assert!(error.is_peers_fault());
}

#[test]
fn any_bytes_at_worst_end_the_connection() {
    let mut random = 1_u64;
    let mut dice = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for _ in 0..40 {
        let medium = medium();
        let mut shard = shard(0, 1, &medium, 8);
        let mut host = Host::open(&mut shard, wide());
        host.write(&mut shard, 5, 0, 64, &[]);
        host.receive(&mut shard);
        for _ in 0..60 {
            let mut bhs = [0_u8; 48];
            for byte in &mut bhs {
                *byte = (dice() & dice() & 0xff) as u8;
            }
            let opcodes = [
                0x00, 0x01, 0x41, 0x02, 0x42, 0x04, 0x05, 0x10, 0x40, 0x44, 0x05, 0x01,
            ];
            bhs[0] = opcodes[(dice() % 12) as usize];
            bhs[4] = 0;
            if dice() % 2 == 0 {
                bhs[16..20].copy_from_slice(&5_u32.to_be_bytes());
            }
            if dice() % 2 == 0 {
                bhs[20..24].fill(0xff);
            }
            bhs[24..28].copy_from_slice(&host.cmd_sn.to_be_bytes());
            if bhs[0] & IMMEDIATE == 0 && bhs[0] < 5 {
                host.cmd_sn += 1;
            }
            let len = [0, 0, 16, 512, 4096, 40_000][(dice() % 6) as usize];
            bhs[5..8].copy_from_slice(&length_to_24(len));
            let mut bytes = bhs.to_vec();
            bytes.resize(48 + len as usize, 3);
            if host.send_raw(&mut shard, &bytes).is_err() {
                break;
            }
            host.receive(&mut shard);
        }
        shard.connection_lost(host.key);
        assert_eq!(shard.poll_closed(), Some(host.key));
        assert_eq!(shard.home.pool.promised(), 0);
    }
}
