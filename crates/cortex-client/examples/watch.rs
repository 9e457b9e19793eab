#![expect(missing_docs, clippy::print_stdout, reason = "an example of few lines")]

use cortex_client::{DiscoveryClient, WatchEvent};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).ok_or("an address is missing")?;
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
