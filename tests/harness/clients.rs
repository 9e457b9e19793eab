//! One trait for the blocking and the asynchronous client, so that a test covers both.

use std::collections::BTreeMap;
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
    fn register_topic(&mut self, info: &TopicInfo) -> Result<()>;
    /// UNREGISTER.
    ///
    /// # Errors
    /// Those of the client.
    fn unregister_topic(&mut self, topic: &str) -> Result<()>;
    /// LOOKUP.
    ///
    /// # Errors
    /// Those of the client.
    fn lookup_topic(&mut self, topic: &str) -> Result<TopicInfo>;
    /// WAIT, or repeated LOOKUP at a legacy daemon.
    ///
    /// # Errors
    /// Those of the client.
    fn wait_for_topic(&mut self, topic: &str, timeout: Duration) -> Result<TopicInfo>;
    /// LIST.
    ///
    /// # Errors
    /// Those of the client.
    fn list_topics(&mut self) -> Result<Vec<TopicInfo>>;
    /// PING.
    ///
    /// # Errors
    /// Those of the client.
    fn ping(&mut self) -> Result<()>;
    /// PING with `ext`.
    ///
    /// # Errors
    /// Those of the client.
    fn hello(&mut self) -> Result<DaemonInfo>;
    /// LOOKUP with `ext`.
    ///
    /// # Errors
    /// Those of the client.
    fn describe(&mut self, topic: &str) -> Result<TopicDescription>;
    /// LIST with `ext`.
    ///
    /// # Errors
    /// Those of the client.
    fn describe_all(&mut self) -> Result<Vec<TopicDescription>>;
    /// STATS.
    ///
    /// # Errors
    /// Those of the client.
    fn stats(&mut self) -> Result<BTreeMap<String, u64>>;
    /// SHUTDOWN.
    ///
    /// # Errors
    /// Those of the client.
    fn shutdown(&mut self) -> Result<()>;
}

/// An asynchronous client with its own runtime. Each call blocks until it returns.
pub struct BlockingAsyncClient {
    client: AsyncDiscoveryClient,
    runtime: Runtime,
}

impl BlockingAsyncClient {
    /// Builds the client on a single-threaded runtime.
    ///
    /// # Panics
    /// When building fails.
    #[must_use]
    pub fn build(builder: DiscoveryClientBuilder) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async { builder.build_async() }).unwrap();
        Self { client, runtime }
    }
}

macro_rules! calls {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        impl AnyClient for DiscoveryClient {
            $(fn $name(&mut self, $($argument: $type),*) -> Result<$result> {
                DiscoveryClient::$name(self, $($argument),*)
            })*
        }

        impl AnyClient for BlockingAsyncClient {
            $(fn $name(&mut self, $($argument: $type),*) -> Result<$result> {
                self.runtime.block_on(self.client.$name($($argument),*))
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
