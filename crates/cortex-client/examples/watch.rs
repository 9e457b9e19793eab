//! Prints the changes of the topics below /camera, also across restarts of the daemon.
#![expect(clippy::print_stdout, reason = "the example prints the changes")]
use cortex_client::{DEFAULT_DISCOVERY_ADDRESS, DiscoveryClient, WatchEvent};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or(DEFAULT_DISCOVERY_ADDRESS.into());
    for event in DiscoveryClient::connect(address)?.watch(Some("/camera/**"))? {
        match event? {
            WatchEvent::Snapshot { topics, .. } => {
                println!("there are {} topics", topics.len());
            }
            WatchEvent::Changed(change) => println!("{}: {}", change.info.name, change.kind),
            _ => {}
        }
    }
    Ok(())
}
