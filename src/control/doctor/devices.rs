//! Interrupts, disks and network cards, as the kernel's files describe them.

use super::files::{Root, selected, words};

/// An interrupt of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Its number.
    pub number: u32,
    /// Who handles it.
    pub name: String,
    /// Cores it goes to now.
    pub cores: Vec<u32>,
    /// How often it came since the start.
    pub count: u64,
}

/// A disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// Like `nvme0n1`.
    pub name: String,
    /// It turns.
    pub rotational: bool,
    /// The scheduler in use, and the others there are.
    pub scheduler: (String, Vec<String>),
    /// Requests that it takes at a time.
    pub requests: u64,
    /// Completed writes may be in its volatile cache.
    pub write_back: bool,
    /// It can be polled for completions.
    pub polls: bool,
    /// Node it is near to.
    pub node: Option<u32>,
    /// Disks below it (mapped devices, arrays).
    pub below: Vec<String>,
}

impl Disk {
    /// Nothing below it but hardware: no mapped device, no file, no memory.
    pub(super) fn is_real(&self) -> bool {
        let pretends = ["loop", "zram", "ram", "sr", "fd", "dm-", "md", "nbd"];
        self.below.is_empty() && !pretends.iter().any(|kind| self.name.starts_with(kind))
    }
}

/// A network card.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// Like `eth0`.
    pub name: String,
    /// Largest packet.
    pub mtu: u64,
    /// Megabits a second, where it says.
    pub speed: Option<u64>,
    /// The link is there.
    pub is_up: bool,
    /// Node it is near to.
    pub node: Option<u32>,
    /// Its interrupts.
    pub interrupts: Vec<u32>,
}

pub(super) fn interrupts(root: &Root<'_>) -> Vec<Interrupt> {
    let text = root.text("proc/interrupts").unwrap_or_default();
    let columns = text
        .lines()
        .next()
        .map_or(0, |line| line.split_whitespace().count());
    let interrupt = |line: &str| {
        let (number, rest) = line.split_once(':')?;
        let number: u32 = number.trim().parse().ok()?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        let counts = words.iter().take(columns);
        let at = format!("proc/irq/{number}");
        let mut cores = root.cores(&format!("{at}/effective_affinity_list"));
        if cores.is_empty() {
            cores = root.cores(&format!("{at}/smp_affinity_list"));
        }
        Some(Interrupt {
            number,
            name: words.get(columns..)?.last()?.to_string(),
            cores,
            count: counts.map_while(|n| n.parse::<u64>().ok()).sum(),
        })
    };
    text.lines().skip(1).filter_map(interrupt).collect()
}

/// Disks by name.
pub(super) fn disks(root: &Root<'_>) -> Vec<Disk> {
    let names = root.names("sys/block").into_iter();
    names.map(|name| disk(root, name)).collect()
}

fn disk(root: &Root<'_>, name: String) -> Disk {
    let at = format!("sys/block/{name}");
    let queue = |file: &str| root.text(&format!("{at}/queue/{file}"));
    let schedulers = queue("scheduler").unwrap_or_default();
    let all = words(Some(schedulers.replace(['[', ']'], "")));
    Disk {
        rotational: queue("rotational").as_deref() == Some("1"),
        scheduler: (selected(&schedulers), all),
        requests: queue("nr_requests")
            .and_then(|n| n.parse().ok())
            .unwrap_or(0),
        write_back: queue("write_cache").as_deref() == Some("write back"),
        polls: queue("io_poll").as_deref() == Some("1"),
        node: root.node_of(&at),
        below: root.names(&format!("{at}/slaves")),
        name,
    }
}

/// Network cards by name; no virtual interfaces.
pub(super) fn cards(root: &Root<'_>) -> Vec<Card> {
    let names = root.names("sys/class/net").into_iter();
    let real = names.filter(|name| root.exists(&format!("sys/class/net/{name}/device")));
    real.map(|name| card(root, name)).collect()
}

fn card(root: &Root<'_>, name: String) -> Card {
    let at = format!("sys/class/net/{name}");
    let irqs = root.up(&at, "msi_irqs");
    let irqs = irqs.map(|place| Root(&place).names(""));
    Card {
        mtu: root.number(&format!("{at}/mtu")).unwrap_or(0),
        speed: root
            .number(&format!("{at}/speed"))
            .filter(|&speed| speed > 0),
        is_up: root.text(&format!("{at}/operstate")).as_deref() == Some("up"),
        node: root.node_of(&at),
        interrupts: irqs
            .unwrap_or_default()
            .iter()
            .filter_map(|number| number.parse().ok())
            .collect(),
        name,
    }
}
