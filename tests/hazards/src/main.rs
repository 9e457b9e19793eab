//! A client in conditions that libzmq survives badly. The tests run it in a build with the
//! workspace's `CXXFLAGS`, and `.ci/run` also in one without them.
//!
//! ```text
//! cortex-hazards fork ADDRESS               a forked child uses and drops its parent's client
//! cortex-hazards clients ADDRESS COUNT      makes clients and sends a PING with each
//! cortex-hazards resolver ADDRESS HOSTNAME  one client's host name does not resolve
//! ```
//!
//! It prints what happened, and exits with 0 if that is what it expects.

use std::error::Error as StdError;
use std::thread;
use std::time::Duration;

use cortex_client::{
    ConnectError, DiscoveryClient, Error, EventKind, TopicInfo, TopicName, WatchEvent,
};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

type Outcome = Result<(), Box<dyn StdError>>;

const TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> Outcome {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fork", address] => forked_child(address),
        ["clients", address, count] => many_clients(address, count.parse()?),
        ["resolver", address, host_name] => stuck_resolver(address, host_name),
        _ => Err("usage: cortex-hazards fork|clients|resolver ADDRESS ...".into()),
    }
}

fn client(address: &str) -> Result<DiscoveryClient, Error> {
    DiscoveryClient::builder().address(address).timeout(TIMEOUT).build()
}

fn topic(name: &str) -> Result<TopicInfo, Box<dyn StdError>> {
    Ok(TopicInfo {
        name: TopicName::new(name)?,
        address: "ipc:///run/nodes/hazards.sock".into(),
        message_type: "TestMessage".into(),
        fingerprint: 1,
        publisher_node: "hazards".into(),
    })
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Outcome {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}").into()) }
}

#[expect(unsafe_code, reason = "fork is unsafe; the test is about it")]
fn forked_child(address: &str) -> Outcome {
    let client = client(address)?;
    let guard = client.advertise(topic("/parent")?)?;
    guard.wait_registered(TIMEOUT)?;
    let mut watch = client.watch(None)?;
    let first = watch.next().ok_or("no snapshot")??;
    println!("parent: {first:?}");
    for round in 0..20 {
        // A call of another thread is in progress during the fork.
        let waiting = {
            let client = client.clone();
            let name = format!("/parent/{round}");
            thread::spawn(move || client.wait_for_topic(&name, TIMEOUT))
        };
        // SAFETY: the child is to find out what a program that forks so would.
        match unsafe { fork()? } {
            ForkResult::Child => {
                let outcome = in_the_child(address, round, client, guard, watch);
                if let Err(error) = &outcome {
                    eprintln!("child: {error}");
                }
                std::process::exit(i32::from(outcome.is_err()));
            }
            ForkResult::Parent { child } => {
                expect("the child", &waitpid(child, None)?, &WaitStatus::Exited(child, 0))?;
            }
        }
        client.register_topic(&topic(&format!("/parent/{round}"))?)?;
        waiting.join().map_err(|_| "the wait panicked")??;
        loop {
            let event = watch.next().ok_or("the watch has ended")??;
            // The daemon has evicted the topic of the child.
            if let WatchEvent::Changed(change) = event
                && change.info == topic(&format!("/parent/{round}"))?
            {
                expect("an event", &change.kind, &EventKind::Registered)?;
                break;
            }
        }
    }
    client.lookup_topic("/parent")?;
    expect("the guard", &guard.is_registered(), &true)?;
    println!("the parent has noticed nothing");
    Ok(())
}

fn in_the_child(
    address: &str,
    round: usize,
    of_parent: DiscoveryClient,
    guard: cortex_client::Advertisement,
    mut watch: cortex_client::Watch,
) -> Outcome {
    expect("a call", &of_parent.ping(), &Err(Error::Forked))?;
    expect("a wait", &of_parent.wait_for_topic("/x", TIMEOUT).err(), &Some(Error::Forked))?;
    expect("a watch", &of_parent.watch(None).err(), &Some(Error::Forked))?;
    expect("close", &of_parent.close(), &Err(Error::Forked))?;
    expect("the guard", &guard.is_registered(), &false)?;
    expect("the watch", &watch.next(), &Some(Err(Error::Forked)))?;
    expect("the watch's end", &watch.next(), &None)?;
    // A client of its own works.
    let own = client(address)?;
    own.register_topic(&topic(&format!("/child/{round}"))?)?;
    own.ping()?;
    drop((of_parent.clone(), watch, guard, of_parent));
    own.ping()?;
    Ok(())
}

fn many_clients(address: &str, count: usize) -> Outcome {
    let mut clients = Vec::new();
    for made in 0..count {
        let next = client(address).and_then(|client| client.ping().map(|()| client));
        match next {
            Ok(client) => clients.push(client),
            Err(error) => {
                println!("after {made} clients: {error}");
                // The others go on.
                for client in &clients {
                    client.ping()?;
                }
                return Ok(());
            }
        }
    }
    for client in &clients {
        client.ping()?;
    }
    println!("made {count} clients");
    Ok(())
}

fn stuck_resolver(address: &str, host_name: &str) -> Outcome {
    let unresolved = format!("tcp://{host_name}:5550");
    let builder = || DiscoveryClient::builder().address(&unresolved).timeout(TIMEOUT);
    let stalled = builder().fail_fast(true).build()?;
    let patient = builder().timeout(Duration::from_millis(200)).build()?;
    let waiting = thread::spawn(move || stalled.ping());
    expect("no answer", &matches!(patient.ping(), Err(Error::NoAnswer { .. })), &true)?;
    let others: Vec<_> = (0..14).map(|_| client(address)).collect::<Result<_, _>>()?;
    for other in &others {
        other.ping()?;
    }
    println!("14 of 14 other clients have an answer");
    let outcome = waiting.join().map_err(|_| "the call panicked")?;
    println!("{outcome:?}");
    let is_named = matches!(
        &outcome,
        Err(Error::Unreachable { cause: ConnectError::HostName { name, .. }, .. })
            if name == host_name
    );
    expect("the cause", &is_named, &true)
}
