//! The daemon's transport with libzmq sockets, from Rust and from Python.

use cortex_proto::{DiscoveryRequest, DiscoveryStatus};
use cortex_tests::daemon::Daemon;
use cortex_tests::descriptors;
use cortex_tests::messages::{decode_response, ping_of_size, topic, topic_names};
use cortex_tests::python;
use cortex_tests::transcript::status;
use cortex_tests::zmq_peer::ZmqPeer;
use zmq::{Context, DEALER, REQ, SocketEvent};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn start_on_both_transports() -> [Daemon; 2] {
    [Daemon::start(), Daemon::start_tcp()]
}

fn lookup(name: &str) -> Vec<u8> {
    DiscoveryRequest::lookup(name).to_bytes()
}

/// Whether the reply answers the lookup of this unknown name.
fn is_reply_about(reply: &[u8], name: &str) -> bool {
    decode_response(reply).message == format!("Topic {name} not found")
}

#[test]
fn a_req_socket_sends_many_requests() {
    for daemon in start_on_both_transports() {
        let peer = ZmqPeer::req(daemon.address());
        for turn in 0..200 {
            let name = format!("/{turn}");
            assert!(is_reply_about(&peer.request_bytes(&lookup(&name)), &name));
        }
    }
}

#[test]
fn a_dealer_gets_each_reply_with_the_frames_before_its_delimiter() {
    for daemon in start_on_both_transports() {
        let peer = ZmqPeer::dealer(daemon.address());
        let long = vec![7; 300];
        for envelope in [&[][..], &[&b"one"[..]], &[b"one", b"two", &long, b"\0"]] {
            let body = lookup("/x");
            peer.send_parts(&[envelope, &[b"", &body]].concat());
            let parts = peer.receive_parts();
            let (reply, before) = parts.split_last().unwrap();
            assert_eq!(before, [envelope, &[b""]].concat());
            assert!(is_reply_about(reply, "/x"));
        }
    }
}

#[test]
fn a_dealer_that_sends_500_requests_ahead_gets_500_replies_in_order() {
    for daemon in start_on_both_transports() {
        let peer = ZmqPeer::dealer(daemon.address());
        for number in 0..500 {
            peer.send_parts(&[b"", &lookup(&format!("/{number}"))]);
        }
        for number in 0..500 {
            let parts = peer.receive_parts();
            assert_eq!((parts.len(), parts[0].len()), (2, 0));
            assert!(is_reply_about(&parts[1], &format!("/{number}")));
        }
        assert!(!peer.receives_within(20), "a reply arrived twice");
    }
}

#[test]
fn a_correlated_req_socket_gets_replies() {
    for daemon in start_on_both_transports() {
        let peer = ZmqPeer::new(daemon.address(), REQ, |socket| socket.set_req_correlate(true));
        for turn in 0..100 {
            let name = format!("/{turn}");
            assert!(is_reply_about(&peer.request_bytes(&lookup(&name)), &name));
        }
    }
}

#[test]
fn a_relaxed_req_socket_may_send_before_it_has_read_the_reply() {
    for daemon in start_on_both_transports() {
        let peer = ZmqPeer::new(daemon.address(), REQ, |socket| {
            socket.set_req_relaxed(true)?;
            socket.set_req_correlate(true)
        });
        for turn in 0..100 {
            peer.socket().send(lookup("/abandoned"), 0).unwrap();
            let name = format!("/{turn}");
            assert!(is_reply_about(&peer.request_bytes(&lookup(&name)), &name));
        }
    }
}

#[test]
fn heartbeats_keep_an_idle_connection_open() {
    for (daemon, monitor) in start_on_both_transports().iter().zip(["inproc://ipc", "inproc://tcp"])
    {
        let context = Context::new();
        let socket_events = context.socket(zmq::PAIR).unwrap();
        let peer = ZmqPeer::in_context(&context, daemon.address(), REQ, |socket| {
            socket.set_heartbeat_ivl(50)?;
            socket.set_heartbeat_timeout(1000)?;
            socket.set_heartbeat_ttl(1000)?;
            socket.monitor(monitor, SocketEvent::DISCONNECTED.to_raw().into())?;
            socket_events.connect(monitor)
        });
        let look_up = || assert!(is_reply_about(&peer.request_bytes(&lookup("/x")), "/x"));
        look_up();
        let disconnected = socket_events.poll(zmq::POLLIN, 2500).unwrap();
        assert_eq!(disconnected, 0, "the connection was closed");
        look_up();
    }
}

#[test]
fn several_peers_may_claim_the_same_routing_id() {
    for daemon in start_on_both_transports() {
        let claim = |id: &'static [u8]| {
            ZmqPeer::new(daemon.address(), DEALER, |socket| socket.set_identity(id))
        };
        let peers = [claim(b"same"), claim(b"same"), claim(b"same"), claim(b"other"), claim(b"x")];
        for turn in 0..20 {
            let name = |number| format!("/{number}/{turn}");
            for (number, peer) in peers.iter().enumerate() {
                peer.send_parts(&[b"", &lookup(&name(number))]);
            }
            for (number, peer) in peers.iter().enumerate() {
                assert!(is_reply_about(&peer.receive_parts()[1], &name(number)));
            }
        }
    }
}

