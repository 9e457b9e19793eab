"""Opens raw connections and keeps them open until its standard input closes.

    open_connections.py ADDRESS COUNT

Prints their number when all are open.
"""

import resource
import socket
import sys


def connect(address):
    transport, _, name = address.partition("://")
    if transport == "tcp":
        host, _, port = name.rpartition(":")
        return socket.create_connection((host, int(port)))
    # With a timeout, connect would fail instead of waiting while the backlog is full.
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
