//! A raw peer in a process of its own, for tests of what another user may do.
//!
//!     raw-peer ADDRESS
//!
//! Reads requests from its standard input, a line of hexadecimal digits each, and writes the
//! replies likewise. Ends when its input closes, and fails when the daemon closes.

use std::io::{self, BufRead as _, Write as _};

use cortex_tests::hex;
use cortex_tests::raw_peer::RawPeer;

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).ok_or_else(|| io::Error::other("no address"))?;
    let mut peer = RawPeer::open(&address)?;
    for line in io::stdin().lock().lines() {
        let reply = peer.request_bytes(&hex::decode(&line?))?;
        writeln!(io::stdout(), "{}", hex::encode(&reply))?;
    }
    Ok(())
}
