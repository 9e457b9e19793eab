//! The task that owns the connection. It sends requests in order and passes each reply to its
//! caller.
//!
//! A request waits in the driver's queue, and not in libzmq's, until a daemon is connected. So the
//! caller can take it back, and no abandoned request reaches a daemon that starts later. The queue
//! is as long as the number of calls in progress at most.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{self, Instant, Sleep};
use tracing::debug;

use super::dealer_socket::{DealerSocket, SocketState};
use crate::connection::OnLoss;
use crate::error::Result;
use crate::protocol::backoff::Backoff;
use crate::protocol::reply::RawReply;

/// The longest pause between two connections, so that the client finds a restarted daemon soon.
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// How many messages the driver sends and receives before it yields to the runtime's other tasks.
const MAX_MESSAGES_PER_POLL: usize = 64;

/// A command from a caller.
#[derive(Debug)]
pub(super) enum DriverCommand {
    /// Send this request.
    Send(QueuedRequest),
    /// The caller no longer waits for the request of this number.
    Forget { number: u64 },
}

/// A request for the driver to send once.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    /// Unique and increasing per client. A request that is sent again has a new number.
    pub(super) number: u64,
    pub(super) body: Vec<u8>,
    pub(super) on_loss: OnLoss,
    /// The time after which an answer is overdue.
    pub(super) overdue_after: Duration,
    /// Signals that the driver sends the request now, or why it cannot.
    pub(super) sent: oneshot::Sender<Result<()>>,
    pub(super) answer: oneshot::Sender<RequestOutcome>,
}

impl QueuedRequest {
    /// Reports the loss of the connection that the request belongs to.
    fn report_loss(self) {
        if self.sent.send(Ok(())).is_ok() {
            let _ = self.answer.send(RequestOutcome::Lost);
        }
    }
}

/// The outcome of a sent request.
#[derive(Debug)]
pub(super) enum RequestOutcome {
    /// The daemon's reply.
    Reply(RawReply),
    /// The connection was lost, and the daemon's answer with it.
    Lost,
}

/// A sent request without a reply yet.
#[derive(Debug)]
struct AwaitedReply {
    since: Instant,
    on_loss: OnLoss,
    overdue_after: Duration,
    answer: oneshot::Sender<RequestOutcome>,
}

/// The task. It ends when all senders of commands are dropped.
#[derive(Debug)]
pub(super) struct Driver {
    address: String,
    commands: mpsc::UnboundedReceiver<DriverCommand>,
    /// The unsent requests by number, and so in the order of their arrival.
    queue: BTreeMap<u64, QueuedRequest>,
    awaited: HashMap<u64, AwaitedReply>,
    /// After a loss it stays `None` until the driver has something to send.
    dealer: Option<DealerSocket>,
    /// The pause before the next connection.
    pause: Option<Pin<Box<Sleep>>>,
    backoff: Backoff,
    last_reply_at: Option<Instant>,
}

impl Driver {
    pub(super) fn new(
        address: String,
        commands: mpsc::UnboundedReceiver<DriverCommand>,
        dealer: DealerSocket,
    ) -> Self {
        Self {
            address,
            commands,
            queue: BTreeMap::new(),
            awaited: HashMap::new(),
            dealer: Some(dealer),
            pause: None,
            backoff: Backoff::default(),
            last_reply_at: None,
        }
    }

    fn apply(&mut self, command: DriverCommand) {
        match command {
            // A request that reports a loss belongs to an earlier connection.
            DriverCommand::Send(request) if request.on_loss == OnLoss::Report && !self.is_up() => {
                request.report_loss();
            }
            DriverCommand::Send(request) => {
                self.queue.insert(request.number, request);
            }
            DriverCommand::Forget { number } => {
                if self.queue.remove(&number).is_none()
                    && let Some(forgotten) = self.awaited.remove(&number)
                    && self.is_dealer_dead(&forgotten)
                {
                    debug!("the connection is silent");
                    self.drop_dealer();
                }
            }
        }
    }

    fn is_up(&self) -> bool {
        self.dealer.as_ref().is_some_and(|dealer| dealer.up_since().is_some())
    }

