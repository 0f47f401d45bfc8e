//! An initiator with its socket: connecting, logging in, and single commands with a deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::event::{CommandDone, Event};
use super::task::{Command, Payload};
use super::{Config, Initiator};

/// How long the target may take to answer before a run is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes sent at a time, at most.
const MOST_SENT: usize = 256 * 1024;
/// Tries of TEST UNIT READY: each may end in one unit attention.
const READY_TRIES: u32 = 20;

/// Why a connection ended, or never came to be.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No TCP connection.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// The portal.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Socket(#[from] io::Error),
    /// The target closed the connection.
    #[error("the target closed the connection{0}")]
    Closed(&'static str),
    /// The target refused or broke the protocol.
    #[error(transparent)]
    Initiator(#[from] super::Error),
    /// The target says nothing any more.
    #[error("no answer for {} seconds, while waiting for {what}", PATIENCE.as_secs())]
    Silence {
        /// What was waited for.
        what: &'static str,
    },
    /// The target sent something that leaves a command unanswered.
    #[error("{0}")]
    Unexpected(String),
}

/// An initiator and its socket.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) initiator: Initiator,
    pub(super) stream: TcpStream,
}

impl Link {
    /// Connects and logs in.
    pub(super) fn open(address: SocketAddr, config: Config) -> Result<Self, LinkError> {
        let connect = || -> io::Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        let stream = connect().map_err(|error| LinkError::Connect { address, error })?;
        let initiator = Initiator::new(config);
        let mut link = Self { initiator, stream };
        link.wait("the login", " during login", |event| {
            matches!(event, Event::LoggedIn).then_some(())
        })?;
        Ok(link)
    }

