//! The asynchronous watch, which carries out the actions of a [`WatchState`] on an
//! [`AsyncConnection`].

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_core::stream::FusedStream;

use super::connection::{AsyncConnection, QueryOutcome};
use crate::connection::no_answer;
use crate::error::{Error, Result};
use crate::protocol::watch::{WatchAction, WatchEvent, WatchState};

/// The events of the watched topics, made by
/// [`AsyncDiscoveryClient::watch`](crate::AsyncDiscoveryClient::watch).
///
/// As a [`Stream`] it ends only with the client's runtime, and is pending until the next event.
/// While the daemon is unreachable it is pending too, and [`trouble`](Self::trouble) gives the
/// reason. You can poll it again after an error: the watch recovers by itself, and gives about one
/// error per second at most until then.
///
/// It uses the client's connection. Dropping a future that waits for the next item loses no event.
#[must_use = "streams do nothing unless polled"]
pub struct AsyncWatch {
    connection: Arc<AsyncConnection>,
    state: WatchState,
    /// The action in progress.
    running: Option<Pin<Box<dyn Future<Output = Result<Finished>> + Send>>>,
    trouble: Option<Error>,
    is_over: bool,
}

/// The result of a finished action.
enum Finished {
    Query(QueryOutcome),
    Pause,
}

impl AsyncWatch {
    pub(super) fn start(connection: Arc<AsyncConnection>, state: WatchState) -> Self {
        Self { connection, state, running: None, trouble: None, is_over: false }
    }

    /// Waits for the next event. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Errors other than an unreachable daemon: [`Error::Refused`], [`Error::Unreadable`],
    /// [`Error::InvalidAddress`], [`Error::Transport`], [`Error::NoRuntime`].
    pub async fn next_event(&mut self) -> Result<WatchEvent> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Why the daemon is unreachable; `None` after an answer.
    #[must_use]
    pub fn trouble(&self) -> Option<&Error> {
        self.trouble.as_ref()
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<WatchEvent>> {
        loop {
            if let Some(event) = self.state.take_event() {
                return Poll::Ready(Ok(event));
            }
            if self.is_over {
                return Poll::Ready(Err(Error::NoRuntime));
            }
            let running = self.running.get_or_insert_with(|| {
                let connection = Arc::clone(&self.connection);
                match self.state.next_action(connection.now()) {
                    WatchAction::Send(query) => {
                        Box::pin(async move { connection.query(query).await.map(Finished::Query) })
                    }
                    WatchAction::Pause(pause) => {
                        Box::pin(
                            async move { connection.pause(pause).await.map(|()| Finished::Pause) },
                        )
                    }
                }
            });
            let finished = ready!(running.as_mut().poll(cx));
            self.running = None;
            self.apply(finished)?;
        }
    }

    fn apply(&mut self, finished: Result<Finished>) -> Result<()> {
        let now = self.connection.now();
        match finished {
            Ok(Finished::Pause) => {}
            Ok(Finished::Query(QueryOutcome::Reply(reply))) => {
                self.trouble = None;
                self.state.answered(reply, now)?;
            }
            Ok(Finished::Query(QueryOutcome::Disconnected)) => {
                let address = self.connection.address().to_owned();
                self.trouble = Some(Error::Disconnected { address });
                self.state.lost(now);
            }
            Ok(Finished::Query(QueryOutcome::NoAnswer { waited, .. })) => {
                self.trouble = Some(no_answer(self.connection.address(), waited, 1));
                self.state.unanswered();
            }
            Err(error) => {
                self.is_over = error == Error::NoRuntime;
                self.state.failed(now);
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Stream for AsyncWatch {
    type Item = Result<WatchEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_terminated() {
            return Poll::Ready(None);
        }
        self.poll_event(cx).map(Some)
    }
}

impl FusedStream for AsyncWatch {
    fn is_terminated(&self) -> bool {
        self.is_over
    }
}

impl fmt::Debug for AsyncWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncWatch")
            .field("connection", &self.connection)
            .field("trouble", &self.trouble)
            .field("is_over", &self.is_over)
            .finish_non_exhaustive()
    }
}
