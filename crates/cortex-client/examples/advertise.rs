//! Keeps a topic registered until you press Enter, also when the daemon restarts.
use cortex_client::{DEFAULT_DISCOVERY_ADDRESS, DiscoveryClient, TopicInfo, TopicName};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or(DEFAULT_DISCOVERY_ADDRESS.into());
    let _camera = DiscoveryClient::connect(address)?.advertise(TopicInfo {
        name: TopicName::new("/camera/image")?,
        address: "ipc:///tmp/cortex/topics/camera.sock".into(),
        message_type: "ImageMessage".into(),
        fingerprint: 0x1234_5678_9abc_def0,
        publisher_node: "camera_node".into(),
    })?;
    std::io::stdin().read_line(&mut String::new())?; // publish here until the node ends
    Ok(())
}
