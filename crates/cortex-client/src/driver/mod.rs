//! The driver: one thread for each client. It owns the client's connection and all of its state,
//! and carries out what the machines of [`protocol`](crate::protocol) want. All other threads have
//! a [`Handle`], which sends it commands. This is the only module that knows ZeroMQ.

mod advertisements;
mod context;
mod link;
mod oneshot;
mod resolver;
mod runner;
mod socket;
mod timers;
mod waker;

use std::future::Future;
use std::pin::Pin;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use cortex_proto::{Address, DiscoveryRequest, TopicInfo};

use self::oneshot::{Receiver, Sender};
use self::runner::{Machine, Runner};
use self::waker::ThreadWaker;
use crate::advertisement::{AdvertisementStatus, Callback, SharedStatus};
use crate::error::{ConnectError, Error, Result, SocketError};
use crate::protocol::advertise::AdvertisementId;
use crate::protocol::reply::RawReply;
use crate::protocol::request::{Query, RetryPolicy};
use crate::protocol::wait::Wait;
use crate::watch_handle::{SharedWatch, WatchOperation};

pub(crate) use self::advertisements::MAX_TIMEOUT;

/// The time of [`close`](Handle::close) for all advertisements together.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The time that dropping the last asynchronous handle takes at most, at a legacy daemon.
pub(crate) const ASYNC_DROP_TIMEOUT: Duration = Duration::from_millis(100);
/// How much longer a thread waits for the driver than the driver has: a callback may hold it up.
const GRACE: Duration = Duration::from_millis(50);

/// The settings of a client.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) address: Address,
    pub(crate) policy: RetryPolicy,
    /// The time between two queries of a legacy daemon.
    pub(crate) poll_interval: Duration,
    pub(crate) fail_fast: bool,
}

/// The kind of the client that a handle belongs to, which decides how long dropping it may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientKind {
    Blocking,
    Async,
}

/// A command for the driver.
enum Command {
    /// Start an operation.
    Start {
        id: u64,
        machine: Machine,
    },
    /// Nobody wants the result of this operation any more.
    Cancel {
        id: u64,
    },
    /// The user has taken the last reply of this watch.
    Continue {
        id: u64,
    },
    Advertise {
        id: AdvertisementId,
        info: TopicInfo,
        status: Arc<SharedStatus>,
        on_notice: Option<Callback>,
    },
    Withdraw {
        id: AdvertisementId,
    },
    /// End all advertisements, within this time, and then the thread.
    Close {
        within: Duration,
        done: Sender<()>,
    },
    Resolved(std::result::Result<Vec<std::net::SocketAddr>, ConnectError>),
    Probed(Option<ConnectError>),
}

impl Command {
    /// The driver has ended: end what the command would have started.
    fn refuse(self) {
        if let Self::Advertise { status, .. } = self {
            status.change(AdvertisementStatus::close);
        }
    }
}

/// What the handles and the driver share.
struct Shared {
    settings: Settings,
    /// The process that made the client. A forked child has no driver, and must not touch a lock:
    /// a thread that was not forked may hold it.
    process: u32,
    waker: ThreadWaker,
    queue: Mutex<Queue>,
    last_id: AtomicU64,
    handles: AtomicUsize,
    thread: OnceLock<ThreadId>,
    /// The daemon is a legacy daemon.
    is_legacy: AtomicBool,
    /// How many replies have arrived.
    replies: AtomicU64,
    /// The number of replies plus 1 when a withdrawal last got no answer in time.
    stalled_at: AtomicU64,
}

#[derive(Default)]
struct Queue {
    commands: Vec<Command>,
    /// The driver has ended or is ending.
    is_over: bool,
}

impl Shared {
    /// Locks the queue. No code of the user runs under the lock.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a command. A command for a driver that has ended is dropped, which ends its call.
    fn send(&self, command: Command) {
        if self.is_forked() {
            return;
        }
        let refused = {
            let mut queue = self.queue();
            if queue.is_over {
                Some(command)
            } else {
                queue.commands.push(command);
                None
            }
        };
        match refused {
            Some(command) => command.refuse(),
            None => self.waker.wake(),
        }
    }

    fn new_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed)
    }

    fn is_forked(&self) -> bool {
        self.process != process::id()
    }

    fn is_this_thread(&self) -> bool {
        self.thread.get() == Some(&thread::current().id())
    }

    /// Whether the last withdrawal got no answer in time, and the daemon has sent nothing since.
    fn is_stalled(&self) -> bool {
        self.stalled_at.load(Ordering::Relaxed) == self.replies.load(Ordering::Relaxed) + 1
    }
}

/// A counted handle of the driver, which ends with the last one.
pub(crate) struct Handle {
    shared: Arc<Shared>,
    kind: ClientKind,
}

impl Handle {
    /// Starts a driver. It connects in the background: the daemon may start later.
    ///
    /// # Errors
    /// [`Error::Transport`], [`Error::Thread`].
    pub(crate) fn start(settings: Settings, kind: ClientKind) -> Result<Self> {
        let (waker, wake_source) = ThreadWaker::new().map_err(|error| {
            let reason = match error.raw_os_error() {
                // EMFILE and ENFILE.
                Some(24 | 23) => SocketError::Descriptors,
                _ => SocketError::Other { reason: error.to_string() },
            };
            Error::Transport { reason }
        })?;
        let shared = Arc::new(Shared {
            settings,
            process: process::id(),
            waker,
            queue: Mutex::default(),
            last_id: AtomicU64::new(runner::FIRST_ID),
            handles: AtomicUsize::new(1),
            thread: OnceLock::new(),
            is_legacy: AtomicBool::new(false),
            replies: AtomicU64::new(0),
            stalled_at: AtomicU64::new(0),
        });
        let runner = Runner::new(Arc::clone(&shared), wake_source, Instant::now())?;
        thread::Builder::new()
            .name("cortex-client".into())
            .spawn(|| runner.run())
            .map_err(|error| Error::Thread { reason: error.kind() })?;
        Ok(Self { shared, kind })
    }

