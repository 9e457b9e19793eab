//! Advertisements: topics that stay registered while a guard lives. One thread per client carries
//! out the actions of the [`advertisement_manager`](crate::protocol::advertise).

mod thread;

use std::fmt;
#[cfg(feature = "tokio")]
use std::future::poll_fn;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
#[cfg(feature = "tokio")]
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cortex_proto::{Hold, TopicInfo};

use self::thread::{Handle, ThreadCommand};
use crate::connection::no_answer;
use crate::error::{Error, Result};
use crate::protocol::advertise::AdvertisementId;

/// How long dropping an advertisement of a blocking client waits for the daemon's answer.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The shortest time for an answer: our daemon may probe an endpoint for up to a second before it
/// refuses a topic.
const MIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest time for an answer: the manager repeats its requests anyway.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// A change of the state of an advertised topic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The daemon has registered the topic. The notice comes again after a restart of the daemon
    /// and after trouble.
    Registered {
        /// The hold that keeps the topic registered; `None` at a daemon without holds (the Python
        /// reference), which keeps a topic until a client unregisters it.
        hold: Option<Hold>,
    },
    /// The topic is not registered. The client retries while the advertisement lives, and reports
    /// the same error once.
    Trouble(Error),
    /// A later advertisement of the same client has taken over the topic. No notice follows.
    Replaced,
}

/// Keeps a topic registered while it lives, and unregisters it when it is dropped.
///
/// [`DiscoveryClient::advertise`](crate::DiscoveryClient::advertise) makes it. Dropping an
/// advertisement of a blocking client waits for the daemon's answer for 1 s at most. It does not
/// wait when no daemon is running. In that case the client unregisters the topic when the daemon
/// comes back, provided that the client or another of its advertisements still lives or has ended
/// less than 30 s ago.
///
/// In a forked child an advertisement does nothing: the topic belongs to the parent.
#[must_use = "the topic is unregistered when this is dropped"]
pub struct Advertisement {
    id: AdvertisementId,
    info: TopicInfo,
    status: Arc<SharedStatus>,
    handle: Handle,
    /// How long dropping the advertisement waits.
    close_timeout: Duration,
    is_ended: bool,
}

impl Advertisement {
    /// The advertised topic.
    #[must_use]
    pub fn info(&self) -> &TopicInfo {
        &self.info
    }

    /// Whether the topic is registered: the daemon's last answer confirmed it, and the connection
    /// has not been lost since.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.status.lock().is_registered
    }

    /// Waits until the topic is registered, at most `timeout`. Do not call it in the callback of an
    /// advertisement of the same client: it would block the thread that registers the topic.
    ///
    /// # Errors
    /// At the timeout, the last error as in [`Notice::Trouble`], or [`Error::NoAnswer`].
    /// [`Error::Replaced`] at once.
    pub fn wait_registered(&self, timeout: Duration) -> Result<()> {
        let status = self.status.wait(timeout, |status| {
            status.is_registered || status.is_replaced || status.end.is_some()
        });
        if status.is_registered {
            return Ok(());
        }
        if status.is_replaced {
            return Err(Error::Replaced { topic: self.info.name.clone().into() });
        }
        let trouble = status.trouble.clone();
        Err(trouble.unwrap_or_else(|| no_answer(self.handle.address(), timeout, 1)))
    }

    /// Ends the advertisement like dropping it, and succeeds when the daemon no longer has this
    /// node's topic. It waits for one answer at most, and not at all when no daemon is running.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] when no daemon is running, [`Error::Refused`], [`Error::Unreadable`],
    /// [`Error::Transport`]. The client retries, as after dropping the advertisement.
    pub fn unregister(mut self) -> Result<()> {
        // The manager reports a missing answer before this timeout.
        let end = self.end(MAX_TIMEOUT);
        end.unwrap_or_else(|| Err(no_answer(self.handle.address(), self.handle.timeout(), 1)))
    }

    /// Why the topic is not registered; `None` when it is registered, and before the first answer.
    #[must_use]
    pub fn trouble(&self) -> Option<Error> {
        self.status.lock().trouble.clone()
    }

    /// Waits until the topic is registered, without a timeout, on any executor.
    ///
    /// # Errors
    /// [`Error::Replaced`]; [`Error::Thread`] when the thread has ended.
    #[cfg(feature = "tokio")]
    pub async fn registered(&self) -> Result<()> {
        let outcome = |status: &AdvertisementStatus| {
            if status.is_registered {
                return Some(Ok(()));
            }
            if status.is_replaced {
                return Some(Err(Error::Replaced { topic: self.info.name.clone().into() }));
            }
            status.end.clone()
        };
        poll_fn(|cx| self.status.poll(cx, outcome)).await
    }

    /// Like [`unregister`](Self::unregister), on any executor. Dropping the future does not keep
    /// the topic registered.
    ///
    /// # Errors
    /// Those of [`unregister`](Self::unregister).
    #[cfg(feature = "tokio")]
    pub async fn unregister_async(mut self) -> Result<()> {
        self.is_ended = true;
        if !self.handle.send_command(ThreadCommand::Remove { id: self.id }) {
            return Ok(());
        }
        poll_fn(|cx| self.status.poll(cx, |status| status.end.clone())).await
    }

    /// Withdraws the topic. `None` when the manager has not finished within `timeout`.
    fn end(&mut self, timeout: Duration) -> Option<Result<()>> {
        self.is_ended = true;
        if !self.handle.send_command(ThreadCommand::Remove { id: self.id }) {
            return Some(Ok(()));
        }
        // In a callback, on the manager's own thread, waiting would block the withdrawal.
        if self.handle.is_this_thread() {
            return Some(Ok(()));
        }
        self.status.wait(timeout, |status| status.end.is_some()).end.clone()
    }
}

