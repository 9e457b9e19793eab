#![expect(clippy::print_stdout, reason = "an example prints its result")]

//! Encodes a LOOKUP request and decodes a recorded reply, without a transport. A real client sends
//! the request through a ZeroMQ REQ socket that is connected to the daemon.
//!
//! `cargo run -p cortex-proto --example lookup`

use cortex_proto::{DEFAULT_DISCOVERY_ADDRESS, DiscoveryRequest, DiscoveryResponse};

/// A recorded reply of the Python reference.
const RECORDED_REPLY: &[u8] = b"\x83\xa6status\x00\xa7message\xa0\xaatopic_info\xc4\x9f\
    \x85\xa4name\xad/camera/image\
    \xa7address\xd97ipc:///tmp/cortex/topics/camera_node__camera_image.sock\
    \xacmessage_type\xacImageMessage\
    \xabfingerprint\xcf\x12\x34\x56\x78\x9a\xbc\xde\xf0\
    \xaepublisher_node\xabcamera_node";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let request = DiscoveryRequest::lookup("/camera/image").to_bytes();
    println!("send to {DEFAULT_DISCOVERY_ADDRESS}: {request:02x?}");

    let response = DiscoveryResponse::from_bytes(RECORDED_REPLY)?;
    println!("status:         {}", response.status);
    if let Some(topic) = response.topic_info {
        println!("name:           {}", topic.name);
        println!("address:        {}", topic.address);
        println!("message type:   {}", topic.message_type);
        println!("fingerprint:    {:#018x}", topic.fingerprint);
        println!("publisher node: {}", topic.publisher_node);
    }
    Ok(())
}
