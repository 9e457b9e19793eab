//! The callers' side of the asynchronous connection: the attempts and deadlines of a request.
//!
//! The [`Driver`] is the other side and owns the socket.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cortex_proto::{DiscoveryCommand, DiscoveryRequest, RequestedCommand};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{self, Timeout};
use tracing::debug;

use super::dealer_socket::DealerSocket;
use super::driver::{Driver, DriverCommand, QueuedRequest, RequestOutcome};
use crate::connection::{OnLoss, no_answer};
use crate::error::{Error, Result};
use crate::protocol::reply::{RawReply, Reply};
use crate::protocol::retry::{Exchange, ExchangeAction, Query, RetryPolicy};
use crate::protocol::wait::LONG_POLL;

/// A connection for many concurrent requests. Its [`Driver`] ends with it.
#[derive(Debug)]
pub(super) struct AsyncConnection {
    address: String,
    /// How long the daemon may take for a request that it does not park.
    timeout: Duration,
    commands: mpsc::UnboundedSender<DriverCommand>,
    next_number: AtomicU64,
    /// The runtime of the driver. Its clock counts for each call, also when another runtime polls
    /// it.
    runtime: Handle,
}

impl AsyncConnection {
    /// Connects in the background: the daemon may start later.
    ///
    /// # Panics
    /// Tokio panics when the runtime was built without I/O or without time.
    pub(super) fn open(address: String, timeout: Duration) -> Result<Self> {
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        // A runtime without a timer panics here, and not in the first call.
        drop(time::sleep(Duration::ZERO));
        let dealer = DealerSocket::open(&address)?;
        let (commands, received) = mpsc::unbounded_channel();
        runtime.spawn(Driver::new(address.clone(), received, dealer));
        Ok(Self { address, timeout, commands, next_number: AtomicU64::new(0), runtime })
    }

    /// The daemon's address.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The time by the runtime's clock.
    pub(super) fn now(&self) -> Instant {
        let _runtime = self.runtime.enter();
        time::Instant::now().into_std()
    }

    /// Does nothing for this long.
    ///
    /// # Errors
    /// [`Error::NoRuntime`] as soon as the runtime ends, since its timers would panic then.
    pub(super) async fn pause(&self, pause: Duration) -> Result<()> {
        match self.timeout(pause, self.commands.closed()).await {
            Ok(()) => Err(Error::NoRuntime),
            Err(_) => Ok(()),
        }
    }

    /// Waits for `future`, which must become ready when the runtime ends.
    fn timeout<F: Future>(&self, within: Duration, future: F) -> Timeout<F> {
        let _runtime = self.runtime.enter();
        time::timeout(within, future)
    }

    /// Sends a request and waits for its reply. When the future is dropped, an unsent request is
    /// never sent, and the reply to a sent one is discarded.
    pub(super) async fn call(
        &self,
        request: &DiscoveryRequest,
        policy: RetryPolicy,
    ) -> Result<Reply> {
        debug!(address = self.address, command = %request.command, "request");
        let is_shutdown = request.command == RequestedCommand::Known(DiscoveryCommand::Shutdown);
        let mut call = AsyncCall {
            body: request.to_bytes(),
            exchange: Exchange::start(policy, self.now()),
            // A SHUTDOWN that is sent again would end the next daemon.
            on_loss: if is_shutdown { OnLoss::Ignore } else { OnLoss::Resend },
            overdue_after: self.timeout / 2,
            was_lost: false,
        };
        match self.perform(&mut call).await? {
            QueryOutcome::Reply(reply) => Ok(reply),
            QueryOutcome::Disconnected | QueryOutcome::NoAnswer { .. } => {
                Err(no_answer(&self.address, policy.total(), policy.attempts))
            }
        }
    }

    /// Sends a query of a wait or a watch, in one attempt. Dropping the future works as for
    /// [`call`](Self::call).
    pub(super) async fn query(&self, query: Query) -> Result<QueryOutcome> {
        let Query { body, timeout, may_park } = query;
        debug!(within = ?timeout, may_park, "query");
        let park_time = if may_park { LONG_POLL } else { Duration::ZERO };
        let mut call = AsyncCall {
            body,
            exchange: Exchange::start(RetryPolicy { timeout, attempts: 1 }, self.now()),
            on_loss: if may_park { OnLoss::Report } else { OnLoss::Resend },
            overdue_after: park_time.saturating_add(self.timeout / 2),
            was_lost: false,
        };
        self.perform(&mut call).await
    }

