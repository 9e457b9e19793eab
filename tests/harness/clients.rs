//! The blocking and the asynchronous client, so that one test serves both.

use std::collections::BTreeMap;
use std::time::Duration;

use cortex_client::{
    AsyncDiscoveryClient, Description, DiscoveryClient, DiscoveryClientBuilder, Hello, Result,
    TopicInfo,
};
use tokio::runtime::{Builder, Runtime};

/// Every call of a client.
pub trait AnyClient {
    /// REGISTER.
    ///
    /// # Errors
    /// As the client's.
    fn register_topic(&mut self, info: &TopicInfo) -> Result<()>;
    /// UNREGISTER.
    ///
    /// # Errors
    /// As the client's.
    fn unregister_topic(&mut self, topic: &str) -> Result<()>;
    /// LOOKUP.
    ///
    /// # Errors
    /// As the client's.
    fn lookup_topic(&mut self, topic: &str) -> Result<TopicInfo>;
    /// WAIT, or LOOKUP again and again.
    ///
    /// # Errors
    /// As the client's.
    fn wait_for_topic(&mut self, topic: &str, timeout: Duration) -> Result<TopicInfo>;
    /// LIST.
    ///
    /// # Errors
    /// As the client's.
    fn list_topics(&mut self) -> Result<Vec<TopicInfo>>;
    /// PING.
    ///
    /// # Errors
    /// As the client's.
    fn ping(&mut self) -> Result<()>;
    /// PING with the extension.
    ///
    /// # Errors
    /// As the client's.
    fn hello(&mut self) -> Result<Hello>;
    /// LOOKUP with the extension.
    ///
    /// # Errors
    /// As the client's.
    fn describe(&mut self, topic: &str) -> Result<Description>;
    /// LIST with the extension.
    ///
    /// # Errors
    /// As the client's.
    fn describe_all(&mut self) -> Result<Vec<Description>>;
    /// STATS.
    ///
    /// # Errors
    /// As the client's.
    fn stats(&mut self) -> Result<BTreeMap<String, u64>>;
    /// SHUTDOWN.
    ///
    /// # Errors
    /// As the client's.
    fn shutdown(&mut self) -> Result<()>;
}

/// An asynchronous client with a runtime of its own, each call of which is waited for.
pub struct BlockingAsyncClient {
    client: AsyncDiscoveryClient,
    runtime: Runtime,
}

impl BlockingAsyncClient {
    /// Makes the client, on a single-threaded runtime.
    ///
    /// # Panics
    /// When it cannot be made.
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
    hello() -> Hello;
    describe(topic: &str) -> Description;
    describe_all() -> Vec<Description>;
    stats() -> BTreeMap<String, u64>;
    shutdown() -> ();
}
