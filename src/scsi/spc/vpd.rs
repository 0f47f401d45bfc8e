//! Vital product data pages (SPC-4 and SBC-3, "Vital product data parameters"): page code and writer, in one table.

use super::inquiry::DISK;
use crate::scsi::parameter::{Out, Source, Writer};
use crate::scsi::{Identity, LogicalUnit};

#[rustfmt::skip]
static PAGES: &[(u8, Writer)] = &[
    (0x00, |_, out|      page(out, 0x00, supported_pages)),
    (0x80, |source, out| unit_page(source, out, 0x80, serial_number)),
    (0x83, |source, out| page(out, 0x83, |out| device_identification(source, out))),
    (0x86, |source, out| unit_page(source, out, 0x86, extended_inquiry)),
    (0xb0, |source, out| unit_page(source, out, 0xb0, block_limits)),
    (0xb1, |source, out| unit_page(source, out, 0xb1, block_device_characteristics)),
    (0xb2, |source, out| unit_page(source, out, 0xb2, logical_block_provisioning)),
];

/// The writer of a page, if there is such a page.
pub(super) fn writer(code: u8) -> Option<Writer> {
    let row = PAGES.iter().find(|(page, _)| *page == code)?;
    Some(row.1)
}

/// Writes the four bytes in front of every page, and `body`.
fn page(out: &mut Out<'_>, code: u8, body: impl FnOnce(&mut Out<'_>)) {
    out.put(&[DISK, code, 0, 0]);
    body(out);
    out.patch_len_16(2, 4);
}

fn unit_page(
    source: &Source<'_>,
    out: &mut Out<'_>,
    code: u8,
    body: fn(&LogicalUnit, &mut Out<'_>),
) {
    page(out, code, |out| {
        if let Some(unit) = source.unit {
            body(unit, out);
        }
    });
}

fn supported_pages(out: &mut Out<'_>) {
    for (code, _) in PAGES {
        out.put(&[*code]);
    }
}

/// Longest serial number shown, in characters; identities keep to 36.
const SERIAL: usize = 64;

fn serial_number(unit: &LogicalUnit, out: &mut Out<'_>) {
    out.text(
        &unit.identity.serial,
        unit.identity.serial.len().min(SERIAL),
    );
}

/// Page 83h: two names of the logical unit, one of the target, and three of the target port.
fn device_identification(source: &Source<'_>, out: &mut Out<'_>) {
    const BINARY: u8 = 1;
    const ASCII: u8 = 2;
    const UTF8: u8 = 3;
    const OF_UNIT: u8 = 0x00;
    const OF_PORT: u8 = 0x90; // PIV, target port
    const OF_TARGET: u8 = 0xa0; // PIV, target device
    let port = source.port.portal_group_tag;
    if let Some(unit) = source.unit {
        let Identity {
            vendor,
            product,
            serial,
            ..
        } = &unit.identity;
        designator(out, BINARY, OF_UNIT | 0x3, |out| {
            out.put(&naa_locally_assigned(&unit.identity).to_be_bytes());
        });
        designator(out, ASCII, OF_UNIT | 0x1, |out| {
            out.text(vendor, 8);
            out.text(product, 16);
            out.text(serial, serial.len().min(SERIAL));
        });
    }
    designator(out, BINARY, OF_PORT | 0x4, |out| {
        out.put(&[0, 0]);
        out.put(&port.to_be_bytes());
    });
    designator(out, BINARY, OF_PORT | 0x5, |out| {
        out.put(&[0, 0]);
        out.put(&port.to_be_bytes());
    });
    let hex = |shift: u16| b"0123456789abcdef"[usize::from(port >> shift & 0xf)];
    let tag = [hex(12), hex(8), hex(4), hex(0)];
    name_string(out, UTF8, OF_PORT, source, &[b",t,0x", &tag]);
    name_string(out, UTF8, OF_TARGET, source, &[]);
}

/// The target's iSCSI name and what follows it, ended and padded with zeros to a multiple of four.
fn name_string(out: &mut Out<'_>, code_set: u8, of: u8, source: &Source<'_>, tail: &[&[u8]]) {
    designator(out, code_set, of | 0x8, |out| {
        let from = out.len();
        let name = source.port.target_name.as_bytes();
        out.put(&name[..name.len().min(223)]);
        for part in tail {
            out.put(part);
        }
        let len = out.len() - from;
        out.zeros(4 - len % 4);
    });
}

/// One designation descriptor: protocol iSCSI (5h) where PIV is set; `kind` is PIV, association and type.
fn designator(out: &mut Out<'_>, code_set: u8, kind: u8, body: impl FnOnce(&mut Out<'_>)) {
    let at = out.len();
    let protocol = if kind & 0x80 != 0 { 0x50 } else { 0x00 };
    out.put(&[protocol | code_set, kind, 0, 0]);
    body(out);
    out.patch_len_8(at + 3, at + 4);
}

