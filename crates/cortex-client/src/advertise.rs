//! Topics that stay registered while their advertisement lives: the guard, and the one thread that
//! carries out what the [`advertisement_manager`](crate::advertisement_manager) says.

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
use crate::advertisement_manager::AdvertisementId;
use crate::connection::no_answer;
use crate::error::{Error, Result};

/// How long dropping an advertisement waits for the daemon to have heard of it, where it may wait.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The least time that a daemon is given for an answer: ours looks for up to a second before it
/// refuses a topic.
const MIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The most: what is asked again and again need not wait for longer.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// What has become of an advertised topic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The daemon has the topic. It is told again when it has been registered at a daemon that came
    /// back, or after trouble.
    Registered {
        /// What keeps the topic there; `None` at a daemon that knows no such thing (the Python
        /// reference), which keeps a topic until it is unregistered.
        hold: Option<Hold>,
    },
    /// The topic is not registered. It is tried again for as long as the advertisement lives; the
    /// same trouble is told once.
    Trouble(Error),
    /// A later advertisement of the same client has the topic. Nothing more is told.
    Replaced,
}

/// Keeps a topic registered while it lives, and unregisters it when it is dropped.
///
/// Made by [`DiscoveryClient::advertise`](crate::DiscoveryClient::advertise). Dropping it waits for
/// 1 s at most (not when an asynchronous client has made it), and not at all when there is no
/// daemon: then the topic is unregistered should the
/// daemon come back while the client or another advertisement of it lives, or within 30 s.
///
/// In a forked child it does nothing: the topic stays the parent's.
#[must_use = "the topic is unregistered when this is dropped"]
pub struct Advertisement {
    id: AdvertisementId,
    info: TopicInfo,
    status: Arc<SharedStatus>,
    handle: Handle,
    /// How long dropping it waits.
    close_timeout: Duration,
    is_ended: bool,
}

impl Advertisement {
    /// What is advertised.
    #[must_use]
    pub fn info(&self) -> &TopicInfo {
        &self.info
    }

    /// Whether the daemon has the topic, as far as is known: its last answer said so, and the
    /// connection has not been lost since.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.status.lock().is_registered
    }

    /// Waits until the daemon has the topic, at most `timeout`. Not for the callback of an
    /// advertisement of the same client, where it would wait in vain.
    ///
    /// # Errors
    /// When the time is over: the present trouble, as in [`Notice::Trouble`], or
    /// [`Error::NoAnswer`]. [`Error::Replaced`] at once.
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

    /// Ends the advertisement, as dropping it does, and tells whether the daemon has no such topic
    /// of this node any more. It waits for one answer at most, and not at all when there is no
    /// daemon.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] when there is no daemon, [`Error::Refused`],
    /// [`Error::Unreadable`], [`Error::Transport`]. It is tried again, as after dropping it.
    pub fn unregister(mut self) -> Result<()> {
        // The keeper tells before that there is no answer.
        let end = self.end(MAX_TIMEOUT);
        end.unwrap_or_else(|| Err(no_answer(self.handle.address(), self.handle.timeout(), 1)))
    }

    /// Why the topic is not registered, as far as is known; `None` when it is, or when nothing has
    /// been heard yet.
    #[must_use]
    pub fn trouble(&self) -> Option<Error> {
        self.status.lock().trouble.clone()
    }

    /// Waits until the daemon has the topic, however long that takes, on any executor.
    ///
    /// # Errors
    /// [`Error::Replaced`]; [`Error::Thread`] when the thread has come to an end.
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

    /// The same as [`unregister`](Self::unregister), on any executor. Dropping the future does not
    /// keep the topic.
    ///
    /// # Errors
    /// As [`unregister`](Self::unregister).
    #[cfg(feature = "tokio")]
    pub async fn unregister_async(mut self) -> Result<()> {
        self.is_ended = true;
        if !self.handle.send_command(ThreadCommand::Remove { id: self.id }) {
            return Ok(());
        }
        poll_fn(|cx| self.status.poll(cx, |status| status.end.clone())).await
    }

    /// Has the topic withdrawn. `None` when that has not come to an end within the time.
    fn end(&mut self, timeout: Duration) -> Option<Result<()>> {
        self.is_ended = true;
        if !self.handle.send_command(ThreadCommand::Remove { id: self.id }) {
            return Some(Ok(()));
        }
        // On the thread itself, in a callback, nothing would come of waiting.
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

/// Makes advertisements. It starts the thread with the first one; any number of threads may use it.
pub(crate) struct Advertiser {
    address: String,
    timeout: Duration,
    handle: Mutex<Option<Handle>>,
}

/// What is called with each notice, on the thread.
type Callback = Box<dyn FnMut(Notice) + Send>;

impl Advertiser {
    /// `timeout` is the time that the daemon has for an answer.
    pub(crate) fn new(address: String, timeout: Duration) -> Self {
        let timeout = timeout.clamp(MIN_TIMEOUT, MAX_TIMEOUT);
        Self { address, timeout, handle: Mutex::new(None) }
    }

    /// Has a topic kept registered from now on. It does not wait; dropping the advertisement waits
    /// for `close_timeout` at most.
    pub(crate) fn advertise(
        &self,
        info: TopicInfo,
        on_notice: Option<Callback>,
        close_timeout: Duration,
    ) -> Result<Advertisement> {
        let handle = self.handle()?;
        let status = Arc::new(SharedStatus::default());
        let id = handle.new_id();
        let (wanted, told) = (info.clone(), Arc::clone(&status));
        handle.send_command(ThreadCommand::Add { id, info: wanted, status: told, on_notice });
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

/// What is known of an advertisement; the thread writes it.
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
    /// How it ended.
    end: Option<Result<()>>,
    /// Who is to be woken by the next change.
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

    /// Ready as soon as `check` finds something.
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

    /// Waits until it is as wanted, at most for so long, and gives how it is then.
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
