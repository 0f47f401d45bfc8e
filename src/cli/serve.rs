//! `ringtgt serve`: one disk, one command.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, FromArgMatches as _};

use super::{CommandError, running};
use crate::control::config::{Portal, Reactors, Storage, TargetConfig};
use crate::control::placement::Sqpoll;
use crate::control::{
    BackendKind, Config, Facts, LunFacts, PollPolicy, cores, names, portal, size,
};
use crate::units::BlockSize;

/// Arguments of `serve`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArguments {
    /// File or block device; for the backends ram and null only a name
    path: PathBuf,
    #[command(flatten)]
    options: ServeOptions,
}

/// What `serve` is told besides the path; `doctor` takes it too.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct ServeOptions {
    /// Size, like 512M or 10G: needed to create a file and for ram; an existing PATH keeps its size
    #[arg(long, value_parser = size::parse)]
    size: Option<u64>,
    /// Address to listen on, ADDR[:PORT], IPv6 in brackets; may be given several times [default: 127.0.0.1:3260]
    #[arg(long = "portal", value_name = "ADDR:PORT", value_parser = |text: &str| portal::parse(text, portal::ISCSI_PORT))]
    portals: Vec<SocketAddr>,
    /// Target name [default: iqn.2026-11.io.ringtgt: and the file's name]
    #[arg(long, value_name = "NAME", value_parser = names::normalize)]
    iqn: Option<String>,
    /// What stores the blocks: iouring, file, ram or null
    #[arg(long, default_value = "iouring")]
    backend: BackendKind,
    /// Bytes per logical block
    #[arg(long, value_name = "512|4096", default_value = "512", value_parser = block_size)]
    block_size: BlockSize,
    /// Take no writes
    #[arg(long)]
    read_only: bool,
    /// Bypass the page cache (O_DIRECT); refused where the file system cannot, or needs larger blocks
    #[arg(long)]
    direct: bool,
    /// Cores to run on, like 2 or 0,2 or 2-5 [default: isolated cores, else all but one]
    #[arg(long, value_name = "LIST", value_parser = CoreList::parse)]
    cores: Option<CoreList>,
    /// How to wait: busy spins, event sleeps, adaptive spins a moment and then sleeps
    #[arg(long, default_value = "adaptive")]
    poll: PollPolicy,
    /// Let a kernel thread take operations from each ring: yes needs a core to spare for each, force does not
    #[arg(long, value_name = "no|yes|force", default_value = "no")]
    sqpoll: Sqpoll,
    /// Log level: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log: String,
}

/// A list of cores as one argument.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CoreList(Vec<u32>);

impl CoreList {
    fn parse(text: &str) -> Result<Self, String> {
        cores::parse(text).map(Self)
    }
}

const EXAMPLES: &str = "\
Examples:
  ringtgt serve disk.img --size 1G
  ringtgt serve disk.img --portal 192.0.2.10 --portal [2001:db8::10]:3260
  ringtgt serve /dev/nvme0n1 --block-size 4096 --cores 2-5 --poll busy
  ringtgt serve golden.img --read-only --iqn iqn.2026-11.com.example:golden
  ringtgt serve bench --backend null --size 1T

There is no authentication yet: whoever reaches a portal may read and write. Ctrl-C finishes, flushes and ends.";

fn block_size(text: &str) -> Result<BlockSize, String> {
    text.parse()
        .ok()
        .and_then(BlockSize::new)
        .ok_or_else(|| "it is 512 or 4096".to_owned())
}

/// Serves until a signal.
///
/// # Errors
/// When nothing can be served, or not everything was saved at the end.
pub fn run(arguments: &ServeArguments) -> Result<(), CommandError> {
    running::start_log(&arguments.options.log)?;
    running::run(
        &arguments.options.config(&arguments.path),
        |facts| print(&budget(facts)),
        |facts| print(&announcement(facts, arguments.options.portals.is_empty())),
    )
}

/// Nobody may be reading; serving goes on.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// What every reactor got, before anybody is let in.
fn budget(facts: &Facts) -> String {
    let mut text = String::new();
    for (index, reactor) in facts.reactors.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "reactor {index:<2} {reactor}");
    }
    let _ = writeln!(text, "memory     {}", facts.budget());
    text
}

