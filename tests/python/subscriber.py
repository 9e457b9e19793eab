"""A node that waits for a topic, subscribes to it and prints each message as a line.

    subscriber.py DISCOVERY TOPIC COUNT
"""

import json
import sys

import zmq

import wire


def find(node, name, data):
    for _ in range(wire.TIMEOUT_MS // 20):
        reply = node.request(wire.LOOKUP, name)
        if reply["status"] == wire.OK:
            return reply["topic_info"]
        print(json.dumps(reply), flush=True)
        # A legacy node can only sleep between two LOOKUPs.
        data.poll(20)
    raise TimeoutError(f"no node registers {name}")


def main(discovery, name, count):
    with zmq.Context() as context, context.socket(zmq.SUB) as data:
        data.linger = 0
        data.rcvtimeo = wire.TIMEOUT_MS
        node = wire.Node(context, discovery)
        topic = find(node, name, data)
        print(json.dumps(topic), flush=True)

        data.subscribe(name)
        data.connect(topic["address"])
        for _ in range(int(count)):
            name_frame, payload = data.recv_multipart()
            print(json.dumps({"topic": name_frame.decode(), **wire.unpack(payload)}), flush=True)
        node.socket.close()


main(*sys.argv[1:])
