//! The thread that keeps a client's topics registered, and the handle that controls it.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use cortex_proto::{TopicInfo, TopicName};
use tracing::{debug, warn};

use super::{Callback, Notice, SharedStatus};
use crate::connection::{ConnectionEvent, MonitoredSocket, WakeSource, Waker};
use crate::error::{Error, Result};
use crate::protocol::advertise::{
    AdvertisementEvent, AdvertisementId, AdvertisementManager, ManagerAction, Settings,
};
use crate::protocol::reply::Reply;

/// How long the thread runs after its last handle, while it still has topics to withdraw.
const LINGER: Duration = Duration::from_secs(30);

/// A command for the thread.
pub(super) enum ThreadCommand {
    Add {
        id: AdvertisementId,
        info: TopicInfo,
        status: Arc<SharedStatus>,
        on_notice: Option<Callback>,
    },
    Remove {
        id: AdvertisementId,
    },
}

/// A handle of the thread. The thread ends some time after its last handle.
pub(super) struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    last_id: AtomicU64,
    queue: Mutex<CommandQueue>,
    waker: Waker,
}

struct CommandQueue {
    commands: Vec<ThreadCommand>,
    handles: usize,
    thread: Option<ThreadId>,
    /// The thread has ended or is ending.
    is_over: bool,
}

impl Shared {
    /// Locks the queue. Never hold the lock while the user's code runs.
    fn queue(&self) -> MutexGuard<'_, CommandQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    pub(super) fn start(address: String, timeout: Duration) -> Result<Self> {
        let made = Waker::new();
        let (waker, wake_source) =
            made.map_err(|source| Error::Transport { address: address.clone(), source })?;
        let random = RandomState::new().hash_one(process::id());
        let session_id = format!("{}-{random:016x}", process::id());
        let settings = Settings { address, timeout, session_id };
        let queue = CommandQueue { commands: Vec::new(), handles: 1, thread: None, is_over: false };
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            last_id: AtomicU64::new(0),
            queue: Mutex::new(queue),
            waker,
        });
        let runner = Runner {
            shared: Arc::clone(&shared),
            manager: AdvertisementManager::new(settings),
            wake_source,
            socket: None,
            topics: HashMap::new(),
            unused_since: None,
        };
        let handle = Self { shared };
        let thread = thread::Builder::new()
            .name("cortex-advertise".into())
            .spawn(|| runner.run())
            .map_err(|error| Error::Thread { reason: error.kind() })?;
        handle.shared.queue().thread = Some(thread.thread().id());
        Ok(handle)
    }

    pub(super) fn address(&self) -> &str {
        &self.shared.settings.address
    }

    /// How long the daemon may take for an answer.
    pub(super) fn timeout(&self) -> Duration {
        self.shared.settings.timeout
    }

    pub(super) fn new_id(&self) -> AdvertisementId {
        self.shared.last_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether the thread is running: false in a forked child and after a panic.
    pub(super) fn is_running(&self) -> bool {
        !self.shared.waker.is_in_forked_child() && !self.shared.queue().is_over
    }

    pub(super) fn is_this_thread(&self) -> bool {
        self.shared.queue().thread == Some(thread::current().id())
    }

    /// Queues a command for the thread. `false` when the thread is not running.
    pub(super) fn send_command(&self, command: ThreadCommand) -> bool {
        if self.shared.waker.is_in_forked_child() {
            return false;
        }
        {
            let mut queue = self.shared.queue();
            if queue.is_over {
                return false;
            }
            queue.commands.push(command);
        }
        self.shared.waker.wake();
        true
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        if !self.shared.waker.is_in_forked_child() {
            self.shared.queue().handles += 1;
        }
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // In a forked child the lock may be held by a thread that was not forked.
        if self.shared.waker.is_in_forked_child() {
            return;
        }
        let is_last = {
            let mut queue = self.shared.queue();
            queue.handles -= 1;
            queue.handles == 0
        };
        if is_last {
            self.shared.waker.wake();
        }
    }
}

/// An advertised topic and its user's callback.
struct AdvertisedTopic {
    name: TopicName,
    status: Arc<SharedStatus>,
    on_notice: Option<Callback>,
}

struct Runner {
    shared: Arc<Shared>,
    manager: AdvertisementManager,
    wake_source: WakeSource,
    socket: Option<MonitoredSocket>,
    topics: HashMap<AdvertisementId, AdvertisedTopic>,
    /// When the last handle was dropped.
    unused_since: Option<Instant>,
}

impl Runner {
    fn run(mut self) {
        debug!(address = self.shared.settings.address, "advertising");
        loop {
            self.take_commands();
            let next = self.manager.next_action(Instant::now());
            self.deliver_events();
            if self.is_over() {
                return;
            }
            let done = match next {
                ManagerAction::Connect => self.connect(),
                ManagerAction::Send(request) => {
                    self.socket.as_mut().map_or(Ok(()), |socket| socket.send(&request))
                }
                ManagerAction::Wait(within) => self.wait_for_events(within),
            };
            if let Err(error) = done {
                self.socket = None;
                self.manager.failed(&error, Instant::now());
            }
        }
    }