#[test]
fn requests_of_up_to_64_kib_are_served_and_of_up_to_1_mib_refused() {
    for daemon in start_on_both_transports() {
        let peer = ZmqPeer::req(daemon.address());
        for size in [255, 256, 4 * KIB, 64 * KIB - 1, 64 * KIB] {
            assert_eq!(
                decode_response(&peer.request_bytes(&ping_of_size(size))).message,
                "pong",
                "{size} B"
            );
        }
        for size in [64 * KIB + 1, 100_000, MIB - 1, MIB] {
            let reply = peer.request_bytes(&ping_of_size(size));
            assert_eq!(status(&reply), DiscoveryStatus::Error, "{size} B");
        }
        assert!(!peer.receives_within(20), "more than one reply to a request");
        assert_eq!(peer.request(&DiscoveryRequest::ping()).message, "pong");
    }
}

#[test]
fn a_request_of_over_1_mib_closes_only_its_senders_connection() {
    for daemon in start_on_both_transports() {
        let other = ZmqPeer::req(daemon.address());
        assert_eq!(other.request(&DiscoveryRequest::ping()).message, "pong");
        let context = Context::new();
        let events = context.socket(zmq::PAIR).unwrap();
        let peer = ZmqPeer::in_context(&context, daemon.address(), REQ, |socket| {
            socket.monitor("inproc://events", SocketEvent::DISCONNECTED.to_raw().into())?;
            events.set_rcvtimeo(30_000)?;
            events.connect("inproc://events")
        });
        peer.socket().send(ping_of_size(MIB + 1), 0).unwrap();
        events.recv_multipart(0).expect("the daemon closes the connection");
        assert!(!peer.receives_within(20));
        assert_eq!(other.request(&DiscoveryRequest::ping()).message, "pong");
    }
}

#[test]
fn a_reply_of_over_1_mib_arrives_whole() {
    const TOPICS: usize = 10_000;
    for daemon in start_on_both_transports() {
        let peer = ZmqPeer::new(daemon.address(), DEALER, |socket| {
            socket.set_sndhwm(0)?;
            socket.set_rcvhwm(0)
        });
        let name = |number| format!("/topic/{number}");
        for number in 0..TOPICS {
            let register = DiscoveryRequest::register(topic(&name(number), "node"));
            peer.send_parts(&[b"", &register.to_bytes()]);
        }
        for _ in 0..TOPICS {
            assert_eq!(status(&peer.receive_parts()[1]), DiscoveryStatus::Ok);
        }
        for _ in 0..3 {
            peer.send_parts(&[b"", &DiscoveryRequest::list().to_bytes()]);
        }
        for _ in 0..3 {
            let list = peer.receive_parts();
            assert!(list[1].len() > MIB, "{} B", list[1].len());
            assert!(topic_names(&decode_response(&list[1])).into_iter().eq((0..TOPICS).map(name)));
        }
    }
}

#[test]
fn hundreds_of_sockets_that_connect_at_once_all_get_replies() {
    descriptors::raise_limit();
    for daemon in start_on_both_transports() {
        let context = Context::new();
        let name = |number| format!("/{number}");
        let peers: Vec<_> = (0..300)
            .map(|number| {
                let peer = ZmqPeer::in_context(&context, daemon.address(), REQ, |_| Ok(()));
                peer.socket().send(lookup(&name(number)), 0).unwrap();
                peer
            })
            .collect();
        for (number, peer) in peers.iter().enumerate() {
            assert!(is_reply_about(&peer.receive(), &name(number)));
        }
    }
}

#[test]
fn libzmq_sockets_of_other_types_or_mechanisms_get_no_reply_and_delay_no_other_peer() {
    for daemon in start_on_both_transports() {
        let context = Context::new();
        let refused: Vec<_> = [zmq::SUB, zmq::PUSH, zmq::PAIR, zmq::REP, zmq::ROUTER]
            .into_iter()
            .map(|kind| ZmqPeer::in_context(&context, daemon.address(), kind, |_| Ok(())))
            .chain([ZmqPeer::in_context(&context, daemon.address(), REQ, |socket| {
                socket.set_plain_username(Some("somebody"))?;
                socket.set_plain_password(Some("secret"))
            })])
            .collect();
        let plain = refused.last().unwrap();
        plain.socket().send(lookup("/x"), 0).unwrap();
        let peer = ZmqPeer::req(daemon.address());
        for _ in 0..20 {
            assert_eq!(peer.request(&DiscoveryRequest::ping()).message, "pong");
        }
        assert!(!plain.receives_within(50));
    }
}

#[test]
fn all_pyzmq_transport_checks_pass() {
    for daemon in start_on_both_transports() {
        let output = python::run("transport_checks.py", &[daemon.address()]);
        assert_eq!(output.code, Some(0), "after {}:\n{}", output.stdout, output.stderr);
        assert_eq!(output.stdout.lines().count(), 7, "not every check ran:\n{}", output.stdout);
    }
}
