"""A program that watches topics with only a REQ socket and MessagePack.

    watcher.py DISCOVERY [FILTER]

Prints a line for each registered topic and for each event. It continues through restarts of the
daemon and exits when its standard input closes. `docs/PROTOCOL.md` explains it.
"""

import os
import sys
import threading

import msgpack
import zmq

WATCH_TOPICS = 65
WAIT_MS = 20_000
MARGIN_MS = 2_000


def request_reply(context, address, request):
    """Sends a request on a new socket. Returns None when no reply arrives in time."""
    with context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.rcvtimeo = WAIT_MS + MARGIN_MS
        socket.connect(address)
        # libzmq does not send the request again after the daemon was killed. The monitor reports
        # the lost connection.
        with socket.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
            socket.send(msgpack.packb(request))
            poller = zmq.Poller()
            poller.register(socket, zmq.POLLIN)
            poller.register(monitor, zmq.POLLIN)
            ready = dict(poller.poll(WAIT_MS + MARGIN_MS))
            reply = socket.recv() if socket in ready else None
            socket.disable_monitor()
    return msgpack.unpackb(reply) if reply is not None else None


def watch(address, pattern):
    context = zmq.Context()
    since = None
    while True:
        ext = {"wait_ms": WAIT_MS}
        if pattern:
            ext["filter"] = pattern
        if since:
            ext["since"] = since
        request = {"command": WATCH_TOPICS, "topic_name": None, "ext": ext}
        reply = request_reply(context, address, request)
        if reply is None:
            continue
        reply_ext = reply.get("ext")
        if reply_ext is None:
            sys.exit("this daemon has no extensions: poll LIST_TOPICS")
        if reply["status"] != 0:
            sys.exit(reply["message"])
        if reply_ext.get("snapshot"):
            print("snapshot", flush=True)
            for topic in map(msgpack.unpackb, reply.get("topics", [])):
                print("present", topic["name"], flush=True)
        for event in reply_ext.get("events", []):
            words = [event["kind"], event["topic_name"], event.get("reason")]
            print(*filter(None, words), flush=True)
        since = {"epoch": reply_ext["epoch"], "revision": reply_ext["revision"]}


def end_with_standard_input():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end_with_standard_input, daemon=True).start()
watch(*sys.argv[1:2], sys.argv[2] if len(sys.argv) > 2 else None)