    /// Whether an open connection counts as dead: an answer is overdue, and no other message has
    /// arrived since the request was sent.
    fn is_dealer_dead(&self, unanswered: &AwaitedReply) -> bool {
        let is_since = |then: Option<Instant>| then.is_some_and(|then| then > unanswered.since);
        unanswered.since.elapsed() >= unanswered.overdue_after
            && !is_since(self.last_reply_at)
            && self.dealer.as_ref().is_some_and(|dealer| {
                // When the runtime was suspended, a message may be waiting in the socket.
                !is_since(dealer.up_since()) && !dealer.has_message()
            })
    }

    /// Sends and receives what is possible now, within the limit. True when more may be possible.
    fn send_and_receive(&mut self) -> bool {
        if self.dealer.is_none() {
            self.open_dealer();
        }
        if let Some(dealer) = &mut self.dealer {
            dealer.read_monitor();
        }
        for _ in 0..MAX_MESSAGES_PER_POLL {
            let Some(dealer) = &mut self.dealer else { return false };
            match dealer.next_state() {
                SocketState::Idle => return false,
                SocketState::Writable => match next_to_send(&mut self.queue, &mut self.awaited) {
                    Some((number, body)) => dealer.send(number, body),
                    None => return false,
                },
                SocketState::Reply { number, reply } => self.deliver(number, reply),
                SocketState::Malformed => {}
                SocketState::Lost => {
                    debug!("the connection is lost");
                    self.drop_dealer();
                    return true;
                }
            }
        }
        true
    }

    fn open_dealer(&mut self) {
        if self.queue.is_empty() || self.pause.is_some() {
            return;
        }
        match DealerSocket::open(&self.address) {
            Ok(dealer) => self.dealer = Some(dealer),
            Err(error) => {
                for (_, request) in std::mem::take(&mut self.queue) {
                    // A caller that has given up does not need the error.
                    let _ = request.sent.send(Err(error.clone()));
                }
            }
        }
    }

    fn drop_dealer(&mut self) {
        let Some(dealer) = self.dealer.take() else { return };
        let was_answered = dealer.up_since().is_some_and(|up| self.last_reply_at >= Some(up));
        self.pause =
            (!was_answered).then(|| Box::pin(time::sleep(self.backoff.pause().min(MAX_PAUSE))));
        for (number, request) in std::mem::take(&mut self.queue) {
            if request.on_loss == OnLoss::Report {
                request.report_loss();
            } else {
                self.queue.insert(number, request);
            }
        }
        let lost = |_: &u64, awaited: &mut AwaitedReply| awaited.on_loss != OnLoss::Ignore;
        for (_, awaited) in self.awaited.extract_if(lost) {
            let _ = awaited.answer.send(RequestOutcome::Lost);
        }
    }

    fn deliver(&mut self, number: u64, reply: RawReply) {
        self.last_reply_at = Some(Instant::now());
        self.backoff = Backoff::default();
        if let Some(awaited) = self.awaited.remove(&number) {
            let _ = awaited.answer.send(RequestOutcome::Reply(reply));
        } else {
            debug!(number, "a reply without a waiting caller");
        }
    }

    /// Ready as soon as the driver may have something to do, apart from commands.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match (&mut self.dealer, &mut self.pause) {
            (Some(dealer), _) => dealer.poll_ready(cx),
            (None, Some(pause)) => pause.as_mut().poll(cx).map(|()| {
                self.pause = None;
                Ok(())
            }),
            (None, None) => Poll::Pending,
        }
    }
}