    /// Receives once. `false` when there was nothing.
    pub(super) fn receive(&mut self) -> Result<bool, LinkError> {
        loop {
            match self.stream.read(self.initiator.receive_into()) {
                Ok(0) => return Err(LinkError::Closed("")),
                Ok(len) => {
                    self.initiator.handle_received(len)?;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends once, at most [`MOST_SENT`] bytes: a connection that writes much leaves others of the same thread their
    /// turns. `false` when nothing was sent.
    pub(super) fn transmit(&mut self) -> Result<bool, LinkError> {
        loop {
            let bytes = self.initiator.poll_transmit();
            if bytes.is_empty() {
                return Ok(false);
            }
            match self.stream.write(&bytes[..bytes.len().min(MOST_SENT)]) {
                Ok(len) => {
                    self.initiator.transmitted(len);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for an event that `wanted` takes; others are passed over.
    fn wait<T>(
        &mut self,
        what: &'static str,
        when: &'static str,
        mut wanted: impl FnMut(Event) -> Option<T>,
    ) -> Result<T, LinkError> {
        let start = Instant::now();
        loop {
            self.transmit()?;
            let received = self.receive().map_err(|error| match error {
                LinkError::Closed(_) => LinkError::Closed(when),
                other => other,
            })?;
            while let Some(event) = self.initiator.poll_event() {
                if let Some(value) = wanted(event) {
                    return Ok(value);
                }
            }
            if start.elapsed() > PATIENCE {
                return Err(LinkError::Silence { what });
            }
            if !received {
                std::thread::yield_now();
            }
        }
    }

    /// Runs one command to its end.
    pub(super) fn execute(
        &mut self,
        what: &'static str,
        lun: u64,
        cdb: [u8; 16],
        payload: Payload,
    ) -> Result<CommandDone, LinkError> {
        let mut command = Command::new(0, lun, cdb, payload);
        // Nothing else is outstanding: a window that is closed now would never open.
        command.immediate = self.initiator.room() == 0;
        if self.initiator.submit(command).is_err() {
            return Err(LinkError::Unexpected(format!("no tag is free for {what}")));
        }
        self.wait(what, "", |event| match event {
            Event::Command(done) => Some(Ok(done)),
            Event::Rejected { reason, .. } => Some(Err(LinkError::Unexpected(format!(
                "{what} was rejected: {reason}"
            )))),
            _ => None,
        })?
    }

    /// Waits until the logical unit is ready; unit attentions are taken note of on the way.
    pub(super) fn wait_until_ready(&mut self, lun: u64) -> Result<(), LinkError> {
        let mut last = String::new();
        for _ in 0..READY_TRIES {
            let done = self.execute("TEST UNIT READY", lun, [0; 16], Payload::None)?;
            if (done.response, done.status) == (0, 0) {
                return Ok(());
            }
            last = describe(&done);
        }
        Err(LinkError::Unexpected(format!(
            "the logical unit is not ready: {last}"
        )))
    }

    /// Asks for the number of logical blocks and the bytes in each (SBC-4, sections 5.20 and 5.21).
    pub(super) fn capacity(&mut self, lun: u64) -> Result<(u64, u32), LinkError> {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x10, 32);
        let done = self.execute("READ CAPACITY(16)", lun, cdb, Payload::Read(vec![0; 32]))?;
        if let (0, 0, Payload::Read(data)) = (done.response, done.status, &done.payload)
            && let (Some(last), Some(size)) = (data.first_chunk(), data.get(8..12))
            && done.received >= 12
        {
            let size = size.try_into().map_or(0, u32::from_be_bytes);
            return Ok((u64::from_be_bytes(*last).saturating_add(1), size));
        }
        let mut cdb = [0; 16];
        cdb[0] = 0x25;
        let done = self.execute("READ CAPACITY(10)", lun, cdb, Payload::Read(vec![0; 8]))?;
        match (done.response, done.status, done.received, &done.payload) {
            (0, 0, 8, Payload::Read(data)) => {
                let word = |at: usize| {
                    data.get(at..at + 4)?
                        .try_into()
                        .ok()
                        .map(u32::from_be_bytes)
                };
                let (last, size) = (word(0).unwrap_or(0), word(4).unwrap_or(0));
                Ok((u64::from(last) + 1, size))
            }
            _ => Err(LinkError::Unexpected(format!(
                "READ CAPACITY failed: {}",
                describe(&done)
            ))),
        }
    }

    /// Ends the session. Errors do not matter any more.
    pub(super) fn close(&mut self) {
        if self
            .initiator
            .logout(crate::pdu::code::LogoutReason::CLOSE_SESSION)
            .is_some()
        {
            let _ = self.wait("the logout", "", |event| {
                matches!(event, Event::LoggedOut { .. }).then_some(())
            });
        }
    }
}

/// How a command ended, in words.
pub(super) fn describe(done: &CommandDone) -> String {
    if done.response != 0 {
        return format!("iSCSI response {:#04x}", done.response);
    }
    let status = match done.status {
        0x00 => "GOOD",
        0x02 => "CHECK CONDITION",
        0x08 => "BUSY",
        0x18 => "RESERVATION CONFLICT",
        0x28 => "TASK SET FULL",
        0x40 => "TASK ABORTED",
        _ => "status",
    };
    let mut text = format!("{status} ({:#04x})", done.status);
    // Fixed format has the codes at 12, descriptor format at 2 (SPC-5, section 4.4).
    let codes = match done.sense.as_slice() {
        [
            0x70 | 0x71,
            _,
            key,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            asc,
            ascq,
            ..,
        ] => Some((key, asc, ascq)),
        [0x72 | 0x73, key, asc, ascq, ..] => Some((key, asc, ascq)),
        _ => None,
    };
    if let Some((key, asc, ascq)) = codes {
        text += &format!(", sense key {:X}h, code {asc:02X}h/{ascq:02X}h", key & 15);
    }
    match done.residual {
        super::Residual::None => {}
        super::Residual::Underflow(bytes) => text += &format!(", {bytes} bytes were not moved"),
        super::Residual::Overflow(bytes) => text += &format!(", {bytes} bytes had no room"),
    }
    text
}