impl Default for ServeOptions {
    /// When nothing is said.
    fn default() -> Self {
        let matches = Self::augment_args(clap::Command::new("serve")).get_matches_from([""]);
        Self::from_arg_matches(&matches).expect("no option is required")
    }
}

impl ServeOptions {
    /// The configuration that serves `path` so.
    pub(super) fn config(&self, path: &Path) -> Config {
        let mut portals = self.portals.clone();
        if portals.is_empty() {
            portals.push(portal::DEFAULT_PORTAL);
        }
        let portals: Vec<Portal> = (0..)
            .zip(portals)
            .map(|(id, address)| Portal { id, address })
            .collect();
        let storage = Storage {
            size: self.size,
            block_size: self.block_size,
            read_only: self.read_only,
            direct: self.direct.then_some(true),
            ..Storage::new(0, self.backend, path.to_path_buf())
        };
        let target = TargetConfig {
            name: self.iqn.clone().unwrap_or_else(|| names::default_iqn(path)),
            portal_groups: vec![(1, portals.iter().map(|portal| portal.id).collect())],
            luns: vec![(0, 0)],
        };
        Config {
            storages: vec![storage],
            portals,
            targets: vec![target],
            reactors: Reactors {
                cores: self.cores.clone().map(|list| list.0),
                poll: self.poll,
                sqpoll: self.sqpoll,
                ..Reactors::default()
            },
            ..Config::default()
        }
    }
}

/// What is served, and lines to paste.
fn announcement(facts: &Facts, default_portal: bool) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = describe(&mut text, facts);
    if default_portal {
        text.push_str("Only this machine can connect; --portal 0.0.0.0 opens it to the network (without authentication).\n");
    }
    text.push_str("ready\n");
    text
}

fn describe(text: &mut String, facts: &Facts) -> std::fmt::Result {
    for note in &facts.notes {
        writeln!(text, "note       {note}")?;
    }
    for target in &facts.targets {
        writeln!(text, "target     {}", target.name)?;
        for portal in &target.portals {
            writeln!(text, "portal     {portal}")?;
        }
        for lun in &target.luns {
            writeln!(text, "LUN {:<6} {}", lun.lun, describe_lun(lun))?;
        }
    }
    writeln!(text, "poll       {}", facts.poll)?;
    writeln!(text, "cores      {}", cores::show(&facts.cores))?;
    let Some((target, portal)) = facts
        .targets
        .first()
        .and_then(|t| Some((t, reachable(*t.portals.first()?))))
    else {
        return Ok(());
    };
    let (name, lun) = (&target.name, target.luns.first().map_or(0, |lun| lun.lun));
    writeln!(text, "\nConnect with the Linux initiator:")?;
    writeln!(text, "  iscsiadm -m discovery -t sendtargets -p {portal}")?;
    writeln!(text, "  iscsiadm -m node -T {name} -p {portal} --login")?;
    writeln!(text, "with libiscsi:")?;
    writeln!(text, "  iscsi-ls -s iscsi://{portal}")?;
    writeln!(text, "  iscsi-inq iscsi://{portal}/{name}/{lun}")?;
    writeln!(text, "with qemu:")?;
    writeln!(
        text,
        "  qemu-system-x86_64 -drive file=iscsi://{portal}/{name}/{lun},format=raw,if=virtio"
    )?;
    writeln!(text, "  qemu-img info iscsi://{portal}/{name}/{lun}\n")
}

fn describe_lun(lun: &LunFacts) -> String {
    let read_only = if lun.read_only { ", read-only" } else { "" };
    format!(
        "{}, {}, blocks of {} bytes{read_only}",
        lun.medium,
        size::show(lun.bytes),
        lun.block_size
    )
}

