"""Checks of the daemon's transport with pyzmq. Prints the name of each check that passes.

    transport_checks.py DISCOVERY
"""

import asyncio
import sys

import zmq
import zmq.asyncio

import wire

PONG = {"status": wire.OK, "message": "pong", "topic_info": None, "topics": []}
PING = wire.pack_request(wire.PING)


def lookup_of(name):
    return wire.pack_request(wire.LOOKUP, name)


def not_found(name):
    return {**PONG, "status": wire.NOT_FOUND, "message": f"Topic {name} not found"}


class SocketFactory:
    def __init__(self, discovery):
        self.discovery = discovery
        self.context = zmq.Context()

    def open(self, kind, **options):
        socket = self.context.socket(kind)
        socket.linger = 0
        socket.rcvtimeo = socket.sndtimeo = wire.TIMEOUT_MS
        for option, value in options.items():
            socket.setsockopt(getattr(zmq, option), value)
        socket.connect(self.discovery)
        return socket


def expect(found, expected):
    assert found == expected, f"{found!r} instead of {expected!r}"


def ping(socket):
    socket.send(PING)
    expect(wire.unpack_response(socket.recv()), PONG)


def a_req_socket_sends_many_requests(sockets):
    with sockets.open(zmq.REQ) as socket:
        for _ in range(100):
            ping(socket)


def a_correlated_req_gets_its_own_reply_after_it_abandoned_another(sockets):
    with sockets.open(zmq.REQ, REQ_CORRELATE=1, REQ_RELAXED=1) as socket:
        for number in range(50):
            socket.send(lookup_of(f"/abandoned/{number}"))
            socket.send(lookup_of(f"/wanted/{number}"))
            wanted = not_found(f"/wanted/{number}")
            expect(wire.unpack_response(socket.recv()), wanted)


def a_dealer_gets_its_replies_in_order(sockets):
    with sockets.open(zmq.DEALER) as socket:
        for number in range(500):
            socket.send_multipart([b"%d" % number, b"", lookup_of(f"/{number}")])
        for number in range(500):
            envelope, delimiter, body = socket.recv_multipart()
            expect((envelope, delimiter), (b"%d" % number, b""))
            expect(wire.unpack_response(body), not_found(f"/{number}"))


def a_req_with_heartbeats_stays_connected(sockets):
    options = {"HEARTBEAT_IVL": 20, "HEARTBEAT_TIMEOUT": 30_000, "HEARTBEAT_TTL": 60_000}
    with sockets.open(zmq.REQ, **options) as socket:
        for _ in range(10):
            ping(socket)


def two_peers_may_claim_the_same_routing_id(sockets):
    with sockets.open(zmq.REQ, ROUTING_ID=b"same") as one:
        with sockets.open(zmq.REQ, ROUTING_ID=b"same") as other:
            for _ in range(20):
                one.send(lookup_of("/one"))
                other.send(lookup_of("/other"))
                expect(wire.unpack_response(other.recv()), not_found("/other"))
                expect(wire.unpack_response(one.recv()), not_found("/one"))


def a_request_of_64_kib_is_served_and_a_larger_one_refused(sockets):
    with sockets.open(zmq.REQ) as socket:
        request = wire.pack({"command": wire.PING, "topic_name": None, "filler": b""})
        # The length of the larger filler takes one more byte than the two counted here.
        filler = b"x" * (64 * 1024 - len(request) - 1)
        request = wire.pack({"command": wire.PING, "topic_name": None, "filler": filler})
        expect(len(request), 64 * 1024)
        socket.send(request)
        expect(wire.unpack_response(socket.recv()), PONG)
        socket.send(request + b"x")
        expect(wire.unpack_response(socket.recv())["status"], wire.ERROR)
        ping(socket)


def many_coroutines_send_requests_at_once(sockets):
    async def request(context, number):
        with context.socket(zmq.REQ) as socket:
            socket.linger = 0
            socket.connect(sockets.discovery)
            for turn in range(5):
                await socket.send(lookup_of(f"/{number}/{turn}"))
                reply = wire.unpack_response(await socket.recv())
                expect(reply, not_found(f"/{number}/{turn}"))

    async def request_all():
        with zmq.asyncio.Context() as context:
            requests = asyncio.gather(*(request(context, number) for number in range(100)))
            await asyncio.wait_for(requests, wire.TIMEOUT_MS / 1000)

    asyncio.run(request_all())


CHECKS = (
    a_req_socket_sends_many_requests,
    a_correlated_req_gets_its_own_reply_after_it_abandoned_another,
    a_dealer_gets_its_replies_in_order,
    a_req_with_heartbeats_stays_connected,
    two_peers_may_claim_the_same_routing_id,
    a_request_of_64_kib_is_served_and_a_larger_one_refused,
    many_coroutines_send_requests_at_once,
)


def main(discovery):
    sockets = SocketFactory(discovery)
    for check in CHECKS:
        check(sockets)
        print(check.__name__, flush=True)
    sockets.context.term()


main(*sys.argv[1:])
