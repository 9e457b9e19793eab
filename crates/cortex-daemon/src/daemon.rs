//! The life of a daemon: it binds its addresses, restores its topics, serves, and stops.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use cortex_proto::{ListenAddress, ListenTarget};

use crate::config::Config;
use crate::edge::clock::now;
use crate::edge::listener::Listener;
use crate::edge::processes::host;
use crate::edge::stop::StopHandle;
use crate::error::{BindError, RunError};
use crate::event_loop::{EventLoop, Phase};
use crate::startup::{Restored, restore};

/// How long the daemon waits at a start for silent endpoints.
const RESTORE_TIMEOUT: Duration = Duration::from_millis(250);
/// How long the daemon may take at the end to answer the requests that it has read.
const LAST_REQUESTS: Duration = Duration::from_millis(60);
/// How long peers have at the end to take their last replies.
const LAST_REPLIES: Duration = Duration::from_millis(40);

/// A discovery daemon that is listening.
///
/// ```no_run
/// use cortex_daemon::{Config, DiscoveryDaemon};
///
/// let daemon = DiscoveryDaemon::bind(&Config::at("ipc:///tmp/demo/discovery.sock".parse()?))?;
/// let stop = daemon.stop_handle();
/// let running = std::thread::spawn(move || daemon.run());
/// stop.stop();
/// running.join().expect("the daemon does not panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DiscoveryDaemon {
    event_loop: EventLoop,
    stop_handle: StopHandle,
}

