//! One trait for the blocking and the asynchronous client, so that a test covers both.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::Duration;

use cortex_client::{
    AsyncDiscoveryClient, DaemonInfo, DiscoveryClient, DiscoveryClientBuilder, Result,
    TopicDescription, TopicInfo,
};
use tokio::runtime::{Builder, Runtime};

/// Every call that both clients have.
pub trait AnyClient {
    /// REGISTER.
    ///
    /// # Errors
    /// Those of the client.
    fn register_topic(&self, info: &TopicInfo) -> Result<()>;
    /// UNREGISTER.
    ///
    /// # Errors
    /// Those of the client.
    fn unregister_topic(&self, topic: &str) -> Result<()>;
    /// LOOKUP.
    ///
    /// # Errors
    /// Those of the client.
    fn lookup_topic(&self, topic: &str) -> Result<TopicInfo>;
    /// WAIT, or repeated LOOKUP at a legacy daemon.
    ///
    /// # Errors
    /// Those of the client.
    fn wait_for_topic(&self, topic: &str, timeout: Duration) -> Result<TopicInfo>;
    /// LIST.
    ///
    /// # Errors
    /// Those of the client.
    fn list_topics(&self) -> Result<Vec<TopicInfo>>;
    /// PING.
    ///
    /// # Errors
    /// Those of the client.
    fn ping(&self) -> Result<()>;
    /// PING with `ext`.
    ///
    /// # Errors
    /// Those of the client.
    fn hello(&self) -> Result<DaemonInfo>;
    /// LOOKUP with `ext`.
    ///
    /// # Errors
    /// Those of the client.
    fn describe(&self, topic: &str) -> Result<TopicDescription>;
    /// LIST with `ext`.
    ///
    /// # Errors
    /// Those of the client.
    fn describe_all(&self) -> Result<Vec<TopicDescription>>;
    /// STATS.
    ///
    /// # Errors
    /// Those of the client.
    fn stats(&self) -> Result<BTreeMap<String, u64>>;
    /// SHUTDOWN.
    ///
    /// # Errors
    /// Those of the client.
    fn shutdown(&self) -> Result<()>;
}

/// An asynchronous client whose calls block until they return, on a runtime or on none.
pub struct BlockingAsyncClient {
    client: AsyncDiscoveryClient,
    runtime: Option<Runtime>,
}

impl BlockingAsyncClient {
    /// Builds a client whose futures run on a single-threaded tokio runtime.
    ///
    /// # Panics
    /// When building fails.
    #[must_use]
    pub fn on_tokio(builder: DiscoveryClientBuilder) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Self { client: builder.build_async().unwrap(), runtime: Some(runtime) }
    }

    /// Builds a client whose futures run without any runtime.
    ///
    /// # Panics
    /// When building fails.
    #[must_use]
    pub fn without_runtime(builder: DiscoveryClientBuilder) -> Self {
        Self { client: builder.build_async().unwrap(), runtime: None }
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        match &self.runtime {
            Some(runtime) => runtime.block_on(future),
            None => block_on(future),
        }
    }
}

/// Runs a future on this thread, without a runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

macro_rules! calls {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        impl AnyClient for DiscoveryClient {
            $(fn $name(&self, $($argument: $type),*) -> Result<$result> {
                DiscoveryClient::$name(self, $($argument),*)
            })*
        }

        impl AnyClient for BlockingAsyncClient {
            $(fn $name(&self, $($argument: $type),*) -> Result<$result> {
                self.block_on(self.client.$name($($argument),*))
            })*
        }
    };
}

calls! {
    register_topic(info: &TopicInfo) -> ();
    unregister_topic(topic: &str) -> ();
    lookup_topic(topic: &str) -> TopicInfo;
    wait_for_topic(topic: &str, timeout: Duration) -> TopicInfo;
    list_topics() -> Vec<TopicInfo>;
    ping() -> ();
    hello() -> DaemonInfo;
    describe(topic: &str) -> TopicDescription;
    describe_all() -> Vec<TopicDescription>;
    stats() -> BTreeMap<String, u64>;
    shutdown() -> ();
}