/// Takes the next request from the queue whose caller still wants it sent.
fn next_to_send(
    queue: &mut BTreeMap<u64, QueuedRequest>,
    awaited: &mut HashMap<u64, AwaitedReply>,
) -> Option<(u64, Vec<u8>)> {
    while let Some((number, request)) = queue.pop_first() {
        let QueuedRequest { body, on_loss, overdue_after, sent, answer, .. } = request;
        if sent.send(Ok(())).is_ok() {
            let since = Instant::now();
            awaited.insert(number, AwaitedReply { since, on_loss, overdue_after, answer });
            return Some((number, body));
        }
    }
    None
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = &mut *self;
        loop {
            while let Poll::Ready(command) = driver.commands.poll_recv(cx) {
                let Some(command) = command else { return Poll::Ready(()) };
                driver.apply(command);
            }
            if driver.send_and_receive() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match driver.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                // The runtime is about to end.
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::runtime::Builder;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A driver without a daemon, and the sender of its commands.
    fn driver() -> (Driver, mpsc::UnboundedSender<DriverCommand>) {
        let address = "ipc:///nonexistent/discovery.sock";
        let (commands, received) = mpsc::unbounded_channel();
        (Driver::new(address.to_owned(), received, DealerSocket::open(address).unwrap()), commands)
    }

    type Caller = (oneshot::Receiver<Result<()>>, oneshot::Receiver<RequestOutcome>);

    fn request(number: u64, on_loss: OnLoss) -> (QueuedRequest, Caller) {
        let (sent, has_left) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let body = b"request".to_vec();
        let request = QueuedRequest { number, body, on_loss, overdue_after: MINUTE, sent, answer };
        (request, (has_left, answered))
    }

    fn on_a_runtime(test: impl AsyncFnOnce()) {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    }

    async fn run_once(driver: &mut Driver) {
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *driver).poll(cx).is_pending())).await;
    }

    #[test]
    fn a_request_that_is_taken_back_leaves_nothing_behind() {
        on_a_runtime(async || {
            let (mut driver, commands) = driver();
            for number in 0..10_000 {
                let (request, _) = request(number, OnLoss::Resend);
                commands.send(DriverCommand::Send(request)).unwrap();
                commands.send(DriverCommand::Forget { number }).unwrap();
                if number % 100 == 0 {
                    run_once(&mut driver).await;
                    assert!(driver.queue.is_empty() && driver.awaited.is_empty());
                }
            }
        });
    }

    #[test]
    fn only_requests_that_are_still_wanted_are_sent_in_order() {
        let mut queue = BTreeMap::new();
        let mut awaited = HashMap::new();
        let mut callers = Vec::new();
        for number in [3, 1, 2, 5, 4] {
            let (request, caller) = request(number, OnLoss::Resend);
            queue.insert(number, request);
            callers.push((number, caller));
        }
        callers.retain_mut(|(number, (has_left, _))| {
            match number {
                2 => return false,
                4 => has_left.close(),
                _ => {}
            }
            true
        });
        let mut sent = Vec::new();
        while let Some((number, _)) = next_to_send(&mut queue, &mut awaited) {
            sent.push(number);
        }
        assert_eq!(sent, [1, 3, 5]);
        assert_eq!(awaited.len(), 3);
    }

    #[test]
    fn a_lost_connection_is_reported_to_all_requests_but_a_shutdown() {
        on_a_runtime(async || {
            let (mut driver, _orders) = driver();
            let mut callers = Vec::new();
            for (number, on_loss) in
                [OnLoss::Resend, OnLoss::Ignore, OnLoss::Report].into_iter().enumerate()
            {
                let (request, caller) = request(number as u64, on_loss);
                driver.queue.insert(request.number, request);
                next_to_send(&mut driver.queue, &mut driver.awaited).unwrap();
                callers.push(caller);
            }
            let (waiting, mut waiting_caller) = request(7, OnLoss::Resend);
            let (parked, mut parked_caller) = request(8, OnLoss::Report);
            driver.queue.extend([(7, waiting), (8, parked)]);
            driver.drop_dealer();
            let is_reported = callers.iter_mut().map(|(_, answer)| answer.try_recv().is_ok());
            assert_eq!(is_reported.collect::<Vec<_>>(), [true, false, true]);
            assert!(
                waiting_caller.0.try_recv().is_err(),
                "it stays in the queue for the next connection"
            );
            assert!(matches!(parked_caller.1.try_recv(), Ok(RequestOutcome::Lost)));
            assert_eq!((driver.queue.len(), driver.awaited.len()), (1, 1));

            driver.apply(DriverCommand::Send(request(9, OnLoss::Report).0));
            assert_eq!(driver.queue.len(), 1, "no connection is left for a parked request");
        });
    }

    #[test]
    fn the_driver_ends_when_all_command_senders_are_dropped() {
        on_a_runtime(async || {
            let (driver, commands) = driver();
            let running = tokio::spawn(driver);
            drop(commands);
            running.await.unwrap();
        });
    }
}
