//! The calls that send one request. Both clients have them.

/// Passes the table of calls to a macro that writes them for one client: the name and the arguments
/// of each call, its request, and how its reply is read.
macro_rules! with_calls {
    ($write:ident) => {
        $write! {
            /// Registers a topic. The same node may register it again, which replaces the earlier
            /// [`TopicInfo`].
            ///
            /// # Errors
            /// [`Error::AlreadyRegistered`] when another node owns the topic; and those of every
            /// call.
            register_topic(info: &TopicInfo) -> () =
                DiscoveryRequest::register(info.clone()) => registered(info.name.as_str());

            /// Unregisters a topic. When an attempt gets no answer and the next one finds no such
            /// topic, the call succeeds: the first attempt has unregistered it.
            ///
            /// # Errors
            /// [`Error::NoSuchTopic`]; and those of every call.
            unregister_topic(topic: &str) -> () =
                DiscoveryRequest::unregister(topic) => unregistered(topic);

            /// Looks up one topic.
            ///
            /// # Errors
            /// [`Error::NoSuchTopic`]; and those of every call.
            lookup_topic(topic: &str) -> TopicInfo =
                DiscoveryRequest::lookup(topic) => found(topic);

            /// Lists all topics, in the order of their first registration.
            ///
            /// # Errors
            /// Those of every call.
            list_topics() -> Vec<TopicInfo> = DiscoveryRequest::list() => listed();

            /// Checks that a daemon answers.
            ///
            /// # Errors
            /// [`Error::NoAnswer`] when none does; and the others of every call.
            ping() -> () = DiscoveryRequest::ping() => pong();

            /// Requests information about the daemon. From a daemon that speaks only the legacy
            /// protocol it is empty, with level 0.
            ///
            /// # Errors
            /// Those of [`ping`](Self::ping).
            hello() -> DaemonInfo =
                DiscoveryRequest::ping().with_ext(RequestExt::default()) => daemon_info();

            /// Looks up one topic, with the daemon's information about its registration.
            ///
            /// # Errors
            /// Those of [`lookup_topic`](Self::lookup_topic).
            describe(topic: &str) -> TopicDescription =
                DiscoveryRequest::lookup(topic).with_ext(RequestExt::default()) => described(topic);

            /// Lists all topics in the order of their first registration, with the daemon's
            /// information about each registration.
            ///
            /// # Errors
            /// Those of [`list_topics`](Self::list_topics).
            describe_all() -> Vec<TopicDescription> =
                DiscoveryRequest::list().with_ext(RequestExt::default()) => all_described();

            /// Requests the daemon's counters and gauges, by name; times are in ms.
            ///
            /// # Errors
            /// [`Error::Unsupported`] when the daemon has none because it speaks only the legacy
            /// protocol; and those of every call.
            stats() -> BTreeMap<String, u64> = DiscoveryRequest::stats() => stats();

            /// Shuts the daemon down. It may still run for a moment after its answer. The client
            /// sends the request once, whatever its [`retries`](DiscoveryClientBuilder::retries): a
            /// second one could end the next daemon.
            ///
            /// # Errors
            /// [`Error::Refused`] when the daemon does not allow it to this user;
            /// [`Error::Disconnected`] when the daemon ended before its answer arrived; and those
            /// of every call.
            shutdown() -> () = DiscoveryRequest::shutdown() => done();
        }
    };
}

pub(crate) use with_calls;
