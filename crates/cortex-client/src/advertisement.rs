//! Advertisements: topics that stay registered while a guard lives.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cortex_proto::{Hold, TopicInfo, TopicName};

use crate::driver::{Handle, MAX_TIMEOUT};
use crate::error::{Error, Result};
use crate::protocol::advertise::{AdvertisementEvent, AdvertisementId};
use crate::state_cell::StateCell;

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
    /// The topic is not registered, or not by this client: with [`Error::Superseded`] another
    /// process has taken it over. The client retries while the advertisement lives, and reports the
    /// same error once.
    Trouble(Error),
    /// A later advertisement of the same client has taken over the topic. No notice follows.
    Replaced,
}

/// Keeps a topic registered while it lives, and unregisters it when it is dropped.
///
/// [`DiscoveryClient::advertise`](crate::DiscoveryClient::advertise) makes it. It keeps the client
/// running, and its drop may wait for the daemon:
/// - of a blocking client for 1 s at most. When the daemon does not answer in that time, further
///   drops do not wait until the daemon has answered something.
/// - of an asynchronous client for 100 ms at most, and only when the daemon speaks only the legacy
///   protocol, which would keep the topic for ever. Call
///   [`close`](crate::AsyncDiscoveryClient::close) at the end of the program instead.
///
/// No drop waits when no daemon is running. Then the client unregisters the topic when the daemon
/// comes back, if the client still runs.
///
/// In a forked child an advertisement does nothing: the topic belongs to the parent.
#[must_use = "the topic is unregistered when this is dropped"]
pub struct Advertisement {
    id: AdvertisementId,
    info: TopicInfo,
    status: Arc<SharedStatus>,
    handle: Handle,
    is_ended: bool,
}

/// The user's callback, which runs on the client's thread.
pub(crate) type Callback = Box<dyn FnMut(Notice) + Send>;

impl Advertisement {
    pub(crate) fn start(
        handle: Handle,
        info: TopicInfo,
        on_notice: Option<Callback>,
    ) -> Result<Self> {
        if handle.is_forked() {
            return Err(Error::Forked);
        }
        let status = Arc::new(SharedStatus::default());
        let id = handle.advertise(info.clone(), Arc::clone(&status), on_notice);
        Ok(Self { id, info, status, handle, is_ended: false })
    }

    /// The advertised topic.
    #[must_use]
    pub fn info(&self) -> &TopicInfo {
        &self.info
    }

