//! Checks of portals, network cards and TCP.

use std::net::IpAddr;

use super::devices::Card;
use super::probe::Refusal;
use super::{Case, Outcome, list, named};
use crate::sys::socket::BACKLOG;

/// What a TCP buffer may grow to at least, in bytes: eight bursts of the usual length (256 KiB), and as much again.
const BUFFER: u64 = 4 << 20;
/// Milliseconds of the card's rate that a TCP buffer should hold.
const HELD_MS: u64 = 1;
/// Megabits a second: less, and the card is what limits.
const FAST: u64 = 10_000;
/// Bytes of a packet, from which on large transfers cost few interrupts.
const JUMBO: u64 = 9000;

/// The cards that the portals are reached through.
pub(super) fn cards<'a>(case: &'a Case<'_>) -> Vec<&'a Card> {
    let all = || case.facts.cards.iter().filter(|card| card.is_up);
    let mut used: Vec<&Card> = Vec::new();
    if case.is_general() {
        // Whatever is going to be served, it will be through the fastest.
        let fastest = all().map(|card| card.speed).max();
        used.extend(all().filter(|card| Some(card.speed) == fastest));
    }
    for ip in far_addresses(case) {
        let known = case
            .probed
            .addresses
            .iter()
            .find(|(_, address)| *address == ip);
        // A VLAN is called eth0.7.
        let is_it = |card: &&Card| {
            known.is_some_and(|(name, _)| name.split(['.', '@', ':']).next() == Some(&card.name))
        };
        match case.facts.cards.iter().find(is_it) {
            Some(card) if !ip.is_unspecified() => used.push(card),
            // All of them, a bond of some, or nobody knows.
            _ => used.extend(all()),
        }
    }
    used.sort_by(|a, b| a.name.cmp(&b.name));
    used.dedup_by(|a, b| a.name == b.name);
    used
}

/// Addresses of portals that others reach.
fn far_addresses<'a>(case: &'a Case<'_>) -> impl Iterator<Item = IpAddr> + 'a {
    let addresses = case.config.portals.iter().map(|portal| portal.address.ip());
    addresses.filter(|ip| !ip.is_loopback())
}

fn is_far(case: &Case<'_>) -> bool {
    case.is_general() || far_addresses(case).next().is_some()
}

pub(super) fn portals(case: &Case<'_>) -> Vec<Outcome> {
    let first_free = case
        .facts
        .number("net/ipv4/ip_unprivileged_port_start")
        .unwrap_or(1024);
    let portals = &case.config.portals;
    let is_twice = |index: usize, address| {
        let mut before = portals.iter().take(index);
        before.any(|other| other.address == address)
    };
    let tried = portals.iter().zip(&case.probed.portals).enumerate();
    tried
        .map(|(index, (portal, outcome))| {
            let (address, port) = (portal.address, portal.address.port());
            if port != 0 && is_twice(index, address) {
                return Outcome::wrong(format!("{address} is the address of another portal too"))
                    .advise("name it once");
            }
            match outcome {
                Ok(()) => Outcome::ok(format!("{address} is free")),
                Err(Refusal::Taken) => {
                    Outcome::wrong(format!("{address}: somebody listens there already"))
                        .run(format!("ss -ltnp 'sport = :{port}'"))
                        .advise("end that, or use another port")
                }
                Err(Refusal::Privileged) => Outcome::wrong(format!(
                    "{address}: ports below {first_free} are for privileged processes"
                ))
                .run(format!("sysctl net.ipv4.ip_unprivileged_port_start={port}"))
                .advise("or give the program the right: setcap cap_net_bind_service=+ep"),
                Err(Refusal::Nowhere) => {
                    Outcome::wrong(format!("{address}: no interface has this address"))
                        .run("ip -brief address")
                        .advise("use an address of this machine, or 0.0.0.0 for all")
                }
                Err(Refusal::Other(why)) => {
                    Outcome::wrong(format!("{address}: {why}")).advise("use another address")
                }
            }
        })
        .collect()
}

pub(super) fn backlog(case: &Case<'_>) -> Vec<Outcome> {
    let wanted = u64::try_from(BACKLOG).unwrap_or(0);
    match case.facts.number("net/core/somaxconn") {
        None => Vec::new(),
        Some(most) if most < wanted => vec![
            Outcome::better(format!(
                "{most} connections may wait to be accepted, {wanted} are wanted"
            ))
            .run("sysctl net.core.somaxconn=4096"),
        ],
        Some(most) => vec![Outcome::ok(format!(
            "{most} connections may wait to be accepted"
        ))],
    }
}

/// What a TCP buffer should be able to grow to, for the fastest card that is used.
fn wanted_buffer(case: &Case<'_>) -> u64 {
    let fastest = cards(case).iter().filter_map(|card| card.speed).max();
    // Megabits a second are 125 bytes a millisecond.
    BUFFER.max(fastest.unwrap_or(0) * 125 * HELD_MS)
}

