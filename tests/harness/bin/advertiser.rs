//! A node that advertises topics until its input closes: `advertiser ADDRESS NODE COUNT`.

use std::io::{Write as _, stdin, stdout};
use std::time::Duration;

use cortex_client::DiscoveryClient;
use cortex_tests::messages::topic;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [address, node, count] = &arguments[..] else {
        return Err("usage: advertiser ADDRESS NODE COUNT".into());
    };
    let mut client = DiscoveryClient::connect(address)?;
    let mut topics = Vec::new();
    for number in 0..count.parse()? {
        topics.push(client.advertise(topic(&format!("/{node}/{number}"), node))?);
    }
    for topic in &topics {
        topic.wait_registered(Duration::from_secs(30))?;
    }
    writeln!(stdout(), "registered")?;
    stdin().read_line(&mut String::new())?;
    Ok(())
}