    /// Whether the topic is registered: the daemon's last answer confirmed it, and the connection
    /// has not been lost since. At a daemon that speaks only the legacy protocol, another process
    /// that registers the same [`TopicInfo`] looks the same as this one.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        !self.handle.is_forked() && self.status.with(|status| status.is_registered)
    }

    /// Waits until the topic is registered, at most `timeout`.
    ///
    /// # Errors
    /// At the timeout, the last error as in [`Notice::Trouble`], or [`Error::NoAnswer`]. At once:
    /// [`Error::Replaced`], [`Error::Closed`], [`Error::Forked`], and [`Error::OnClientThread`] in a
    /// callback.
    pub fn wait_registered(&self, timeout: Duration) -> Result<()> {
        self.handle.check_may_wait()?;
        // A timeout too long for an `Instant` is endless.
        let until = Instant::now().checked_add(timeout);
        let outcome = self.status.wait(until, |status| status.outcome(&self.info.name));
        outcome.unwrap_or_else(|| Err(self.trouble().unwrap_or_else(|| self.no_answer(timeout))))
    }

    /// Waits until the topic is registered, without a timeout, on any executor.
    ///
    /// # Errors
    /// [`Error::Replaced`], [`Error::Closed`], [`Error::Forked`].
    pub async fn registered(&self) -> Result<()> {
        if self.handle.is_forked() {
            return Err(Error::Forked);
        }
        poll_fn(|cx| self.status.poll(cx, |status| status.outcome(&self.info.name))).await
    }

    /// Ends the advertisement like dropping it, and succeeds when the daemon no longer has this
    /// node's topic. It waits for one answer at most, and not at all when no daemon is running.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] when no daemon is running, [`Error::Refused`], [`Error::Unreadable`],
    /// [`Error::Transport`]. The client retries, as after dropping the advertisement.
    /// [`Error::Closed`], [`Error::Forked`], [`Error::OnClientThread`].
    pub fn unregister(mut self) -> Result<()> {
        self.handle.check_may_wait()?;
        // The client reports a missing answer before this timeout.
        let end = self.end(MAX_TIMEOUT);
        end.unwrap_or_else(|| Err(self.no_answer(MAX_TIMEOUT)))
    }

    /// Like [`unregister`](Self::unregister), on any executor. Dropping the future does not keep
    /// the topic registered.
    ///
    /// # Errors
    /// Those of [`unregister`](Self::unregister).
    pub async fn unregister_async(mut self) -> Result<()> {
        if self.handle.is_forked() {
            return Err(Error::Forked);
        }
        self.end(Duration::ZERO);
        poll_fn(|cx| self.status.poll(cx, |status| status.end.clone())).await
    }

    /// Why the topic is not registered; `None` when it is registered, and before the first answer.
    #[must_use]
    pub fn trouble(&self) -> Option<Error> {
        if self.handle.is_forked() {
            Some(Error::Forked)
        } else {
            self.status.with(|status| status.trouble.clone())
        }
    }

    /// Withdraws the topic. `None` when the client has not finished within `timeout`.
    fn end(&mut self, timeout: Duration) -> Option<Result<()>> {
        self.is_ended = true;
        self.handle.withdraw(self.id);
        self.status.wait(Some(Instant::now() + timeout), |status| status.end.clone())
    }

    fn no_answer(&self, waited: Duration) -> Error {
        let address = self.handle.settings().address.as_str().to_owned();
        Error::NoAnswer { address, waited, attempts: 1, cause: None }
    }
}

impl Drop for Advertisement {
    fn drop(&mut self) {
        if self.is_ended || self.handle.is_forked() {
            return;
        }
        let timeout = self.handle.drop_timeout();
        if self.end(timeout).is_none() && !timeout.is_zero() {
            self.handle.note_stall();
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

/// The status of an advertisement, which the driver updates.
pub(crate) type SharedStatus = StateCell<AdvertisementStatus>;

#[derive(Debug, Default)]
pub(crate) struct AdvertisementStatus {
    is_registered: bool,
    is_replaced: bool,
    trouble: Option<Error>,
    /// The result of the withdrawal.
    end: Option<Result<()>>,
}

impl AdvertisementStatus {
    /// Notes an event of the advertisement.
    pub(crate) fn apply(&mut self, event: &AdvertisementEvent) {
        self.is_registered = matches!(event, AdvertisementEvent::Registered { .. });
        match event {
            AdvertisementEvent::Registered { .. } => self.trouble = None,
            AdvertisementEvent::Trouble(error) => self.trouble = Some(error.clone()),
            AdvertisementEvent::Unconfirmed => {}
            AdvertisementEvent::Replaced => self.is_replaced = true,
            AdvertisementEvent::Ended(end) => self.end = Some(end.clone()),
        }
    }

    /// The client has ended.
    pub(crate) fn close(&mut self) {
        self.apply(&AdvertisementEvent::Ended(Err(Error::Closed)));
    }

    /// Whether the topic is registered, or never will be.
    fn outcome(&self, topic: &TopicName) -> Option<Result<()>> {
        if self.is_registered {
            Some(Ok(()))
        } else if self.is_replaced {
            Some(Err(Error::Replaced { topic: topic.clone().into() }))
        } else {
            self.end.is_some().then_some(Err(Error::Closed))
        }
    }
}