    /// The handle of a client of this kind.
    pub(crate) fn with_kind(mut self, kind: ClientKind) -> Self {
        self.kind = kind;
        self
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Whether this process is a forked child, which must not touch the client's locks.
    pub(crate) fn is_forked(&self) -> bool {
        self.shared.is_forked()
    }

    /// Fails where a thread that waits for the driver would wait for ever.
    pub(crate) fn check_may_wait(&self) -> Result<()> {
        if self.is_forked() {
            Err(Error::Forked)
        } else if self.shared.is_this_thread() {
            Err(Error::OnClientThread)
        } else {
            Ok(())
        }
    }

    /// Starts a call.
    pub(crate) fn call(&self, request: &DiscoveryRequest) -> Pending<RawReply> {
        let query = Query::call(request, self.settings().policy);
        let policy = query.policy;
        self.start_operation(|reply| Machine::Call { query: Some(query), policy, reply })
    }

    /// Starts a wait.
    pub(crate) fn wait(&self, topic: &str, timeout: Duration) -> Pending<TopicInfo> {
        let Settings { policy, poll_interval, .. } = self.settings();
        let now = Instant::now();
        let state = Wait::start(topic, timeout, *poll_interval, policy.timeout, now);
        self.start_operation(|reply| Machine::Wait { state, reply })
    }

    fn start_operation<T>(&self, machine: impl FnOnce(Sender<T>) -> Machine) -> Pending<T> {
        let (sender, receiver) = oneshot::channel();
        let id = self.shared.new_id();
        self.shared.send(Command::Start { id, machine: machine(sender) });
        Pending { shared: Arc::clone(&self.shared), id, receiver, is_done: false }
    }

    /// Starts a watch, and gives its id.
    pub(crate) fn watch(&self, watch: Arc<SharedWatch>) -> u64 {
        let id = self.shared.new_id();
        self.shared
            .send(Command::Start { id, machine: Machine::Watch(WatchOperation::new(watch)) });
        id
    }

    /// The user has taken the last reply of a watch.
    pub(crate) fn continue_watch(&self, id: u64) {
        self.shared.send(Command::Continue { id });
    }

    /// Ends a watch.
    pub(crate) fn cancel(&self, id: u64) {
        self.shared.send(Command::Cancel { id });
    }

    /// Starts an advertisement, and gives its id.
    pub(crate) fn advertise(
        &self,
        info: TopicInfo,
        status: Arc<SharedStatus>,
        on_notice: Option<Callback>,
    ) -> AdvertisementId {
        let id = self.shared.new_id();
        self.shared.send(Command::Advertise { id, info, status, on_notice });
        id
    }

    /// Ends an advertisement, which reports its end in its status.
    pub(crate) fn withdraw(&self, id: AdvertisementId) {
        self.shared.send(Command::Withdraw { id });
    }

    /// How long dropping a guard or the last handle may wait. A daemon that has not answered the
    /// last withdrawal in time is not waited for again, until it sends something.
    pub(crate) fn drop_timeout(&self) -> Duration {
        match self.kind {
            _ if self.check_may_wait().is_err() || self.shared.is_stalled() => Duration::ZERO,
            ClientKind::Blocking => CLOSE_TIMEOUT,
            ClientKind::Async if self.shared.is_legacy.load(Ordering::Relaxed) => {
                ASYNC_DROP_TIMEOUT
            }
            ClientKind::Async => Duration::ZERO,
        }
    }

    /// A withdrawal got no answer in time.
    pub(crate) fn note_stall(&self) {
        let replies = self.shared.replies.load(Ordering::Relaxed);
        self.shared.stalled_at.store(replies + 1, Ordering::Relaxed);
    }

    /// Ends all advertisements within [`CLOSE_TIMEOUT`], and then the driver.
    pub(crate) fn close(&self) -> Pending<()> {
        let (done, receiver) = oneshot::channel();
        self.shared.send(Command::Close { within: CLOSE_TIMEOUT, done });
        // Nothing to cancel.
        Pending { shared: Arc::clone(&self.shared), id: 0, receiver, is_done: true }
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        self.shared.handles.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(&self.shared), kind: self.kind }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.shared.is_forked() || self.shared.handles.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let within = self.drop_timeout();
        let closed = self.close();
        if !within.is_zero() {
            let _ = closed.receiver.wait(Some(Instant::now() + within + GRACE));
        }
    }
}

/// The result of an operation. Dropping it cancels the operation.
pub(crate) struct Pending<T> {
    shared: Arc<Shared>,
    id: u64,
    receiver: Receiver<T>,
    is_done: bool,
}

impl<T> Pending<T> {
    /// Waits for the result. Call [`Handle::check_may_wait`] before.
    pub(crate) fn wait(mut self) -> Result<T> {
        self.is_done = true;
        self.receiver.wait(None).unwrap_or(Err(Error::Closed))
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.shared.is_forked() {
            return Poll::Ready(Err(Error::Forked));
        }
        let polled = self.receiver.poll(cx);
        self.is_done |= polled.is_ready();
        polled
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        if !self.is_done {
            self.shared.send(Command::Cancel { id: self.id });
        }
    }
}
