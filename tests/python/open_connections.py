"""Opens raw connections and holds them until its standard input closes.

    open_connections.py ADDRESS COUNT

Prints how many there are, once all are opened.
"""

import resource
import socket
import sys


def connect(address):
    transport, _, name = address.partition("://")
    if transport == "tcp":
        host, _, port = name.rpartition(":")
        return socket.create_connection((host, int(port)))
    # With a timeout the system would refuse, and not wait, while the backlog is full.
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(name)
    return connection


def main(address, count):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    connections = [connect(address) for _ in range(int(count))]
    print(len(connections), flush=True)
    sys.stdin.read()


main(*sys.argv[1:])