    fn take_commands(&mut self) {
        let (commands, is_unused) = {
            let mut queue = self.shared.queue();
            (mem::take(&mut queue.commands), queue.handles == 0)
        };
        for command in commands {
            match command {
                ThreadCommand::Add { id, info, status, on_notice } => {
                    let name = info.name.clone();
                    self.topics.insert(id, AdvertisedTopic { name, status, on_notice });
                    self.manager.add(id, info, Instant::now());
                }
                ThreadCommand::Remove { id } => self.manager.remove(id),
            }
        }
        if is_unused && self.unused_since.is_none() {
            self.unused_since = Some(Instant::now());
        }
    }

    /// Whether the thread can end. After the last handle no new one can appear.
    fn is_over(&self) -> bool {
        self.unused_since.is_some_and(|since| self.manager.is_idle() || since.elapsed() >= LINGER)
    }

    fn connect(&mut self) -> Result<()> {
        // Close the old socket first, so that the client never has two of them.
        self.socket = None;
        self.socket = Some(MonitoredSocket::open(&self.shared.settings.address)?);
        Ok(())
    }

    /// Waits for events and passes them to the manager.
    fn wait_for_events(&mut self, within: Option<Duration>) -> Result<()> {
        let lingers = self.unused_since.map(|since| LINGER.saturating_sub(since.elapsed()));
        let within = [within, lingers].into_iter().flatten().min().unwrap_or(Duration::MAX);
        let Some(socket) = &mut self.socket else {
            return self.wait_for_wake(within);
        };
        socket.wait(&self.wake_source, within)?;
        while let Some(event) = socket.next_event()? {
            match event {
                ConnectionEvent::Connected => self.manager.connected(),
                ConnectionEvent::Disconnected => self.manager.lost(Instant::now()),
                ConnectionEvent::Reply(raw) => {
                    self.manager.answered(Reply::read(&raw, 1), Instant::now());
                }
            }
        }
        Ok(())
    }

    fn wait_for_wake(&self, within: Duration) -> Result<()> {
        match self.wake_source.wait(within) {
            Ok(()) | Err(zmq::Error::EINTR) => Ok(()),
            Err(source) => {
                Err(Error::Transport { address: self.shared.settings.address.clone(), source })
            }
        }
    }

    /// Passes the manager's events to the users. No lock is held while a callback runs, so the
    /// callback may end advertisements.
    fn deliver_events(&mut self) {
        for (id, event) in self.manager.take_events() {
            let Some(topic) = self.topics.get_mut(&id) else { continue };
            topic.apply(&event);
            let is_gone = matches!(event, AdvertisementEvent::Ended(_));
            if let Some(notice) = to_notice(event)
                && let Some(callback) = &mut topic.on_notice
                && catch_unwind(AssertUnwindSafe(|| callback(notice))).is_err()
            {
                warn!(topic = %topic.name, "the callback of an advertisement panicked");
                drop_callback(topic.on_notice.take());
            }
            if is_gone && let Some(topic) = self.topics.remove(&id) {
                drop_callback(topic.on_notice);
            }
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let commands = {
            let mut queue = self.shared.queue();
            queue.is_over = true;
            mem::take(&mut queue.commands)
        };
        let added = commands.into_iter().filter_map(|command| match command {
            ThreadCommand::Add { status, on_notice, .. } => Some((status, on_notice)),
            ThreadCommand::Remove { .. } => None,
        });
        let known = mem::take(&mut self.topics).into_values();
        // Advertisements are left only after a panic: end all waits for the thread.
        for (status, on_notice) in known.map(|it| (it.status, it.on_notice)).chain(added) {
            status.change(|status| {
                status.is_registered = false;
                status.end = Some(Err(Error::Thread { reason: io::ErrorKind::BrokenPipe }));
            });
            drop_callback(on_notice);
        }
    }
}

impl AdvertisedTopic {
    fn apply(&self, event: &AdvertisementEvent) {
        match event {
            AdvertisementEvent::Registered { hold } => {
                debug!(topic = %self.name, ?hold, "registered");
            }
            AdvertisementEvent::Trouble(error) => {
                warn!(topic = %self.name, %error, "not registered");
            }
            AdvertisementEvent::Unconfirmed
            | AdvertisementEvent::Replaced
            | AdvertisementEvent::Ended(_) => {}
        }
        self.status.change(|status| {
            status.is_registered = matches!(event, AdvertisementEvent::Registered { .. });
            match event {
                AdvertisementEvent::Registered { .. } => status.trouble = None,
                AdvertisementEvent::Trouble(error) => status.trouble = Some(error.clone()),
                AdvertisementEvent::Unconfirmed => {}
                AdvertisementEvent::Replaced => status.is_replaced = true,
                AdvertisementEvent::Ended(end) => status.end = Some(end.clone()),
            }
        });
    }
}

/// The notice for the user, if this event has one.
fn to_notice(event: AdvertisementEvent) -> Option<Notice> {
    match event {
        AdvertisementEvent::Registered { hold } => Some(Notice::Registered { hold }),
        AdvertisementEvent::Trouble(error) => Some(Notice::Trouble(error)),
        AdvertisementEvent::Replaced => Some(Notice::Replaced),
        AdvertisementEvent::Unconfirmed | AdvertisementEvent::Ended(_) => None,
    }
}

/// Drops a callback. Its captured values are the user's too, so dropping them may panic.
fn drop_callback(callback: Option<Callback>) {
    if catch_unwind(AssertUnwindSafe(|| drop(callback))).is_err() {
        warn!("the callback of an advertisement panicked when it was dropped");
    }
}
