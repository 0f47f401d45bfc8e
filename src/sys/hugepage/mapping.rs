//! Mapping memory: the kind of pages, the node, and making it present, in that order.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicUsize, Ordering};

use super::pages::{Pages, transparent};
use crate::sys::numa;

/// How to map.
#[derive(Clone, Copy, Debug)]
pub struct MapOptions {
    /// Ask for transparent huge pages where there are no reserved ones.
    pub hugepages: bool,
    /// With `hugepages`: try reserved 2 MiB pages first.
    pub reserved: bool,
    /// NUMA node to bind to before the first touch.
    pub numa_node: Option<u32>,
    /// Touch every page now, so that no page fault comes later.
    pub touch: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapReport {
    /// Bytes mapped: what was asked for, rounded up to 2 MiB.
    pub bytes: usize,
    /// Kinds of pages.
    pub pages: Pages,
    /// The node it is bound to.
    pub node: Option<u32>,
    /// What was wished for and is not so, in sentences.
    pub notes: Vec<String>,
}

/// Size and alignment of a huge page, in bytes; every mapping is a multiple of it.
pub const HUGE_PAGE: usize = 2 << 20;

/// An anonymous private mapping; unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    /// Bytes at the start that are in reserved huge pages.
    reserved: usize,
}

// SAFETY: a mapping is an address range of the process, not of a thread; `munmap` may be called anywhere.
unsafe impl Send for Mapping {}
// SAFETY: nothing can be done through `&Mapping` but ask for its place.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// First byte.
    pub(in crate::sys) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    #[must_use]
    #[allow(
        clippy::len_without_is_empty,
        reason = "a mapping is never empty: mmap refuses it"
    )]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes at the start that are in reserved huge pages. What is registered with the kernel in one piece had better not
    /// reach across.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.reserved
    }

    fn anonymous(len: usize, flags: i32) -> io::Result<NonNull<u8>> {
        // SAFETY: an anonymous private mapping at a place of the kernel's choice touches no other memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(NonNull::new(base.cast::<u8>()).expect("mmap without MAP_FIXED never returns null"))
    }

    /// Ordinary memory, aligned to a huge page by cutting a larger mapping.
    fn aligned(len: usize) -> io::Result<Self> {
        let raw = Self::anonymous(len + HUGE_PAGE, libc::MAP_NORESERVE)?;
        let lead = raw.as_ptr().align_offset(HUGE_PAGE) & (HUGE_PAGE - 1);
        // SAFETY: `lead < HUGE_PAGE`, so the result and the `len` bytes behind it are inside `raw`.
        let base = unsafe { raw.add(lead) };
        let tail = HUGE_PAGE - lead;
        // SAFETY: both ranges are page-aligned parts of the mapping just made, outside `base..base+len`.
        unsafe {
            if lead > 0 {
                libc::munmap(base.sub(lead).as_ptr().cast(), lead);
            }
            if tail > 0 {
                libc::munmap(base.add(len).as_ptr().cast(), tail);
            }
        }
        let reserved = 0;
        Ok(Self {
            base,
            len,
            reserved,
        })
    }

    /// Puts reserved huge pages at the first `reserved` bytes of ordinary memory nobody has used yet.
    fn reserve(mut self, reserved: usize) -> io::Result<Self> {
        assert!(
            reserved > 0 && reserved <= self.len && reserved.is_multiple_of(HUGE_PAGE),
            "whole huge pages inside"
        );
        // SAFETY: replaces the first bytes of our own mapping, which nobody has seen yet.
        let placed = unsafe {
            libc::mmap(
                self.base.as_ptr().cast(),
                reserved,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE
                    | libc::MAP_ANONYMOUS
                    | libc::MAP_FIXED
                    | libc::MAP_HUGETLB
                    | (21 << libc::MAP_HUGE_SHIFT),
                -1,
                0,
            )
        };
        if placed == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            // The kernel may have taken away what was there, and another thread may have mapped something since: what is
            // known to be ours goes, at most a range of addresses without memory stays.
            if reserved < self.len {
                // SAFETY: `reserved < len`.
                self.base = unsafe { self.base.add(reserved) };
                self.len -= reserved;
            } else {
                std::mem::forget(self);
            }
            return Err(error);
        }
        self.reserved = reserved;
        Ok(self)
    }

    /// Makes every page present, with several threads where the calling one may use several cores: where the
    /// pages come from does not depend on who touches them once the mapping is bound, and a virtual machine
    /// whose memory is not there yet takes seconds for a gigabyte.
    fn touch(&self) -> io::Result<()> {
        const PIECE: usize = 16 << 20;
        const THREADS: usize = 4;
        let next = AtomicUsize::new(0);
        let refused = AtomicI32::new(0);
        let work = || {
            loop {
                let start = next.fetch_add(PIECE, Ordering::Relaxed);
                if start >= self.len || refused.load(Ordering::Relaxed) != 0 {
                    return;
                }
                if let Err(error) = self.make_present(start, PIECE.min(self.len - start)) {
                    let number = error.raw_os_error().unwrap_or(libc::ENOMEM);
                    refused.store(number, Ordering::Relaxed);
                }
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 1..cores.min(THREADS).min(self.len.div_ceil(PIECE)) {
                // Without it, this thread does its share.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        match refused.into_inner() {
            0 => Ok(()),
            number => Err(io::Error::from_raw_os_error(number)),
        }
    }

    /// Makes the pages of `len` bytes from `start` present, as far as that is possible; their content stays as it is.
    ///
    /// # Panics
    /// When they are not inside.
    pub(in crate::sys) fn populate(&self, start: usize, len: usize) {
        // What is not there now is there when it is used, or nobody can have it.
        let _ = self.make_present(start, len);
    }

    fn make_present(&self, start: usize, len: usize) -> io::Result<()> {
        assert!(
            start <= self.len && len <= self.len - start,
            "inside the mapping"
        );
        // SAFETY: `start + len` is at most `self.len`.
        let first = unsafe { self.base.add(start) };
        let error = loop {
            // SAFETY: pages of our own mapping; they are made present, no content changes.
            let done =
                unsafe { libc::madvise(first.as_ptr().cast(), len, libc::MADV_POPULATE_WRITE) };
            if done == 0 {
                return Ok(());
            }
            match io::Error::last_os_error() {
                again if again.raw_os_error() == Some(libc::EINTR) => {}
                error => break error,
            }
        };
        // A reserved page that is not there is a fault nobody survives: better none of them.
        if error.raw_os_error() != Some(libc::EINVAL) || start < self.reserved {
            return Err(error);
        }
        // A kernel before 5.14: adding 0 to a byte of each page writes to it, whoever else does.
        for offset in (0..len).step_by(4096) {
            // SAFETY: `offset < len`, inside the mapping; every access that may race is atomic or the hardware's.
            let byte = unsafe { AtomicU8::from_ptr(first.add(offset).as_ptr()) };
            byte.fetch_add(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Maps at least `len` bytes, all of it in reserved huge pages where they are wished for and there are enough.
    ///
    /// # Errors
    /// As `mmap`: no memory, or a length of 0.
    pub fn new(len: usize, options: MapOptions) -> io::Result<(Self, MapReport)> {
        let pages = if options.reserved { usize::MAX } else { 0 };
        Self::with_reserved(len, pages, options)
    }

    /// Maps at least `len` bytes: first `pages` reserved huge ones (or none of them, if they are not to be had), then what
    /// [`MapOptions::hugepages`] says.
    ///
    /// # Errors
    /// As `mmap`: no memory, or a length of 0.
    pub fn with_reserved(
        len: usize,
        pages: usize,
        options: MapOptions,
    ) -> io::Result<(Self, MapReport)> {
        let bytes = len
            .checked_next_multiple_of(HUGE_PAGE)
            .filter(|&b| b > 0)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        let reserved = pages.saturating_mul(HUGE_PAGE).min(bytes);
        if options.hugepages && reserved > 0 {
            match Self::build(bytes, reserved, options) {
                Ok(made) => return Ok(made),
                Err(error) => {
                    let (mapping, mut report) = Self::build(bytes, 0, options)?;
                    let note = format!(
                        "{} reserved huge pages were not to be had ({error}): {} instead (reserve more with: \
                         sysctl vm.nr_hugepages)",
                        reserved / HUGE_PAGE,
                        report.pages
                    );
                    report.notes.push(note);
                    return Ok((mapping, report));
                }
            }
        }
        Self::build(bytes, 0, options)
    }

    fn build(bytes: usize, reserved: usize, options: MapOptions) -> io::Result<(Self, MapReport)> {
        let mut notes = Vec::new();
        let mut mapping = Self::aligned(bytes)?;
        if reserved > 0 {
            mapping = mapping.reserve(reserved)?;
        }
        let rest = bytes - reserved;
        if options.hugepages && rest > 0 {
            // SAFETY: advice about our own mapping behind the reserved part; it changes no content. Where the kernel knows
            // no such pages, the report says what there is instead.
            unsafe {
                let rest_of_it = mapping.base.add(reserved).as_ptr();
                libc::madvise(rest_of_it.cast(), rest, libc::MADV_HUGEPAGE);
            }
        }
        let mut bound = options.numa_node;
        if let Some(node) = options.numa_node {
            // SAFETY: the mapping is `bytes` long, readable (zero pages), and nobody else has it yet.
            let area = unsafe { std::slice::from_raw_parts(mapping.base.as_ptr(), bytes) };
            if let Err(why) = numa::bind_area(area, node) {
                notes.push(format!("memory is not bound to NUMA node {node}: {why}"));
                bound = None;
            }
        }
        let mut huge = 0;
        if options.touch {
            mapping.touch()?;
            let start = mapping.base.as_ptr() as usize + reserved;
            huge = transparent(start, rest).unwrap_or(0);
            if options.hugepages && huge < rest {
                notes.push(small_pages(rest - huge));
            }
        }
        let pages = Pages {
            reserved,
            transparent: huge,
            small: rest - huge,
        };
        let report = MapReport {
            bytes,
            pages,
            node: bound,
            notes,
        };
        Ok((mapping, report))
    }
}

/// Why there are pages of 4 KiB, and what would help.
fn small_pages(bytes: usize) -> String {
    const SWITCH: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    let switch = std::fs::read_to_string(SWITCH).unwrap_or_default();
    let why = if switch.contains("[never]") {
        format!("transparent huge pages are switched off (echo madvise > {SWITCH})")
    } else if switch.is_empty() {
        "this kernel has no transparent huge pages".to_owned()
    } else {
        "the kernel found no room for huge pages (echo 1 > /proc/sys/vm/compact_memory makes some)"
            .to_owned()
    };
    format!(
        "{} MiB of buffers are in 4 KiB pages: {why}",
        bytes.div_ceil(1 << 20)
    )
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that was mapped; whoever could touch it kept this value alive.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
