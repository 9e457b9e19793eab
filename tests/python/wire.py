"""The discovery protocol of a Python node: MessagePack maps over a REQ socket."""

import msgpack
import zmq

REGISTER, UNREGISTER, LOOKUP, LIST, PING, SHUTDOWN = 1, 2, 3, 4, 5, 99
OK, NOT_FOUND, ALREADY_EXISTS, ERROR = 0, 1, 2, 3

TOPIC_KEYS = ("name", "address", "message_type", "fingerprint", "publisher_node")

TIMEOUT_MS = 30_000


def pack(value):
    return msgpack.packb(value, use_bin_type=True)


def unpack(data):
    return msgpack.unpackb(data, raw=False)


def pack_topic(topic):
    return pack({key: topic[key] for key in TOPIC_KEYS})


def unpack_topic(data):
    topic = unpack(data)
    if set(topic) != set(TOPIC_KEYS):
        raise ValueError(f"a topic with the keys {list(topic)}")
    return topic


def pack_request(command, name=None, topic=None):
    request = {"command": command, "topic_name": name}
    if topic is not None:
        request["topic_info"] = pack_topic(topic)
    return pack(request)


def unpack_response(data):
    response = unpack(data)
    found = response.get("topic_info")
    return {
        "status": response["status"],
        "message": response["message"],
        "topic_info": unpack_topic(found) if found else None,
        "topics": [unpack_topic(topic) for topic in response.get("topics", [])],
    }


def make_topic(name, node, address=None):
    return {
        "name": name,
        "address": address or f"ipc:///run/nodes{name}.sock",
        "message_type": "TestMessage",
        "fingerprint": 0x1234_5678_9ABC_DEF0,
        "publisher_node": node,
    }


class Node:
    """A node's connection to the daemon."""

    def __init__(self, context, discovery):
        self.socket = context.socket(zmq.REQ)
        self.socket.linger = 0
        self.socket.rcvtimeo = self.socket.sndtimeo = TIMEOUT_MS
        self.socket.connect(discovery)

    def request(self, command, name=None, topic=None):
        self.socket.send(pack_request(command, name, topic))
        return unpack_response(self.socket.recv())
