"""A node that registers a topic and publishes messages as soon as a subscriber connects.

    publisher.py DISCOVERY TOPIC ADDRESS COUNT

Unregisters the topic and exits when its standard input closes.
"""

import json
import sys

import zmq

import wire


def main(discovery, name, address, count):
    with zmq.Context() as context, context.socket(zmq.XPUB) as data:
        data.linger = 0
        data.rcvtimeo = wire.TIMEOUT_MS
        data.bind(address)
        node = wire.Node(context, discovery)
        topic = wire.make_topic(name, "publisher", address)
        print(json.dumps(node.request(wire.REGISTER, topic=topic)), flush=True)

        subscription = data.recv()
        assert subscription == b"\x01" + name.encode(), subscription
        for number in range(int(count)):
            data.send_multipart([name.encode(), wire.pack({"number": number})])

        sys.stdin.read()
        print(json.dumps(node.request(wire.UNREGISTER, name)), flush=True)
        node.socket.close()


main(*sys.argv[1:])