pub(super) fn buffers(case: &Case<'_>) -> Vec<Outcome> {
    if !is_far(case) {
        return Vec::new();
    }
    let wanted = wanted_buffer(case);
    let mut outcomes = Vec::new();
    for name in ["net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem"] {
        let Some(text) = case.facts.setting(name) else {
            continue;
        };
        let sizes: Vec<u64> = text
            .split_whitespace()
            .map_while(|n| n.parse().ok())
            .collect();
        let [least, usual, most] = sizes.as_slice() else {
            continue;
        };
        let dotted = name.replace('/', ".");
        let found = format!("{dotted}: up to {} KiB for a connection", most >> 10);
        outcomes.push(if *most >= wanted {
            Outcome::ok(found)
        } else {
            let more = wanted.next_power_of_two();
            Outcome::better(format!("{found}, {} KiB are wanted", wanted >> 10))
                .run(format!("sysctl {dotted}=\"{least} {usual} {more}\""))
        });
    }
    outcomes
}

pub(super) fn options(case: &Case<'_>) -> Vec<Outcome> {
    if !is_far(case) {
        return Vec::new();
    }
    let off = ["net/ipv4/tcp_sack", "net/ipv4/tcp_window_scaling"]
        .into_iter()
        .filter(|name| case.facts.number(name) == Some(0))
        .map(|name| format!("{}=1", name.replace('/', ".")));
    let off: Vec<String> = off.collect();
    if off.is_empty() {
        return vec![Outcome::ok(
            "window scaling and selective acknowledgement are on",
        )];
    }
    let outcome = Outcome::wrong("window scaling or selective acknowledgement is off");
    vec![outcome.run(format!("sysctl {}", off.join(" ")))]
}

pub(super) fn slow_start(case: &Case<'_>) -> Vec<Outcome> {
    if !is_far(case) {
        return Vec::new();
    }
    match case.facts.number("net/ipv4/tcp_slow_start_after_idle") {
        Some(0) => vec![Outcome::ok(
            "a connection that was idle goes on at its full rate",
        )],
        Some(_) => vec![
            Outcome::better("a connection that was idle starts slowly again")
                .run("sysctl net.ipv4.tcp_slow_start_after_idle=0"),
        ],
        None => Vec::new(),
    }
}

pub(super) fn kernel_polling(case: &Case<'_>) -> Vec<Outcome> {
    match case.facts.number("net/core/busy_poll") {
        None => Vec::new(),
        Some(0) => vec![Outcome::ok("the kernel does not spin for sockets")],
        Some(us) if case.spins() => {
            vec![Outcome::ok(format!(
                "net.core.busy_poll={us}; a reactor that spins never waits there"
            ))]
        }
        Some(us) => vec![
            Outcome::better(format!(
                "net.core.busy_poll={us}: each sleep of a reactor spins first"
            ))
            .run("sysctl net.core.busy_poll=0"),
        ],
    }
}

pub(super) fn links(case: &Case<'_>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for card in cards(case) {
        let name = &card.name;
        let speed = match card.speed {
            Some(speed) if speed >= 1000 => format!("{} Gbit/s", speed / 1000),
            Some(speed) => format!("{speed} Mbit/s"),
            None => "of unknown speed".to_owned(),
        };
        let found = format!("{name}: {speed}, packets of {} bytes", card.mtu);
        outcomes.push(if !card.is_up {
            Outcome::wrong(format!("{name}: its link is down"))
                .run(format!("ip link set {name} up"))
                .advise("or its cable or switch port is to be looked at")
        } else if card.speed.is_some_and(|speed| speed < FAST) {
            Outcome::better(found).advise("the card limits: use one of 10 Gbit/s or more")
        } else if card.mtu < JUMBO && card.speed.is_some() {
            Outcome::better(found)
                .run(format!("ip link set {name} mtu {JUMBO}"))
                .advise("only where switch and initiators take such packets too")
        } else {
            Outcome::ok(found)
        });
    }
    outcomes
}

pub(super) fn card_nodes(case: &Case<'_>) -> Vec<Outcome> {
    let near = |card: &&Card| Some((card.name.clone(), card.node?));
    let cards = cards(case);
    let placed = cards.iter().filter_map(near);
    placed
        .filter_map(|(name, node)| nearness(case, &name, node))
        .collect()
}

/// Whether the reactors are near to what is on `node`; nothing where there is but one node.
pub(super) fn nearness(case: &Case<'_>, what: &str, node: u32) -> Option<Outcome> {
    let topology = &case.facts.machine.topology;
    if !topology.is_numa() || case.cores.is_empty() {
        return None;
    }
    let nodes = case.nodes();
    let far: Vec<u32> = case
        .cores
        .iter()
        .copied()
        .filter(|core| topology.core(*core).is_some_and(|core| core.node != node))
        .collect();
    if far.is_empty() {
        return Some(Outcome::ok(format!(
            "{what} is on NUMA node {node}, as all reactors are"
        )));
    }
    let distance = nodes
        .iter()
        .map(|&from| topology.distance(from, node))
        .max();
    let found = format!(
        "{what} is on NUMA node {node}, the reactors on {} are {} away (10: near)",
        named(&far),
        distance.unwrap_or(10)
    );
    let mut near: Vec<u32> = Vec::new();
    let mut physical = Vec::new();
    for core in topology.cores.iter().filter(|core| core.node == node) {
        if core.online && core.reachable && !physical.contains(&core.physical) {
            physical.push(core.physical);
            near.push(core.id);
        }
    }
    if near.is_empty() {
        return Some(Outcome::better(found).advise("move it to a slot of the reactors' package"));
    }
    let most = case.cores.len().min(near.len());
    near.truncate(most);
    Some(Outcome::better(found).advise(format!(
        "--cores {} (\"reactors\": {{\"cores\"}}), or move it to a slot of the other package",
        list(&near)
    )))
}
