//! A file system of one file that hangs when it is told to: the FUSE protocol over `/dev/fuse`, as much of it as a
//! disk image needs (`include/uapi/linux/fuse.h`, version 7.31).

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

const ROOT: u64 = 1;
const NODE: u64 = 2;
const NAME: &[u8] = b"disk.img";
/// Longest read or write of one request.
const MOST: usize = 1 << 20;

const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const FORGET: u32 = 2;
const BATCH_FORGET: u32 = 42;

const ENOSYS: i32 = 38;
const ENOENT: i32 = 2;
const EINTR: i32 = 4;

/// One request that is not answered yet.
#[derive(Debug)]
struct Held {
    unique: u64,
    opcode: u32,
    body: Vec<u8>,
}

#[derive(Debug, Default)]
struct Levers {
    /// Reads, writes and flushes are held from now on.
    stalled: bool,
    /// The kernel's wish to interrupt a request is granted.
    interruptible: bool,
    held: Vec<Held>,
    /// Writes that took effect.
    writes: usize,
}

#[derive(Debug)]
struct Shared {
    device: File,
    bytes: Mutex<Vec<u8>>,
    levers: Mutex<Levers>,
}

/// The mounted file system. Dropped, it answers everything, and is unmounted when nobody uses it any more.
#[derive(Debug)]
pub struct SlowFile {
    shared: Arc<Shared>,
    place: tempfile::TempDir,
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn small(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// `struct fuse_attr` of a node.
fn attributes(node: u64, size: u64) -> Vec<u8> {
    let (mode, size) = if node == ROOT {
        (0o040_755_u32, 0)
    } else {
        (0o100_644_u32, size)
    };
    let mut out = Vec::new();
    for long in [node, size, size.div_ceil(512), 0, 0, 0] {
        out.extend(long.to_ne_bytes());
    }
    for short in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0_u32] {
        out.extend(short.to_ne_bytes());
    }
    out
}

impl Shared {
    fn answer(&self, unique: u64, error: i32, body: &[u8]) {
        let len = u32::try_from(16 + body.len()).unwrap();
        let mut out = Vec::with_capacity(16 + body.len());
        out.extend(len.to_ne_bytes());
        out.extend((-error).to_ne_bytes());
        out.extend(unique.to_ne_bytes());
        out.extend(body);
        // A request that was interrupted may be gone (ENOENT).
        let _ = (&self.device).write(&out);
    }

    /// Answers a read, write or flush, and does it.
    fn act(&self, request: &Held) {
        let Held {
            unique,
            opcode,
            body,
        } = request;
        let mut bytes = self.bytes.lock().unwrap();
        let whole = bytes.len();
        match *opcode {
            READ => {
                let at = usize::try_from(number(body, 8)).unwrap().min(whole);
                let end = (at + small(body, 16) as usize).min(whole);
                self.answer(*unique, 0, &bytes[at..end]);
            }
            WRITE => {
                let (at, len) = (usize::try_from(number(body, 8)).unwrap(), small(body, 16));
                bytes[at..at + len as usize].copy_from_slice(&body[40..40 + len as usize]);
                self.levers.lock().unwrap().writes += 1;
                self.answer(*unique, 0, &u64::from(len).to_ne_bytes());
            }
            _ => self.answer(*unique, 0, &[]),
        }
    }

