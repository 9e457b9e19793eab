"""The processes of `random_liveness.py`: nodes, and the nursery that forks them.

A node gets its commands from the driver through a SOCK_SEQPACKET socket, one JSON object each, and
answers each with one. It dies when the driver does.
"""

import json
import os
import select
import signal
import socket
import time
import traceback

import zmq

import wire

# A node that gets no reply within this time discards its socket, as the reference's nodes do.
REPLY_TIMEOUT_MS = 2000
# How long the nursery leaves an ended node a zombie.
MAX_ZOMBIE_SECONDS = 3


def start_nursery(control_path, rng):
    """Forks the process that forks nodes: it has no ZeroMQ context and no other thread.

    Returns a function that starts a node, which then connects to the control socket.
    """
    orders, write_end = os.pipe()
    # The driver never writes to this pipe. A read from it returns when the driver has ended.
    lifeline, held = os.pipe()
    if os.fork() == 0:
        os.close(write_end)
        os.close(held)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            run_nursery(orders, lifeline, control_path, rng)
        finally:
            os._exit(0)
    os.close(orders)
    os.close(lifeline)
    return lambda: os.write(write_end, b".")


def run_nursery(orders, lifeline, control_path, rng):
    reap_at = 0.0
    while True:
        ready, _, _ = select.select([orders], [], [], 0.2)
        if time.monotonic() >= reap_at:
            reap()
            # Until the next time, nodes that end stay zombies.
            reap_at = time.monotonic() + rng.uniform(0, MAX_ZOMBIE_SECONDS)
        if not ready:
            continue
        text = os.read(orders, 4096).decode()
        if not text:
            return
        for _ in text:
            if os.fork() == 0:
                os.close(orders)
                try:
                    NodeProcess(lifeline, control_path).run()
                except ConnectionError:
                    # The driver has ended.
                    pass
                except BaseException:
                    traceback.print_exc()
                os._exit(1)


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


class NodeProcess:
    """One node: a publisher's socket and a connection to the daemon."""

    def __init__(self, lifeline, control_path):
        self.lifeline = lifeline
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.connect(control_path)
        self.context = zmq.Context()
        self.data = None
        self.node = None
        self.discovery = None
        self.send({"pid": os.getpid()})

    def send(self, message):
        self.control.send(json.dumps(message).encode())

    def run(self):
        while command := self.control.recv(4096):
            command = json.loads(command)
            self.send(getattr(self, "do_" + command["do"])(command))

    def do_bind(self, command):
        self.data = self.context.socket(zmq.PUB)
        self.data.linger = 0
        try:
            self.data.bind(command["address"])
        except zmq.ZMQError as error:
            return {"error": str(error)}
        return {}

    def do_close(self, _command):
        # The I/O thread closes the listener. Only the end of the context waits for it.
        self.data.close()
        if self.node:
            self.node.socket.close()
            self.node = None
        self.context.term()
        self.context = zmq.Context()
        return {}

    def do_fork(self, _command):
        """Forks a child that keeps all descriptors open, also the listener."""
        child = os.fork()
        if child == 0:
            # Returns when the driver has ended.
            os.read(self.lifeline, 1)
            os._exit(0)
        return {"child": child}

    def do_register(self, command):
        topic = wire.make_topic(command["topic"], command["node"], command["address"])
        topic["fingerprint"] = command["fingerprint"]
        return self.request(command, wire.REGISTER, topic=topic)

    def do_unregister(self, command):
        return self.request(command, wire.UNREGISTER, name=command["topic"])

    def request(self, command, code, **operands):
        if self.node is None or self.discovery != command["discovery"]:
            self.discovery = command["discovery"]
            self.node = wire.Node(self.context, self.discovery)
            self.node.socket.rcvtimeo = REPLY_TIMEOUT_MS
        sent = time.monotonic()
        try:
            reply = self.node.request(code, **operands)
        except zmq.Again:
            self.node.socket.close()
            self.node = None
            return {"status": None}
        seconds = time.monotonic() - sent
        return {"status": reply["status"], "message": reply["message"], "seconds": seconds}
