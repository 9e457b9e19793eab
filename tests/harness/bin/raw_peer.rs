//! A raw peer as a separate process, which can belong to another user.
//!
//!     raw-peer ADDRESS
//!
//! Reads requests from the standard input, each a line of hexadecimal digits, and writes the
//! replies in the same form. Exits when the input closes. Fails when the daemon closes the
//! connection.

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