/// NAA 3h (locally assigned): 60 bits of the FNV-1a hash of vendor, product and serial number, each ended by
/// a zero byte. The same disk has the same name after every start; NAA 6h would need an IEEE company number.
fn naa_locally_assigned(identity: &Identity) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for text in [&identity.vendor, &identity.product, &identity.serial] {
        for byte in text.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    0x3 << 60 | hash >> 4
}

/// Page 86h. No protection, no microcode, no self-test times. HEADSUP, ORDSUP,
/// SIMPSUP: the session keeps the order of task attributes. V_SUP: there is a volatile cache.
fn extended_inquiry(unit: &LogicalUnit, out: &mut Out<'_>) {
    out.put(&[0x00, 0x07, u8::from(unit.geometry.write_cache)]);
    out.zeros(0x3c - 3);
}

/// Bytes of a transfer that is neither short nor queued behind itself: OPTIMAL TRANSFER LENGTH.
const OPTIMAL_TRANSFER: u32 = 1 << 20;

/// Page B0h. Transfers have no limit, since they are done in portions (MAXIMUM TRANSFER LENGTH 0); there is no
/// COMPARE AND WRITE, UNMAP or WRITE SAME, so their limits are 0; WSNZ is set.
fn block_limits(unit: &LogicalUnit, out: &mut Out<'_>) {
    let granularity = 1u16 << unit.geometry.physical_block_exponent.min(15);
    let optimal = OPTIMAL_TRANSFER >> unit.geometry.block_size.shift();
    out.put(&[0x01, 0]);
    out.put(&granularity.to_be_bytes());
    out.put(&0u32.to_be_bytes());
    out.put(&optimal.to_be_bytes());
    out.zeros(0x3c - 12);
}

/// Page B1h: not a rotating medium.
fn block_device_characteristics(_: &LogicalUnit, out: &mut Out<'_>) {
    out.put(&[0x00, 0x01]);
    out.zeros(0x3c - 2);
}

/// Page B2h: fully provisioned, nothing can be unmapped.
fn logical_block_provisioning(_: &LogicalUnit, out: &mut Out<'_>) {
    out.zeros(4);
}

#[cfg(test)]
mod tests {
    use crate::scsi::testing::{Rig, cdb};
    use crate::scsi::{Sense, Status};

    fn page(rig: &mut Rig, code: u8) -> Vec<u8> {
        let done = rig.run(&cdb(&[0x12, 1, code, 2, 0, 0]));
        assert_eq!(done.status, Status::Good, "page {code:02x}");
        let data = done.data_in;
        assert_eq!(data[..2], [0, code]);
        assert_eq!(
            usize::from(u16::from_be_bytes([data[2], data[3]])),
            data.len() - 4
        );
        data
    }

    #[test]
    fn every_page_listed_can_be_read() {
        let mut rig = Rig::new();
        let list = page(&mut rig, 0);
        assert_eq!(list[4..], [0, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]);
        for &code in &list[4..] {
            page(&mut rig, code);
        }
    }

    #[test]
    fn other_pages_are_refused() {
        let done = Rig::new().run(&cdb(&[0x12, 1, 0xb6, 0, 255, 0]));
        assert_eq!(done.sense(), Sense::INVALID_FIELD_IN_CDB.at(2, 7));
    }

    #[test]
    fn pages_of_sbc_3_have_their_length() {
        let mut rig = Rig::new();
        assert_eq!(page(&mut rig, 0xb0).len(), 64);
        assert_eq!(page(&mut rig, 0xb0)[12..16], 2048u32.to_be_bytes());
        assert_eq!(page(&mut rig, 0xb1)[4..6], [0, 1]);
        assert_eq!(page(&mut rig, 0xb2), [0, 0xb2, 0, 4, 0, 0, 0, 0]);
        assert_eq!(page(&mut rig, 0x86)[4..7], [0, 7, 1]);
        assert_eq!(&page(&mut rig, 0x80)[4..], b"SN-1");
    }

    #[test]
    fn designators_fill_the_page_and_name_unit_port_and_target() {
        let data = page(&mut Rig::new(), 0x83);
        let (mut rest, mut kinds) = (&data[4..], Vec::new());
        while let [code_set, kind, 0, len, tail @ ..] = rest {
            let (body, next) = tail.split_at((*len).into());
            kinds.push((*code_set, *kind));
            match kind & 0xf {
                3 => assert_eq!((body.len(), body[0] >> 4), (8, 3)),
                1 => assert_eq!(&body[24..], b"SN-1"),
                4 | 5 => assert_eq!(body, [0, 0, 0, 7]),
                _ if kind & 0x30 == 0x10 => {
                    assert_eq!(body, b"iqn.2026-01.test:disk,t,0x0007\0\0");
                }
                _ => assert_eq!(body, b"iqn.2026-01.test:disk\0\0\0"),
            }
            rest = next;
        }
        assert!(rest.is_empty());
        assert_eq!(
            kinds,
            [
                (1, 3),
                (2, 1),
                (0x51, 0x94),
                (0x51, 0x95),
                (0x53, 0x98),
                (0x53, 0xa8)
            ]
        );
    }
}
