"""Leaves a child that holds the lock and the listening socket of a daemon that has ended.

    leftover_child.py SOCKET

Prints nothing. The child ends as soon as a program connects to the socket.
"""

import fcntl
import os
import socket
import sys

path = sys.argv[1]
lock = os.open(path + ".lock", os.O_CREAT | os.O_WRONLY, 0o600)
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
if os.fork() == 0:
    # The test waits for the end of the output.
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    listener.settimeout(30)
    listener.accept()
