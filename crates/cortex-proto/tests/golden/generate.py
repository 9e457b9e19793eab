"""Packs messages of the discovery protocol with Python's msgpack, as the oracle for cortex-proto.

Prints a JSON array; each item has a label, the kind of message, its fields and its bytes in hex.
Integers beyond 2^53 are written as text, since JSON tools round them.
"""

import json
import sys

import msgpack


def pack(value):
    return msgpack.packb(value, use_bin_type=True)


def info(name="/camera/image", fingerprint=7, address="ipc:///tmp/x.sock", node="node"):
    return {
        "name": name,
        "address": address,
        "message_type": "ImageMessage",
        "fingerprint": fingerprint,
        "publisher_node": node,
    }


def item(label, kind, message, fields):
    return {"label": label, "kind": kind, "fields": fields, "bytes": message.hex()}


def shown(topic):
    return {**topic, "fingerprint": str(topic["fingerprint"])}


def topic_item(label, topic):
    return item(label, "topic_info", pack(topic), {"topic_info": shown(topic)})


def numbers_as_text(value):
    if isinstance(value, bytes):
        return shown(msgpack.unpackb(value))
    if isinstance(value, dict):
        return {key: numbers_as_text(each) for key, each in value.items()}
    if isinstance(value, list):
        return [numbers_as_text(each) for each in value]
    return str(value) if type(value) is int else value


def request_item(label, command, name=None, topic=None, ext=None):
    message = {"command": command, "topic_name": name}
    if topic is not None:
        message["topic_info"] = pack(topic)
    if ext is not None:
        message["ext"] = ext
    fields = {"command": str(command), "topic_name": name}
    fields["topic_info"] = None if topic is None else shown(topic)
    fields["ext"] = numbers_as_text(ext)
    return item(label, "request", pack(message), fields)


def response_item(label, status, text="", topic=None, topics=(), ext=None):
    message = {"status": status, "message": text}
    if topic is not None:
        message["topic_info"] = pack(topic)
    if topics:
        message["topics"] = [pack(each) for each in topics]
    if ext is not None:
        message["ext"] = ext
    fields = {"status": status, "message": text}
    fields["topic_info"] = None if topic is None else shown(topic)
    fields["topics"] = [shown(each) for each in topics]
    fields["ext"] = numbers_as_text(ext)
    return item(label, "response", pack(message), fields)