    async fn perform(&self, call: &mut AsyncCall) -> Result<QueryOutcome> {
        // The sent request, until it is answered, lost or taken back.
        let mut sending = None;
        loop {
            match call.exchange.next_action(self.now()) {
                ExchangeAction::Send { within } => {
                    let sent = sending.get_or_insert_with(|| self.send(call));
                    match self.timeout(within, &mut sent.has_left).await {
                        Ok(has_left) => has_left.map_err(|_| Error::NoRuntime)??,
                        Err(_) if sent.take_back()? => {
                            sending = None;
                            continue;
                        }
                        // The driver has sent it at the last moment.
                        Err(_) => {}
                    }
                    call.exchange.sent();
                }
                ExchangeAction::Receive { within } => {
                    let sent = sending.get_or_insert_with(|| self.send(call));
                    match self.timeout(within, &mut sent.answer).await {
                        Ok(Ok(answer)) => {
                            sent.is_over = true;
                            match answer {
                                RequestOutcome::Reply(raw) => {
                                    return call.read(&raw).map(QueryOutcome::Reply);
                                }
                                RequestOutcome::Lost if call.on_loss == OnLoss::Report => {
                                    return Ok(QueryOutcome::Disconnected);
                                }
                                RequestOutcome::Lost => {
                                    call.was_lost = true;
                                    call.exchange.lost(self.now());
                                }
                            }
                        }
                        Ok(Err(_)) => return Err(Error::NoRuntime),
                        // The deadline decides.
                        Err(_) => {}
                    }
                }
                ExchangeAction::Pause { within } => self.pause(within).await?,
                ExchangeAction::Reconnect => {
                    debug!(attempt = call.exchange.attempt(), "sending again");
                    sending = None;
                }
                ExchangeAction::GiveUp => {
                    // Accept an answer that arrived while the future was not polled.
                    if let Some(sent) = &mut sending
                        && let Ok(RequestOutcome::Reply(raw)) = sent.answer.try_recv()
                    {
                        sent.is_over = true;
                        return call.read(&raw).map(QueryOutcome::Reply);
                    }
                    debug!(attempts = call.exchange.attempt(), "no answer");
                    return Ok(QueryOutcome::NoAnswer {
                        waited: call.exchange.policy().total(),
                        was_lost: call.was_lost,
                    });
                }
            }
        }
    }

    /// Passes the request of `call` to the driver, which sends it once.
    fn send(&self, call: &AsyncCall) -> Sending<'_> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let (sent, has_left) = oneshot::channel();
        let (answerer, answer) = oneshot::channel();
        let request = QueuedRequest {
            number,
            body: call.body.clone(),
            on_loss: call.on_loss,
            overdue_after: call.overdue_after,
            sent,
            answer: answerer,
        };
        // When the driver has ended, the channels above close.
        let _ = self.commands.send(DriverCommand::Send(request));
        Sending { number, has_left, answer, is_over: false, commands: &self.commands }
    }
}

/// The outcome of a query.
#[derive(Debug)]
pub(super) enum QueryOutcome {
    Reply(Reply),
    /// The connection was lost while the request was parked.
    Disconnected,
    /// The time is over. `was_lost`: the connection was lost in the meantime.
    NoAnswer {
        waited: Duration,
        was_lost: bool,
    },
}

/// A request with all its attempts.
#[derive(Debug)]
struct AsyncCall {
    body: Vec<u8>,
    exchange: Exchange,
    on_loss: OnLoss,
    /// The time after which an answer is overdue.
    overdue_after: Duration,
    was_lost: bool,
}

impl AsyncCall {
    fn read(&self, raw: &RawReply) -> Result<Reply> {
        let reply = Reply::read(raw, self.exchange.times_sent());
        let attempt = self.exchange.attempt();
        debug!(attempt, bytes = raw.body.len(), readable = reply.is_ok(), "reply");
        reply
    }
}

/// A request in the hands of the driver. Dropping this tells the driver to forget the request.
#[derive(Debug)]
struct Sending<'a> {
    number: u64,
    has_left: oneshot::Receiver<Result<()>>,
    answer: oneshot::Receiver<RequestOutcome>,
    is_over: bool,
    commands: &'a mpsc::UnboundedSender<DriverCommand>,
}

impl Sending<'_> {
    /// Takes the request back. False when the driver has sent it already.
    fn take_back(&mut self) -> Result<bool> {
        self.has_left.close();
        match self.has_left.try_recv() {
            Ok(has_left) => has_left.map(|()| false),
            Err(_) => Ok(true),
        }
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // When the driver has ended, it has nothing to forget.
            let _ = self.commands.send(DriverCommand::Forget { number: self.number });
        }
    }
}