impl DiscoveryDaemon {
    /// Listens at all addresses of `config`, and restores the stored topics. The daemon answers
    /// no request before [`run`](Self::run).
    ///
    /// # Errors
    /// When the daemon cannot have an address or the state. Then it has released everything.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        Self::bind_with(config, StopHandle::new()?)
    }

    /// As [`bind`](Self::bind), with a handle that exists already: its holder, such as a signal
    /// handler, can stop the daemon from the first moment on.
    ///
    /// # Errors
    /// As `bind`.
    pub fn bind_with(config: &Config, stop_handle: StopHandle) -> Result<Self, BindError> {
        let stop = stop_handle.clone();
        match Self::bind_until_stopped(config, stop_handle) {
            Err(_) if stop.is_requested_within(Duration::ZERO) => Err(BindError::Stopped),
            bound => bound,
        }
    }

    fn bind_until_stopped(config: &Config, stop_handle: StopHandle) -> Result<Self, BindError> {
        if config.addresses.is_empty() {
            return Err(BindError::NoAddress);
        }
        // The socket's lock comes first: it also protects the state.
        let mut listeners = Vec::new();
        for (index, address) in config.addresses.iter().enumerate() {
            if !config.addresses[..index].contains(address) {
                listeners.push(Listener::bind(address, config.socket_mode, &stop_handle)?);
            }
        }
        let host = host();
        let Restored { store, path, registry, dropped } = restore(config, &host, &stop_handle)?;
        for listener in &listeners {
            tracing::info!(address = %listener.address(), "listening");
            warn_if_exposed(listener.address());
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            pid = std::process::id(),
            state = %path.as_deref().unwrap_or(Path::new("in memory")).display(),
            restored = registry.topic_count(),
            dropped,
            "started"
        );
        let state = (store, path, host);
        let event_loop = EventLoop::new(listeners, registry, state, config, &stop_handle)?;
        Ok(Self { event_loop, stop_handle })
    }

    /// The addresses at which the daemon listens; instead of a port 0 the port that the system chose.
    pub fn addresses(&self) -> impl Iterator<Item = &ListenAddress> {
        self.event_loop.listeners.iter().map(Listener::address)
    }

    /// A handle that stops the daemon from any thread.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.stop_handle.clone()
    }

    /// Serves until SHUTDOWN or [`StopHandle::stop`]. Then the daemon accepts no more connections,
    /// gives peers 40 ms to take their last replies, closes the state file, and removes its socket
    /// files.
    ///
    /// # Errors
    /// When the daemon cannot serve any more.
    pub fn run(mut self) -> Result<(), RunError> {
        let end = self.serve();
        self.finish()?;
        end
    }

    fn serve(&mut self) -> Result<(), RunError> {
        let mut flow = self.restore_liveness()?;
        while flow.is_continue() {
            let wake_up = self.event_loop.next_wake_up(now());
            flow = self.event_loop.round(Phase::Serving, wake_up)?;
        }
        Ok(())
    }

    /// Finds out which owners of restored topics still live. Only silent endpoints may make the
    /// daemon wait, and not for long.
    fn restore_liveness(&mut self) -> Result<ControlFlow<()>, RunError> {
        let end = now() + RESTORE_TIMEOUT;
        let event_loop = &mut self.event_loop;
        let mut flow = event_loop.round(Phase::Restoring, now())?;
        while flow.is_continue() {
            let is_waiting = event_loop.has_no_input();
            if is_waiting && !event_loop.registry.is_probing() {
                break;
            }
            if is_waiting && now() >= end {
                tracing::info!("some endpoints are silent so far: their topics stay for now");
                break;
            }
            let wake_up = if is_waiting { end } else { now() };
            flow = event_loop.round(Phase::Restoring, wake_up)?;
        }
        tracing::info!(topics = event_loop.registry.topic_count(), "serving");
        Ok(flow)
    }

    /// Answers every request that waits or has arrived, and gives peers a moment to take their last
    /// replies. Then releases everything that the next daemon needs: the state file first, the
    /// socket files last, so that a daemon that finds no socket file can start.
    fn finish(mut self) -> Result<(), RunError> {
        let listeners = std::mem::take(&mut self.event_loop.listeners);
        let socket_files: Vec<_> = listeners.into_iter().filter_map(Listener::close).collect();
        let answered = self.answer_last_requests();
        self.event_loop.persistence.close();
        drop(socket_files);
        // Last, so that a reader of this line can start the next daemon.
        self.log_totals();
        answered
    }

    fn answer_last_requests(&mut self) -> Result<(), RunError> {
        let event_loop = &mut self.event_loop;
        // A SHUTDOWN among the last requests changes nothing: the daemon stops already.
        let _ = event_loop.round(Phase::Stopping, now())?;
        let end = now() + LAST_REQUESTS;
        while event_loop.has_requests() && now() < end {
            let _ = event_loop.round(Phase::Stopping, now())?;
        }
        let mut deadline = now() + LAST_REPLIES;
        while !event_loop.is_all_answered() {
            let is_late = now() >= deadline;
            if is_late && !event_loop.is_storing() {
                tracing::warn!("some peers did not take their last replies");
                break;
            }
            if is_late {
                event_loop.refuse_changes();
                // The result wakes the loop. Deadlines that only a serving daemon meets must not.
                let _ = event_loop.round(Phase::Stopping, now() + LAST_REPLIES)?;
                if !event_loop.is_storing() {
                    deadline = now() + LAST_REPLIES;
                }
            } else {
                let wake_up = event_loop.next_wake_up(now()).min(deadline);
                let _ = event_loop.round(Phase::Stopping, wake_up)?;
            }
        }
        event_loop.connections.discard_input();
        Ok(())
    }

    fn log_totals(&self) {
        let EventLoop { connections, registry, .. } = &self.event_loop;
        let (transport, counters) = (connections.counters(), registry.counters());
        tracing::info!(
            topics = registry.topic_count(),
            connections = transport.accepted,
            refused = transport.refused,
            violations = transport.violations,
            requests = transport.requests,
            dropped = transport.dropped,
            unreadable = counters.unreadable,
            over_limit = counters.over_limit,
            no_access = counters.no_access,
            evicted = counters.evicted,
            not_stored = counters.not_stored,
            "stopped"
        );
    }
}

/// Over TCP the daemon knows no users, and the protocol has no encryption.
fn warn_if_exposed(address: &ListenAddress) {
    if let ListenTarget::Tcp(ip) = address.target()
        && !ip.ip().is_loopback()
    {
        tracing::warn!(
            %address,
            "every machine that reaches this address can register and unregister topics here, \
             unencrypted: use it only in a network that you trust"
        );
    }
}