impl Drop for Advertisement {
    fn drop(&mut self) {
        if !self.is_ended {
            self.end(self.close_timeout);
        }
    }
}

impl fmt::Debug for Advertisement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Advertisement")
            .field("info", &self.info)
            .field("is_registered", &self.is_registered())
            .finish_non_exhaustive()
    }
}

/// Makes advertisements, from any thread. The first one starts the manager's thread.
pub(crate) struct Advertiser {
    address: String,
    timeout: Duration,
    handle: Mutex<Option<Handle>>,
}

/// The user's callback, which runs on the manager's thread.
type Callback = Box<dyn FnMut(Notice) + Send>;

impl Advertiser {
    /// `timeout` is how long the daemon may take for an answer.
    pub(crate) fn new(address: String, timeout: Duration) -> Self {
        let timeout = timeout.clamp(MIN_TIMEOUT, MAX_TIMEOUT);
        Self { address, timeout, handle: Mutex::new(None) }
    }

    /// Advertises a topic, without waiting. Dropping the advertisement waits for `close_timeout` at
    /// most.
    pub(crate) fn advertise(
        &self,
        info: TopicInfo,
        on_notice: Option<Callback>,
        close_timeout: Duration,
    ) -> Result<Advertisement> {
        let handle = self.handle()?;
        let status = Arc::new(SharedStatus::default());
        let id = handle.new_id();
        let command =
            ThreadCommand::Add { id, info: info.clone(), status: Arc::clone(&status), on_notice };
        handle.send_command(command);
        Ok(Advertisement { id, info, status, handle, close_timeout, is_ended: false })
    }

    fn handle(&self) -> Result<Handle> {
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        match &*handle {
            Some(handle) if handle.is_running() => Ok(handle.clone()),
            _ => {
                let new = Handle::start(self.address.clone(), self.timeout)?;
                Ok(handle.insert(new).clone())
            }
        }
    }
}

/// The status of an advertisement, which the manager's thread updates.
#[derive(Debug, Default)]
struct SharedStatus {
    status: Mutex<AdvertisementStatus>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct AdvertisementStatus {
    is_registered: bool,
    is_replaced: bool,
    trouble: Option<Error>,
    /// The result of the withdrawal.
    end: Option<Result<()>>,
    /// The tasks to wake at the next change.
    wakers: Vec<Waker>,
}

impl SharedStatus {
    fn lock(&self) -> MutexGuard<'_, AdvertisementStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut AdvertisementStatus)) {
        let wakers = {
            let mut status = self.lock();
            change(&mut status);
            mem::take(&mut status.wakers)
        };
        self.changed.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ready as soon as `check` gives a value.
    #[cfg(feature = "tokio")]
    fn poll<T>(
        &self,
        cx: &Context<'_>,
        check: impl Fn(&AdvertisementStatus) -> Option<T>,
    ) -> Poll<T> {
        let mut status = self.lock();
        if let Some(found) = check(&status) {
            return Poll::Ready(found);
        }
        if !status.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            status.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until `is_wanted` is true, at most `timeout`, and gives the status at that time.
    fn wait(
        &self,
        timeout: Duration,
        is_wanted: impl Fn(&AdvertisementStatus) -> bool,
    ) -> MutexGuard<'_, AdvertisementStatus> {
        let began = Instant::now();
        let mut status = self.lock();
        loop {
            let left = timeout.saturating_sub(began.elapsed());
            if is_wanted(&status) || left.is_zero() {
                return status;
            }
            let waited = self.changed.wait_timeout(status, left);
            status = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
