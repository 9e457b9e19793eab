//! Checks of the client and the command line that pass with our daemon and with the reference.

use cortex_client::{
    AsyncDiscoveryClient, DiscoveryClient, DiscoveryClientBuilder, Error, TopicInfo,
};
use serde_json::{Value, json};

use crate::cli;
use crate::clients::{AnyClient, BlockingAsyncClient};
use crate::deadline::{TIMEOUT, eventually};
use crate::messages::{ParkedRequests, topic};
use crate::process::ProcessOutput;

/// A client of the daemon at `address` with the timeout [`TIMEOUT`].
///
/// # Panics
/// When building the client fails.
#[must_use]
pub fn client(address: &str) -> DiscoveryClient {
    DiscoveryClient::builder().address(address).timeout(TIMEOUT).build().unwrap()
}

/// Asks our daemon how many requests it has parked.
///
/// # Panics
/// When STATS fails.
#[must_use]
pub fn parked_requests(client: &DiscoveryClient) -> ParkedRequests {
    ParkedRequests::from_counters(&client.stats().unwrap())
}

/// Waits until our daemon has parked exactly these requests.
///
/// # Panics
/// When [`TIMEOUT`] passes first.
pub fn wait_until_parked(address: &str, wanted: ParkedRequests) {
    let client = client(address);
    eventually(&format!("the daemon has parked {wanted:?}"), TIMEOUT, || {
        (parked_requests(&client) == wanted).then_some(())
    });
}

/// Makes every call of the blocking client at an empty daemon, and shuts the daemon down.
///
/// # Panics
/// When a call returns an unexpected result.
pub fn check_every_client_call(address: &str) {
    check_every_call(&client(address));
}

/// Makes every call of the asynchronous client at an empty daemon, and shuts the daemon down.
///
/// # Panics
/// When a call returns an unexpected result.
pub fn check_every_async_client_call(address: &str) {
    check_every_call(&BlockingAsyncClient::on_tokio(async_builder(address)));
}

/// Like [`check_every_async_client_call`], without a runtime.
///
/// # Panics
/// When a call returns an unexpected result.
pub fn check_every_async_client_call_without_a_runtime(address: &str) {
    check_every_call(&BlockingAsyncClient::without_runtime(async_builder(address)));
}

fn async_builder(address: &str) -> DiscoveryClientBuilder {
    AsyncDiscoveryClient::builder().address(address).timeout(TIMEOUT)
}

fn check_every_call(client: &impl AnyClient) {
    let camera = topic("/camera", "camera_node");
    let moved = TopicInfo { address: "tcp://10.0.0.1:5".into(), ..camera.clone() };
    let stolen = topic("/camera", "thief");
    let lidar = TopicInfo { fingerprint: u64::MAX, ..topic("/lidar/größe", "lidar_node") };

    client.ping().unwrap();
    assert_eq!(client.list_topics(), Ok(Vec::new()));
    client.register_topic(&camera).unwrap();
    client.register_topic(&lidar).unwrap();
    assert_eq!(client.lookup_topic("/camera").as_ref(), Ok(&camera));
    assert_eq!(client.wait_for_topic("/lidar/größe", TIMEOUT).as_ref(), Ok(&lidar));

    let Err(Error::AlreadyRegistered { topic, node, .. }) = client.register_topic(&stolen) else {
        panic!("another node's topic cannot be registered");
    };
    assert_eq!((topic.as_str(), node.as_deref()), ("/camera", Some("camera_node")));
    client.register_topic(&moved).unwrap();
    assert_eq!(client.list_topics(), Ok(vec![moved.clone(), lidar.clone()]));

    let described = client.describe("/camera").unwrap();
    assert_eq!(described.info, moved);
    assert_eq!(client.describe_all().unwrap()[0].info, moved);
    let has_extensions = client.hello().unwrap().level > 0;
    assert_eq!(described.entry.is_some(), has_extensions);
    assert_eq!(client.stats().is_ok(), has_extensions);

    client.unregister_topic("/camera").unwrap();
    let unknown = Error::NoSuchTopic { topic: "/camera".into() };
    assert_eq!(client.unregister_topic("/camera").as_ref(), Err(&unknown));
    assert_eq!(client.lookup_topic("/camera").as_ref(), Err(&unknown));
    assert!(matches!(client.lookup_topic(""), Err(Error::Refused { .. })));
    assert_eq!(client.list_topics(), Ok(vec![lidar]));
    client.shutdown().unwrap();
}

/// Runs every command of the command line at an empty daemon, and shuts the daemon down.
///
/// # Panics
/// When a command prints something unexpected.
pub fn check_every_command(address: &str) {
    let cortex = |line: &str| cli::run_at(address, &line.split(' ').collect::<Vec<_>>());
    let json =
        |line: &str| -> Value { serde_json::from_str(&expect_success(cortex(line))).unwrap() };

    assert_ne!(expect_success(cortex("ping")), "");
    assert_eq!(json("-o json topic list"), json!([]));
    assert_eq!(expect_success(cortex("-q topic list -o name")), "");

    let client = client(address);
    client.register_topic(&topic("/lidar", "lidar_node")).unwrap();
    client.register_topic(&topic("/camera", "camera_node")).unwrap();
    let camera = json!({
        "name": "/camera",
        "address": "ipc:///run/nodes/camera.sock",
        "message_type": "TestMessage",
        "fingerprint": "0x123456789abcdef0",
        "publisher_node": "camera_node",
    });
    assert_eq!(expect_success(cortex("topic list -o name")), "/camera\n/lidar\n");
    assert_eq!(expect_success(cortex("list --node lidar_node -o name")), "/lidar\n");
    assert_eq!(json("topic list /c* -o json"), json!([camera]));
    assert_eq!(json("topic lookup /camera -o json"), camera);
    assert_eq!(
        expect_success(cortex("lookup /lidar --field address")),
        "ipc:///run/nodes/lidar.sock\n"
    );

    let missing = cortex("topic lookup /nope");
    assert_eq!((missing.code, missing.stdout.as_str()), (Some(4), ""));
    assert!(missing.stderr.contains("/nope"), "{}", missing.stderr);
    let _ = expect_success(cortex("shutdown"));
}

/// The standard output of a command that succeeded.
///
/// # Panics
/// When the command failed or wrote to its standard error.
#[must_use]
pub fn expect_success(output: ProcessOutput) -> String {
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{}", output.stdout);
    output.stdout
}
