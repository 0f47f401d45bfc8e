//! Messages to a thread that sleeps in `mio`: no wake-up is lost, and none is paid for while it is awake.
//!
//! ```text
//!  sender                              owner
//!  put the message in the queue        asleep = true
//!  pending = true                      if pending { asleep = false; do not sleep }
//!  if asleep.swap(false) { wake }      sleep; asleep = false
//! ```
//!
//! All four accesses are sequentially consistent, so at least one side sees the other: either the owner finds
//! `pending` set and stays awake, or the sender finds `asleep` set and wakes it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};

/// The flags both sides share.
#[derive(Debug)]
struct Bell {
    pending: AtomicBool,
    asleep: AtomicBool,
    waker: mio::Waker,
}

impl Bell {
    fn ring(&self) {
        self.pending.store(true, SeqCst);
        if self.asleep.swap(false, SeqCst) {
            // It fails only when the eventfd is gone, and it lives as long as the bell.
            let _ = self.waker.wake();
        }
    }
}

/// The sending side; any thread may hold one.
#[derive(Debug)]
pub struct Mailbox<M> {
    queue: Sender<M>,
    bell: Arc<Bell>,
}

impl<M> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            bell: Arc::clone(&self.bell),
        }
    }
}

impl<M> Mailbox<M> {
    /// Sends a message and makes sure the owner will look.
    ///
    /// # Errors
    /// The message, when the owner is gone.
    pub fn send(&self, message: M) -> Result<(), M> {
        self.queue.send(message).map_err(|error| error.0)?;
        self.bell.ring();
        Ok(())
    }

    /// Makes the owner look without a message: what it polls elsewhere has something for it.
    pub fn wake(&self) {
        self.bell.ring();
    }

    /// A function that wakes the owner, and keeps nothing else of it alive.
    #[must_use]
    pub fn bell(&self) -> Arc<dyn Fn() + Send + Sync> {
        let bell = Arc::clone(&self.bell);
        Arc::new(move || bell.ring())
    }
}

/// The owner's side.
#[derive(Debug)]
pub struct Inbox<M> {
    queue: Receiver<M>,
    bell: Arc<Bell>,
}

/// A pair; the owner sleeps in the `mio::Poll` whose registry made `waker`.
#[must_use]
pub fn inbox<M>(waker: mio::Waker) -> (Mailbox<M>, Inbox<M>) {
    let (sender, queue) = channel();
    let bell = Arc::new(Bell {
        pending: AtomicBool::new(false),
        asleep: AtomicBool::new(false),
        waker,
    });
    (
        Mailbox {
            queue: sender,
            bell: Arc::clone(&bell),
        },
        Inbox { queue, bell },
    )
}

impl<M> Inbox<M> {
    /// Whether somebody called since the last time this was asked. Forgets it: look everywhere now.
    pub fn take_call(&self) -> bool {
        // A plain load first: the locked swap is only for when there is something.
        self.bell.pending.load(SeqCst) && self.bell.pending.swap(false, SeqCst)
    }

    /// The next message.
    pub fn take(&self) -> Option<M> {
        self.queue.try_recv().ok()
    }

    /// Remembers that there is more than was taken.
    pub fn call_again(&self) {
        self.bell.pending.store(true, SeqCst);
    }

    /// Sleeps by calling `poll`, unless somebody called: then `poll` may only look (`false`).
    ///
    /// # Errors
    /// What `poll` returned.
    pub fn sleep(&self, poll: impl FnOnce(bool) -> io::Result<()>) -> io::Result<()> {
        self.bell.asleep.store(true, SeqCst);
        let called = self.bell.pending.load(SeqCst);
        let result = poll(!called);
        self.bell.asleep.store(false, SeqCst);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll, Token};
    use std::time::Duration;

    fn owner() -> (Poll, Mailbox<u32>, Inbox<u32>) {
        let poll = Poll::new().expect("epoll");
        let waker = mio::Waker::new(poll.registry(), Token(0)).expect("eventfd");
        let (mailbox, inbox) = inbox(waker);
        (poll, mailbox, inbox)
    }

    /// The owner sleeps without a time-out whenever it finds nothing: a lost wake-up would hang it.
    #[test]
    fn no_wake_up_is_lost() {
        const SENDERS: u32 = 3;
        const EACH: u32 = 3_000;
        let (mut poll, mailbox, inbox) = owner();
        let threads: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let mailbox = mailbox.clone();
                std::thread::spawn(move || {
                    for n in 0..EACH {
                        mailbox.send(sender * EACH + n).expect("the owner is there");
                        if n % 7 == 0 {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut events = Events::with_capacity(8);
        let mut seen = vec![false; (SENDERS * EACH) as usize];
        let mut missing = seen.len();
        while missing > 0 {
            if inbox.take_call() {
                while let Some(n) = inbox.take() {
                    assert!(
                        !std::mem::replace(&mut seen[n as usize], true),
                        "{n} came twice"
                    );
                    missing -= 1;
                }
                continue;
            }
            let slept = inbox.sleep(|may_block| {
                let timeout = if may_block {
                    None
                } else {
                    Some(Duration::ZERO)
                };
                poll.poll(&mut events, timeout)
            });
            assert!(slept.is_ok() || slept.is_err_and(|e| e.kind() == io::ErrorKind::Interrupted));
        }
        for thread in threads {
            thread.join().expect("no panic");
        }
    }

    #[test]
    fn a_call_without_a_message_keeps_the_owner_awake() {
        let (_poll, mailbox, inbox) = owner();
        (mailbox.bell())();
        inbox
            .sleep(|may_block| {
                assert!(!may_block);
                Ok(())
            })
            .expect("did not poll");
        assert!(inbox.take_call());
        assert!(!inbox.take_call());
        assert_eq!(inbox.take(), None);
    }

    #[test]
    fn a_message_to_nobody_comes_back() {
        let (_poll, mailbox, inbox) = owner();
        drop(inbox);
        assert_eq!(mailbox.send(5), Err(5));
    }
}
