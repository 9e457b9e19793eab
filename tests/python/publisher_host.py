"""Forks publishers, each a process of its own with a ZeroMQ context of its own.

    publisher_host.py DISCOVERY

Takes a line of JSON for each: {"id", "node", "address", "topics", "listener", "leaves"}.

The publisher binds a PUB socket at the address, registers the topics one by one, prints
{"id", "pid", "address", "replies": {status: count}, "said": the last message}, and publishes until
the nursery ends. `leaves` closes its connection to the daemon first. `listener` says who holds the
endpoint: "own" (the publisher alone), "silent" (also a child that does not serve it), "served"
(a child serves it, with a ZeroMQ socket), "full" (nobody takes connections, and the queue is
full) or "none".

A line that is only a number kills the publisher of that pid, where another pid namespace hides it.

A publisher that ends stays a zombie until the nursery ends too.
"""

import collections
import json
import os
import signal
import socket
import sys

import zmq

import wire


def fork(run):
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(1)
    return pid


class Nursery:
    def __init__(self, discovery):
        self.discovery = discovery
        # Readable, at its end, once the nursery is gone; nothing is ever written to it.
        self.life, self.own_life = os.pipe()

    def start(self, order):
        fork(lambda: self.publish(order))

    def wait(self):
        os.read(self.life, 1)
        os._exit(0)

    def publish(self, order):
        os.close(self.own_life)
        address, keep = self.listen(order)
        with zmq.Context() as context:
            if order["listener"] == "own":
                data = context.socket(zmq.PUB)
                data.bind(address)
                address = data.last_endpoint.decode().rstrip("\0")
            node = wire.Node(context, self.discovery)
            replies, said = collections.Counter(), ""
            for name in order["topics"]:
                topic = wire.a_topic(name, order["node"], address)
                reply = node.ask(wire.REGISTER, topic=topic)
                replies[reply["status"]] += 1
                said = reply["message"]
            if order["leaves"]:
                node.socket.close()
            told = {"id": order["id"], "pid": os.getpid(), "address": address}
            told |= {"replies": replies, "said": said}
            # In one piece, since others write there too.
            os.write(1, (json.dumps(told) + "\n").encode())
            self.wait()

    def listen(self, order):
        """The endpoints that are not simply a socket of the publisher itself."""
        address, kind = order["address"], order["listener"]
        if kind in ("own", "none"):
            return address, None
        if kind == "full":
            listener = socket.create_server(("127.0.0.1", 0), backlog=0)
            fill = []
            # Connects that are not taken stay on their way for ever, as those of others will.
            for _ in range(8):
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex(listener.getsockname())
                fill.append(one)
            return f"tcp://127.0.0.1:{listener.getsockname()[1]}", (listener, fill)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address.removeprefix("ipc://"))
        listener.listen(100)
        if kind == "silent":
            fork(self.wait)
        else:
            fork(lambda: self.serve(address, listener))
        return address, listener

    def serve(self, address, listener):
        with zmq.Context() as context:
            data = context.socket(zmq.PUB)
            data.setsockopt(zmq.USE_FD, listener.fileno())
            data.bind(address)
            self.wait()


def main(discovery):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nursery = Nursery(discovery)
    for line in sys.stdin:
        order = json.loads(line)
        if isinstance(order, int):
            os.kill(order, signal.SIGKILL)
        else:
            nursery.start(order)


main(*sys.argv[1:])