/// An address to connect to: a wildcard is reached through loopback from here.
fn reachable(portal: SocketAddr) -> SocketAddr {
    let ip = match portal.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        _ => return portal,
    };
    SocketAddr::new(ip, portal.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::TargetFacts;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArguments,
    }

    fn parse(line: &str) -> Result<ServeArguments, clap::Error> {
        Line::try_parse_from(std::iter::once("serve").chain(line.split_whitespace()))
            .map(|line| line.serve)
    }

    #[test]
    fn the_short_line_serves_lun_0_on_loopback() {
        let config = parse("/srv/disk.img --size 1G").expect("good");
        let config = config.options.config(&config.path);
        assert_eq!(config.storages[0].size, Some(1 << 30));
        assert_eq!(config.storages[0].kind, BackendKind::IoUring);
        assert_eq!(config.portals[0].address.to_string(), "127.0.0.1:3260");
        assert_eq!(config.targets[0].name, "iqn.2026-11.io.ringtgt:disk");
        assert_eq!(config.targets[0].luns, [(0, 0)]);
        assert_eq!(config.storages[0].direct, None);
        assert_eq!(config.reactors.poll, PollPolicy::Adaptive);
    }

    #[test]
    fn every_option_is_taken() {
        let line = "x --portal 10.0.0.1 --portal [::1]:3261 --iqn IQN.2024-01.com.X:y --backend ram --block-size 4096 \
            --read-only --cores 0,2 --poll busy --size 1M --sqpoll yes --direct";
        let config = parse(line).expect("good");
        let config = config.options.config(&config.path);
        let addresses: Vec<_> = config
            .portals
            .iter()
            .map(|p| p.address.to_string())
            .collect();
        assert_eq!(addresses, ["10.0.0.1:3260", "[::1]:3261"]);
        assert_eq!(config.targets[0].portal_groups, [(1, vec![0, 1])]);
        assert_eq!(config.targets[0].name, "iqn.2024-01.com.x:y");
        assert_eq!(config.storages[0].block_size, BlockSize::B4096);
        assert!(config.storages[0].read_only);
        assert_eq!(config.storages[0].direct, Some(true));
        assert_eq!(config.reactors.cores, Some(vec![0, 2]));
        assert_eq!(config.reactors.poll, PollPolicy::Busy);
        assert_eq!(config.reactors.sqpoll, Sqpoll::Yes);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            "",
            "x --size 1Q",
            "x --portal nowhere",
            "x --iqn disk",
            "x --backend rbd",
            "x --block-size 1024",
            "x --cores a",
            "x --poll often",
            "x --sqpoll maybe",
            "x --frobnicate",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_announcement_has_lines_to_paste_and_ends_with_ready() {
        let portal: SocketAddr = "[::]:3260".parse().expect("an address");
        let facts = Facts {
            targets: vec![TargetFacts {
                name: "iqn.2024-01.com.x:y".to_owned(),
                portals: vec![portal],
                luns: vec![LunFacts {
                    lun: 0,
                    medium: "ram:x".to_owned(),
                    bytes: 1 << 30,
                    block_size: 512,
                    read_only: true,
                }],
            }],
            portals: vec![portal],
            cores: vec![0, 1],
            reactors: Vec::new(),
            ram: 1 << 30,
            sessions: 1024,
            poll: PollPolicy::Adaptive,
            notes: vec!["no huge pages".to_owned()],
        };
        let text = announcement(&facts, false);
        for want in [
            "note       no huge pages\n",
            "target     iqn.2024-01.com.x:y\n",
            "portal     [::]:3260\n",
            "LUN 0      ram:x, 1 GiB, blocks of 512 bytes, read-only\n",
            "cores      0-1\n",
            "  iscsiadm -m discovery -t sendtargets -p [::1]:3260\n",
            "  iscsiadm -m node -T iqn.2024-01.com.x:y -p [::1]:3260 --login\n",
            "  iscsi-ls -s iscsi://[::1]:3260\n",
            "iscsi://[::1]:3260/iqn.2024-01.com.x:y/0",
        ] {
            assert!(text.contains(want), "{want}\n{text}");
        }
        assert_eq!(
            budget(&facts),
            "memory     0 MiB of buffers in all, allocated, + 1024 MiB of ram media; at most 1024 sessions\n"
        );
        assert!(text.ends_with("\nready\n"));
        assert!(announcement(&facts, true).contains("--portal 0.0.0.0"));
    }
}
