"""A daemon on a REP socket that behaves as the Python reference.

    reference_daemon.py ADDRESS

Prints `ready` when it listens. Exits after SHUTDOWN, or when its standard input closes.
"""

import os
import sys
from typing import Any, NamedTuple

import zmq

import wire

COMMANDS = (wire.REGISTER, wire.UNREGISTER, wire.LOOKUP, wire.LIST, wire.PING, wire.SHUTDOWN)


class Topic(NamedTuple):
    """A topic has exactly these keys, in any order. The daemon does not check the values."""

    name: Any
    address: Any
    message_type: Any
    fingerprint: Any
    publisher_node: Any


def reply(status, message="", topic=None, topics=()):
    response = {"status": status, "message": message}
    if topic is not None:
        response["topic_info"] = wire.pack_topic(topic._asdict())
    if topics:
        response["topics"] = [wire.pack_topic(topic._asdict()) for topic in topics]
    return wire.pack(response)


class Registry:
    def __init__(self):
        self.topics = {}
        self.ended = False

    def answer(self, body):
        try:
            request = wire.unpack(body)
            command = request["command"]
            if command not in COMMANDS:
                raise ValueError(f"no command {command}")
            name = request.get("topic_name")
            packed = request.get("topic_info")
            topic = Topic(**wire.unpack(packed)) if packed else None
        except Exception as error:
            return reply(wire.ERROR, f"Failed to parse request: {error}")

        if command == wire.REGISTER:
            return self.register(topic)
        if command == wire.UNREGISTER:
            return self.unregister(name or (topic and topic.name))
        if command == wire.LOOKUP:
            return self.lookup(name)
        if command == wire.LIST:
            return reply(wire.OK, topics=self.topics.values())
        if command == wire.PING:
            return reply(wire.OK, "pong")
        self.ended = True
        return reply(wire.OK, "Shutting down")

    def register(self, topic):
        if topic is None:
            return reply(wire.ERROR, "Missing topic_info in register request")
        owner = self.topics.get(topic.name, topic).publisher_node
        if owner != topic.publisher_node:
            message = f"Topic {topic.name} already registered by {owner}"
            return reply(wire.ALREADY_EXISTS, message)
        self.topics[topic.name] = topic
        return reply(wire.OK, f"Registered topic: {topic.name}")

    def unregister(self, name):
        if not name:
            return reply(wire.ERROR, "Missing topic name in unregister request")
        if self.topics.pop(name, None) is None:
            return reply(wire.NOT_FOUND, f"Topic {name} not found")
        return reply(wire.OK, f"Unregistered topic: {name}")

    def lookup(self, name):
        if not name:
            return reply(wire.ERROR, "Missing topic_name in lookup request")
        if name not in self.topics:
            return reply(wire.NOT_FOUND, f"Topic {name} not found")
        return reply(wire.OK, topic=self.topics[name])


def main(address):
    path = address.removeprefix("ipc://")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        # The reference uses 0, which sometimes loses the reply to SHUTDOWN.
        socket.linger = 1000
        socket.bind(address)
        print("ready", flush=True)

        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(sys.stdin.fileno(), zmq.POLLIN)
        registry = Registry()
        while not registry.ended:
            ready = dict(poller.poll())
            if socket in ready:
                socket.send(registry.answer(socket.recv()))
            elif ready:
                break


main(*sys.argv[1:])