def items():
    fingerprints = [0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
    for fingerprint in fingerprints:
        yield topic_item(f"fingerprint {fingerprint}", info(fingerprint=fingerprint))
    for length in (1, 31, 32, 255, 256, 1024):
        yield topic_item(f"name of {length} bytes", info(name="n" * length))
    for length in (0, 31, 32, 255, 256):
        yield topic_item(f"address of {length} bytes", info(address="a" * length))
    yield topic_item("non-ASCII", info(name="/カメラ/画像", node="ノード🤖"))
    yield topic_item("empty node", info(node=""))

    yield request_item("register", 1, topic=info())
    yield request_item("register, topic info of over 255 bytes", 1, topic=info(name="n" * 256))
    yield request_item("register, topic info of over 65535 bytes", 1, topic=info(address="a" * 65536))
    yield request_item("unregister", 2, name="/camera/image")
    yield request_item("lookup", 3, name="/camera/image")
    yield request_item("lookup, non-ASCII", 3, name="/カメラ")
    for length in (0, 31, 32, 255, 256, 65536):
        yield request_item(f"lookup, name of {length} bytes", 3, name="n" * length)
    yield request_item("list", 4)
    yield request_item("ping", 5)
    yield request_item("shutdown", 99)
    for number in (0, 42, 127, 128, 256, 65536, 2**32, 2**64 - 1, -1, -32, -33, -129, -(2**15) - 1, -(2**63)):
        yield request_item(f"unknown command {number}", number)

    yield response_item("ok", 0, "pong")
    yield response_item("not found", 1, "Topic /x not found")
    yield response_item("already exists", 2, "Topic /x already registered by node")
    yield response_item("error, message of 32 bytes", 3, "e" * 32)
    yield response_item("error, message of 256 bytes", 3, "e" * 256)
    yield response_item("topic", 0, topic=info())
    for count in (0, 1, 15, 16, 300):
        topics = [info(name=f"/t/{number}", fingerprint=number) for number in range(count)]
        yield response_item(f"{count} topics", 0, topics=topics)

    # The extensions of level 1.
    yield request_item("hello", 5, ext={})
    yield request_item("describe", 3, name="/camera/image", ext={})
    yield request_item("hold by the process", 1, topic=info(), ext={"hold": "process"})
    session = {"id": "session of camera_node", "lease_ms": 10_000}
    yield request_item("hold by a session", 1, topic=info(), ext={"hold": "session", "session": session})
    yield request_item("static", 1, topic=info(), ext={"hold": "static"})
    yield request_item("renew", 66, ext={"session": {"id": "session of camera_node"}})
    guard = {"publisher_node": "camera_node", "revision": 2**64 - 1}
    yield request_item("guard", 2, name="/camera/image", ext=guard)
    yield request_item("wait", 64, name="/camera/image", ext={"wait_ms": 30_000})
    yield request_item("watch, the first time", 65, ext={"wait_ms": 0})
    since = {"epoch": 2**64 - 1, "revision": 9}
    yield request_item("watch, from then on", 65, ext={"since": since, "wait_ms": 60_000})
    whole = {"filter": "/camera/**", "since": since, "wait_ms": 60_000, "limit": 100}
    yield request_item("watch with all there is", 65, ext=whole)
    yield request_item("stats", 67, ext={})
    yield request_item("cancel", 68, ext={})

    hello = {
        "level": 1,
        "server": "cortex-discovery/0.1.0",
        "epoch": 2**64 - 1,
        "revision": 2**32,
        "pid": 4194304,
        "uptime_ms": 128,
        "topics": 0,
    }
    yield response_item("hello of 0.1.0", 0, "pong", ext=hello)
    yield response_item("hello", 0, "pong", ext={**hello, "cancel": True})
    known = {"uid": 1000, "pid": 300, "hold": "process", "revision": 7, "age_ms": 65536, "endpoint": "alive"}
    unknown = {"uid": None, "pid": None, "hold": "static", "revision": 8, "age_ms": 0, "endpoint": "unknown"}
    yield response_item("description", 0, topic=info(), ext={"entry": known})
    described = {"entries": [known, {**unknown, "hold": "session", "endpoint": "orphaned"}]}
    yield response_item("descriptions", 0, topics=[info(), info(name="/x")], ext=described)
    states = [{**unknown, "endpoint": state} for state in ("dead", "unreachable")]
    states.append({**unknown, "endpoint_reason": "no permission"})
    topics = [info(), info(name="/x"), info(name="/y")]
    yield response_item("states of endpoints", 0, topics=topics, ext={"entries": states})
    yield response_item("no descriptions", 0, ext={"entries": []})
    yield response_item("held", 0, "Registered topic: /x", ext={"revision": 9, "lease_ms": 10_000})
    yield response_item("renewed", 0, ext={"lease_ms": 10_000, "known": True})
    yield response_item("not known", 0, ext={"lease_ms": 500, "known": False})
    yield response_item("cancelled", 0, ext={"cancelled": 1})
    yield response_item("answered before", 0, ext={"cancelled": 0})
    place = {"epoch": 2**64 - 1, "revision": 12}
    there = [info(), info(name="/x")]
    yield response_item("snapshot", 0, topics=there, ext={**place, "snapshot": True})
    yield response_item("snapshot of nothing", 0, ext={**place, "revision": 0, "snapshot": True})
    topic = {"topic_name": "/camera/image", "topic_info": pack(info())}
    events = [
        {"kind": "registered", "revision": 9, **topic},
        {"kind": "updated", "revision": 10, **topic},
        {"kind": "unregistered", "revision": 11, **topic, "reason": "unregistered"},
    ]
    reasons = ("owner exited", "lease expired", "endpoint dead")
    events += [{"kind": "evicted", "revision": 300, **topic, "reason": reason} for reason in reasons]
    yield response_item("events", 0, ext={**place, "events": events})
    yield response_item("one event", 0, ext={**place, "events": [{**events[2], "revision": 12}]})
    yield response_item("no events", 0, ext={**place, "events": []})
    counts = {"connections": 3, "evicted": 2**32, "waits": 128}
    yield response_item("counts", 0, ext={"topics": 5, **counts})
    yield response_item("error to a request with ext", 3, "Missing topic_name in lookup request", ext={})


json.dump(list(items()), sys.stdout, ensure_ascii=False, indent=1)
print()
