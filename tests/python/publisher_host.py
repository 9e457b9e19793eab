"""Forks publishers. Each is a process with its own ZeroMQ context.

    publisher_host.py DISCOVERY

Reads a line of JSON for each: {"id", "node", "address", "topics", "endpoint", "disconnects"}.

The publisher registers the topics one by one, prints
{"id", "pid", "address", "reply_counts": {status: count}, "last_message"}, and runs until the host
exits. With `disconnects` it closes its connection to the daemon before it prints. `endpoint` is:

- "own_socket": the publisher binds a PUB socket at the address;
- "silent_child": a child inherits the listening socket and does not serve it;
- "serving_child": a child inherits the socket, listens, and serves it with a PUB socket;
- "full_backlog": the publisher listens over TCP with a full backlog and accepts no connection;
- "unbound": no process listens.

A line with only a number kills the publisher with that pid. Tests use this when another pid
namespace hides the publisher from them.

A publisher that exits stays a zombie until the host exits.
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


class PublisherHost:
    def __init__(self, discovery):
        self.discovery = discovery
        # The host never writes to this pipe. A publisher's read returns when the host has exited.
        self.read_end, self.write_end = os.pipe()

    def start(self, spec):
        fork(lambda: self.publish(spec))

    def wait(self):
        os.read(self.read_end, 1)
        os._exit(0)

    def publish(self, spec):
        os.close(self.write_end)
        address, keep = self.listen(spec)
        with zmq.Context() as context:
            if spec["endpoint"] == "own_socket":
                data = context.socket(zmq.PUB)
                data.bind(address)
                address = data.last_endpoint.decode().rstrip("\0")
            node = wire.Node(context, self.discovery)
            reply_counts, last_message = collections.Counter(), ""
            for name in spec["topics"]:
                topic = wire.make_topic(name, spec["node"], address)
                reply = node.request(wire.REGISTER, topic=topic)
                reply_counts[reply["status"]] += 1
                last_message = reply["message"]
            if spec["disconnects"]:
                node.socket.close()
            report = {"id": spec["id"], "pid": os.getpid(), "address": address}
            report |= {"reply_counts": reply_counts, "last_message": last_message}
            # One write, since other publishers write to the same pipe.
            os.write(1, (json.dumps(report) + "\n").encode())
            self.wait()

    def listen(self, spec):
        """Creates the endpoint, unless it is a PUB socket of the publisher itself."""
        address, kind = spec["address"], spec["endpoint"]
        if kind in ("own_socket", "unbound"):
            return address, None
        if kind == "full_backlog":
            listener = socket.create_server(("127.0.0.1", 0), backlog=0)
            fill = []
            # These connections fill the backlog, so that connections of other peers stay pending.
            for _ in range(8):
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex(listener.getsockname())
                fill.append(one)
            return f"tcp://127.0.0.1:{listener.getsockname()[1]}", (listener, fill)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address.removeprefix("ipc://"))
        listener.listen(100)
        if kind == "silent_child":
            fork(self.wait)
        else:
            fork(lambda: self.serve(address, listener))
        return address, listener

    def serve(self, address, listener):
        # From now on the kernel names this process as the one that listens.
        listener.listen(100)
        with zmq.Context() as context:
            data = context.socket(zmq.PUB)
            data.setsockopt(zmq.USE_FD, listener.fileno())
            data.bind(address)
            self.wait()


def main(discovery):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    host = PublisherHost(discovery)
    for line in sys.stdin:
        spec = json.loads(line)
        if isinstance(spec, int):
            os.kill(spec, signal.SIGKILL)
        else:
            host.start(spec)


main(*sys.argv[1:])