    fn handle(&self, opcode: u32, unique: u64, node: u64, body: &[u8]) {
        let size = self.bytes.lock().unwrap().len() as u64;
        let valid = |len: usize| vec![0; len];
        match opcode {
            INIT => {
                let mut out = Vec::new();
                // FUSE_ASYNC_READ, FUSE_BIG_WRITES, FUSE_MAX_PAGES.
                for word in [7, 31, 0x20000, 1 | 1 << 5 | 1 << 22] {
                    out.extend(u32::to_ne_bytes(word));
                }
                // At most so many requests in the background before new ones wait.
                out.extend(u16::to_ne_bytes(512));
                out.extend(u16::to_ne_bytes(512));
                out.extend(u32::to_ne_bytes(u32::try_from(MOST).unwrap()));
                out.extend(u32::to_ne_bytes(1));
                out.extend(u16::to_ne_bytes(256));
                out.extend([0; 34]);
                self.answer(unique, 0, &out);
            }
            LOOKUP if body.strip_suffix(b"\0") == Some(NAME) => {
                let mut out = NODE.to_ne_bytes().to_vec();
                out.extend(valid(32));
                out.extend(attributes(NODE, size));
                self.answer(unique, 0, &out);
            }
            LOOKUP => self.answer(unique, ENOENT, &[]),
            GETATTR | SETATTR => {
                let mut out = valid(16);
                out.extend(attributes(node, size));
                self.answer(unique, 0, &out);
            }
            OPEN => {
                // FOPEN_DIRECT_IO: each operation comes here.
                let mut out = valid(8);
                out.extend(u64::to_ne_bytes(1));
                self.answer(unique, 0, &out);
            }
            OPENDIR => self.answer(unique, 0, &[0; 16]),
            READ | WRITE | FSYNC => {
                let request = Held {
                    unique,
                    opcode,
                    body: body.to_vec(),
                };
                let mut levers = self.levers.lock().unwrap();
                if levers.stalled {
                    levers.held.push(request);
                } else {
                    drop(levers);
                    self.act(&request);
                }
            }
            INTERRUPT => {
                let mut levers = self.levers.lock().unwrap();
                let unique = number(body, 0);
                let at = levers.held.iter().position(|held| held.unique == unique);
                if let Some(at) = at.filter(|_| levers.interruptible) {
                    levers.held.remove(at);
                    drop(levers);
                    self.answer(unique, EINTR, &[]);
                }
            }
            FORGET | BATCH_FORGET => {}
            FLUSH | RELEASE | RELEASEDIR => self.answer(unique, 0, &[]),
            _ => self.answer(unique, ENOSYS, &[]),
        }
    }

    fn serve(&self) {
        let mut request = vec![0; MOST + 4096];
        // ENODEV: it is unmounted.
        while let Ok(len) = (&self.device).read(&mut request) {
            let (head, body) = request[..len].split_at(40);
            self.handle(small(head, 4), number(head, 8), number(head, 16), body);
        }
    }
}

impl SlowFile {
    /// Mounts a file of `bytes` zeroes, or says why that cannot be done here.
    pub fn mount(bytes: usize) -> Result<Self, String> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map_err(|error| format!("/dev/fuse: {error}"))?;
        let place = tempfile::tempdir().map_err(|error| error.to_string())?;
        let duplicate = device.try_clone().map_err(|error| error.to_string())?;
        let mounted = Command::new("mount")
            .args(["-i", "-t", "fuse", "-o"])
            .arg("fd=0,rootmode=40000,user_id=0,group_id=0")
            .arg("slow")
            .arg(place.path())
            .stdin(Stdio::from(duplicate))
            .output()
            .map_err(|error| format!("mount: {error}"))?;
        if !mounted.status.success() {
            let said = String::from_utf8_lossy(&mounted.stderr);
            return Err(format!("it cannot be mounted: {}", said.trim()));
        }
        let shared = Arc::new(Shared {
            device,
            bytes: Mutex::new(vec![0; bytes]),
            levers: Mutex::default(),
        });
        let served = Arc::clone(&shared);
        std::thread::spawn(move || served.serve());
        Ok(Self { shared, place })
    }

    /// Where the file is.
    pub fn path(&self) -> PathBuf {
        self.place.path().join("disk.img")
    }

    /// From now on nothing is answered; `interruptible`: unless the kernel gives it up.
    pub fn stall(&self, interruptible: bool) {
        let mut levers = self.shared.levers.lock().unwrap();
        (levers.stalled, levers.interruptible) = (true, interruptible);
    }

    /// Requests that are held.
    pub fn held(&self) -> usize {
        self.shared.levers.lock().unwrap().held.len()
    }

    /// Writes that took effect.
    pub fn writes(&self) -> usize {
        self.shared.levers.lock().unwrap().writes
    }

    /// Answers all that is held, and everything from now on.
    pub fn release(&self) {
        let mut levers = self.shared.levers.lock().unwrap();
        levers.stalled = false;
        let held = std::mem::take(&mut levers.held);
        drop(levers);
        held.iter().for_each(|request| self.shared.act(request));
    }
}

impl Drop for SlowFile {
    fn drop(&mut self) {
        self.release();
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.place.path())
            .status();
        // Its thread ends when the last file there is closed.
    }
}
