//! A node that advertises topics until its input closes: `advertiser ADDRESS NODE COUNT`. It prints
//! each trouble of a topic.

use std::io::{Write as _, stdin, stdout};
use std::time::Duration;

use cortex_client::{DiscoveryClient, Notice};
use cortex_tests::messages::topic;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [address, node, count] = &arguments[..] else {
        return Err("usage: advertiser ADDRESS NODE COUNT".into());
    };
    let client = DiscoveryClient::connect(address)?;
    let mut topics = Vec::new();
    for number in 0..count.parse()? {
        let info = topic(&format!("/{node}/{number}"), node);
        topics.push(client.advertise_with(info, |notice| {
            if let Notice::Trouble(error) = notice {
                // A closed standard output must not end the node.
                let _ = writeln!(stdout(), "trouble: {error}");
            }
        })?);
    }
    for topic in &topics {
        topic.wait_registered(Duration::from_secs(30))?;
    }
    writeln!(stdout(), "registered")?;
    stdin().read_line(&mut String::new())?;
    Ok(())
}
