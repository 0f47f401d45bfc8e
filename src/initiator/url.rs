//! `iscsi://HOST[:PORT]/TARGET-NAME[/LUN]`: where a logical unit is.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// The port that IANA assigned to iSCSI.
const DEFAULT_PORT: u16 = 3260;
/// Highest LUN of flat space addressing (SAM-5, section 4.7.7.5).
const HIGHEST_LUN: u16 = 0x3fff;

/// A logical unit, by portal, target and number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LunUrl {
    /// Host name or address, an IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// iSCSI name of the target.
    pub target: String,
    /// Logical unit number.
    pub lun: u16,
}

impl LunUrl {
    /// The first address of the portal.
    ///
    /// # Errors
    /// When the host's name cannot be resolved.
    pub fn resolve(&self) -> std::io::Result<SocketAddr> {
        let mut addresses = (self.host.as_str(), self.port).to_socket_addrs()?;
        addresses
            .next()
            .ok_or_else(|| std::io::Error::other("the name has no address"))
    }
}

impl fmt::Display for LunUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') {
            ("[", "]")
        } else {
            ("", "")
        };
        let Self {
            host,
            port,
            target,
            lun,
        } = self;
        write!(f, "iscsi://{open}{host}{close}:{port}/{target}/{lun}")
    }
}

/// Why text is not such a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what}; the form is iscsi://HOST[:PORT]/TARGET-NAME[/LUN], for example iscsi://127.0.0.1:3260/iqn.2024-01.com.example:disk/0"
)]
pub struct UrlError {
    what: String,
}

impl FromStr for LunUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |what: String| UrlError { what };
        let rest = text
            .strip_prefix("iscsi://")
            .ok_or_else(|| wrong(format!("'{text}' does not start with iscsi://")))?;
        let mut parts = rest.trim_end_matches('/').splitn(3, '/');
        let (portal, target) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        if portal.contains('@') {
            return Err(wrong(
                "a user name and password are not supported".to_owned(),
            ));
        }
        let (host, port) = split_portal(portal).map_err(wrong)?;
        if target.is_empty() {
            return Err(wrong("the target's name is missing".to_owned()));
        }
        let lun = match parts.next() {
            None => 0,
            Some(lun) => lun
                .parse()
                .ok()
                .filter(|&lun| lun <= HIGHEST_LUN)
                .ok_or_else(|| wrong(format!("'{lun}' is not a LUN (0 to {HIGHEST_LUN})")))?,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
            target: target.to_owned(),
            lun,
        })
    }
}

fn split_portal(portal: &str) -> Result<(&str, u16), String> {
    let (host, port) = if let Some(rest) = portal.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("a '[' without ']'")?;
        (host, rest.strip_prefix(':'))
    } else {
        match portal.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address needs brackets: [::1]:3260".to_owned());
            }
            Some((host, port)) => (host, Some(port)),
            None => (portal, None),
        }
    };
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port
            .parse()
            .ok()
            .filter(|&port| port != 0)
            .ok_or_else(|| format!("'{port}' is not a port"))?,
    };
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_its_parts_and_its_defaults() {
        let url: LunUrl = "iscsi://h:3261/iqn.2024-01.com.example:a/7"
            .parse()
            .unwrap();
        assert_eq!((url.host.as_str(), url.port, url.lun), ("h", 3261, 7));
        assert_eq!(url.target, "iqn.2024-01.com.example:a");
        let url: LunUrl = "iscsi://[::1]/iqn.x/".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.lun), ("::1", 3260, 0));
        assert_eq!(url.to_string(), "iscsi://[::1]:3260/iqn.x/0");
        assert_eq!(url.to_string().parse(), Ok(url));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, what) in [
            ("http://h/iqn.x", "does not start with iscsi://"),
            ("iscsi://h", "target's name is missing"),
            ("iscsi:///iqn.x", "host is missing"),
            ("iscsi://h:0/iqn.x", "not a port"),
            ("iscsi://::1/iqn.x", "brackets"),
            ("iscsi://h/iqn.x/sda", "not a LUN"),
            ("iscsi://h/iqn.x/16384", "not a LUN"),
            ("iscsi://u%p@h/iqn.x/0", "not supported"),
        ] {
            let error = text.parse::<LunUrl>().unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
