"""A node that performs the actions of its arguments and prints each reply as a line of JSON.

    node.py DISCOVERY ACTION [then ACTION]...

The actions: ping, list, shutdown, lookup NAME, unregister NAME, register NAME NODE [ADDRESS];
`bind ADDRESS` binds a PUB socket, and `hold` waits until standard input closes.
"""

import itertools
import json
import sys

import zmq

import wire

COMMANDS = {
    "ping": wire.PING,
    "list": wire.LIST,
    "shutdown": wire.SHUTDOWN,
    "lookup": wire.LOOKUP,
    "unregister": wire.UNREGISTER,
}


def perform(node, verb, *operands):
    if verb == "register":
        return node.request(wire.REGISTER, topic=wire.make_topic(*operands))
    return node.request(COMMANDS[verb], *operands)


def main(discovery, *words):
    with zmq.Context() as context, context.socket(zmq.PUB) as data:
        node = wire.Node(context, discovery)
        for is_action, action in itertools.groupby(words, lambda word: word != "then"):
            if not is_action:
                continue
            action = list(action)
            if action == ["hold"]:
                sys.stdin.read()
            elif action[0] == "bind":
                data.bind(action[1])
            else:
                print(json.dumps(perform(node, *action)), flush=True)
        node.socket.close()


main(*sys.argv[1:])
