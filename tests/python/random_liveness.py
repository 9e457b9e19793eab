"""A random life of nodes and their daemon, against a model that knows who lives.

    random_liveness.py DAEMON SEED SECONDS

Nodes start, register over the Unix socket and over TCP, are killed, stopped and replaced by others
at the same endpoints, fork children that keep their listeners, close their sockets, and register
topics for each other; the daemon is killed, ended and started again with its state file. All the
time the script compares LIST, and the answers to REGISTER, with the model in `liveness_model.py`:

- the topic of a living publisher is always listed while the daemon answers;
- the topic of a dead owner that the daemon watches is listed for at most 1 s, others for as long as
  their rule says;
- no name is refused for the sake of a dead owner, and none of a living one is given away.

It prints the seed, what it has done, and the result. At the first violation it prints the story of
the topic and exits with 1. The seed decides which actions come; their exact times differ from run
to run.
"""

import collections
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time

import zmq

import liveness_nodes
import wire
from liveness_model import ALREADY_EXISTS, ERROR, OK, Model, Process, Registration

PROBE_INTERVAL = 1.0
NODE_NAMES = [f"node{number}" for number in range(8)]
TOPICS = [f"/topic/{number}" for number in range(20)]
IPC_ENDPOINTS, TCP_ENDPOINTS = 7, 7
# The number of living nodes that the script aims at.
POPULATION = 14
# Nodes that have started and do nothing yet.
SPARES = 3
LIST_PAUSE = 0.03
LIST_TIMEOUT = 2.0
MAX_ACTION_PAUSE = 0.1
MAX_DOWN_TIME = 1.5
# The longest time that a REGISTER waits for a probe.
MAX_REGISTER_WAIT = 0.3
# For how long a pause of the machine counts as an excuse.
LAG_SECONDS = 3.0
# The pause between two requests about one topic.
SETTLE_PAUSE = 0.3
SENT_KEYS = ("do", "topic", "node", "address", "fingerprint", "discovery")


class Violation(Exception):
    """The daemon has broken a rule, with these registrations of a topic."""

    def __init__(self, text, topic=None, *registrations):
        super().__init__(text)
        self.topic = topic
        self.registrations = registrations


class Daemon:
    """The daemon's process, which runs or not."""

    def __init__(self, binary, directory, port):
        self.log_path = f"{directory}/daemon.log"
        # For nodes that the daemon sees, and for the others.
        self.addresses = {
            True: f"ipc://{directory}/discovery.sock",
            False: f"tcp://127.0.0.1:{port}",
        }
        options = ["--state", f"{directory}/state.db", "--probe-interval", f"{PROBE_INTERVAL}s"]
        addresses = [word for address in self.addresses.values() for word in ("--address", address)]
        self.command = [binary, *addresses, *options, "--log-level", "debug"]
        self.process = None

    @property
    def runs(self):
        return self.process is not None

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stderr=log)

    def end(self, how):
        self.process.send_signal(how)
        code = self.process.wait(timeout=10)
        self.process = None
        # SIGTERM may come before the process has set its signal handlers.
        if how == signal.SIGTERM and code not in (0, -signal.SIGTERM):
            raise Violation(f"the daemon ended with {code} after SIGTERM")

    def check(self):
        if self.runs and self.process.poll() is not None:
            raise Violation(f"the daemon has ended by itself with {self.process.returncode}")


class Node:
    """A node's process, and its commands under way."""

    def __init__(self, process, control):
        self.process = process
        self.control = control
        self.name = None
        self.endpoint = None
        self.is_seen = True
        self.commands = collections.deque()
        self.running = None
        self.child = None
        self.is_stopped = False
        self.has_socket = False

    @property
    def is_idle(self):
        return self.running is None and not self.commands


class Run:
    """One run: the world, the model of it, and the actions."""

    def __init__(self, binary, seed, directory):
        self.rng = random.Random(seed)
        control_path = f"{directory}/control"
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.bind(control_path)
        self.control.listen(100)
        # Before there is a ZeroMQ context.
        self.fork_node = liveness_nodes.start_nursery(control_path, random.Random(seed))
        ports = free_ports(self.rng, TCP_ENDPOINTS + 1)
        ipc = [f"ipc://{directory}/data{number}.sock" for number in range(IPC_ENDPOINTS)]
        tcp = [f"tcp://127.0.0.1:{port}" for port in ports[1:]]
        self.model = Model(PROBE_INTERVAL, ipc + tcp)
        self.daemon = Daemon(binary, directory, ports[0])
        self.nodes = []
        self.spares = []
        # The number of nodes that were forked and have not connected yet.
        self.unborn = 0
        self.fingerprints = 0
        # The topics with a request under way, and when the last one ended.
        self.busy = set()
        self.settled_at = {}
        # What is to be done later: a time and a function.
        self.agenda = []
        self.counts = collections.Counter()
        self.slowest = collections.defaultdict(float)
        self.last_listed = {}
        self.context = zmq.Context()
        self.lister = None
        self.list_sent = None
        self.next_list = 0.0
        # Processes that were killed and have not ended.
        self.dying = []
        # How long this script has stood still, and replies have taken, at which times.
        self.lags = collections.deque()

    def run(self, seconds):
        end = time.monotonic() + seconds
        self.daemon.start()
        next_action = last = 0.0
        while (now := time.monotonic()) < end:
            self.note_lag(now, now - last if last else 0.0)
            last = now
            self.note_ends(now)
            self.daemon.check()
            self.model.tick(now)
            for entry in [entry for entry in self.agenda if entry[0] <= now]:
                self.agenda.remove(entry)
                entry[1](now)
            while len(self.spares) + self.unborn < SPARES:
                self.unborn += 1
                self.fork_node()
            if now >= next_action:
                self.act(now)
                next_action = now + self.rng.uniform(0, MAX_ACTION_PAUSE)
            self.list_topics(now)
            self.receive()

    def note_lag(self, now, seconds):
        self.lags.append((now, seconds))
        while self.lags[0][0] < now - LAG_SECONDS:
            self.lags.popleft()

    def note_ends(self, now):
        for process in [process for process in self.dying if not is_running(process.pid)]:
            self.dying.remove(process)
            process.ended_at = now

    def later(self, now, low, high, action):
        self.agenda.append((now + self.rng.uniform(low, high), action))

    def receive(self):
        running = {node.control: node for node in self.nodes if node.running}
        readable, _, _ = select.select([self.control, *running], [], [], 0.01)
        for source in readable:
            if source is self.control:
                self.accept_node()
            elif reply := source.recv(4096):
                self.replied(running[source], json.loads(reply), time.monotonic())
        if self.list_sent is not None and self.lister.poll(0):
            self.check_list(self.lister.recv_multipart()[-1])

    def accept_node(self):
        control, _ = self.control.accept()
        pid = json.loads(control.recv(4096))["pid"]
        self.unborn -= 1
        self.spares.append(Node(Process(pid), control))

    # LIST.

    def list_topics(self, now):
        if self.list_sent is not None and now > self.list_sent + LIST_TIMEOUT:
            self.lister.close()
            self.lister = self.list_sent = None
        if self.list_sent is not None or now < self.next_list or not self.daemon.runs:
            return
        if self.lister is None:
            self.lister = self.context.socket(zmq.DEALER)
            self.lister.linger = 0
            self.lister.connect(self.daemon.addresses[True])
        self.lister.send_multipart([b"", wire.pack_request(wire.LIST)])
        self.list_sent = now

    def check_list(self, reply):
        now = time.monotonic()
        sent, self.list_sent = self.list_sent, None
        self.next_list = now + LIST_PAUSE
        self.note_lag(now, now - sent)
        if not self.daemon.runs:
            return
        self.model.daemon_answers(now)
        topics = wire.unpack_response(reply)["topics"]
        listed = {topic["name"]: topic["fingerprint"] for topic in topics}
        self.note_removals(listed, now)
        settled = {topic for topic, when in self.settled_at.items() if when > sent}
        lag = max(seconds for _, seconds in self.lags)
        wrong = self.model.check_list(listed, sent, settled | self.busy, lag)
        self.counts["LISTs compared"] += 1
        for known, text in wrong:
            raise Violation(text, known.topic, known)

    def note_removals(self, listed, now):
        for topic, fingerprint in self.last_listed.items():
            known = self.model.registrations.get(fingerprint)
            if listed.get(topic) == fingerprint or known is None or known.replaced_at:
                continue
            self.model.tell(now, f"{known} is listed no more")
            if known.is_seen and not known.owner.lives and not known.is_by_script:
                delay = now - max(known.owner.ended_at or now, self.model.up_since)
                kind = "watched owner" if not known.had_child else "the same, with a forked child"
                self.note_slowest(f"removal, {kind}", delay)
        self.last_listed = listed

    def note_slowest(self, what, seconds):
        self.slowest[what] = max(self.slowest[what], seconds)

    # Commands of nodes, and their replies.

    def command(self, node, do, /, **operands):
        node.commands.append({"do": do, **operands})
        self.continue_node(node)

    def register(self, node, topic, address=None, publisher=None):
        self.fingerprints += 1
        endpoint = node.endpoint if publisher is None else publisher.endpoint
        known = Registration(
            fingerprint=self.fingerprints,
            topic=topic,
            node=node.name,
            owner=node.process,
            publisher=(publisher or node).process,
            endpoint=endpoint,
            is_seen=node.is_seen,
        )
        self.busy.add(topic)
        self.command(
            node,
            "register",
            topic=topic,
            node=node.name,
            address=endpoint.address,
            fingerprint=known.fingerprint,
            discovery=self.daemon.addresses[node.is_seen],
            known=known,
        )

    def continue_node(self, node):
        if node.running or not node.commands or node.is_stopped:
            return
        now = time.monotonic()
        command = node.running = node.commands.popleft()
        if command["do"] == "quit":
            node.running = None
            return self.kill(node, now, signal.SIGKILL, "ends")
        if command["do"] == "register":
            known = command["known"]
            if known.fingerprint not in self.model.registrations:
                if known.publisher.lives and known.endpoint.holder is not known.publisher:
                    known.lost_at = now
                    known.is_disputed = True
                self.model.register(known)
            present = self.model.current.get(known.topic)
            command["against"], command["up_since"] = present, self.model.up_since
            command["is_free"] = present is not None and self.is_free_for(present, known)
            self.model.tell(now, f"{known}: REGISTER")
        elif command["do"] in ("bind", "close"):
            self.model.changes(node.endpoint, command["do"], node.process, now)
        message = {key: value for key, value in command.items() if key in SENT_KEYS}
        node.control.send(json.dumps(message).encode())

    def replied(self, node, reply, now):
        command, node.running = node.running, None
        match command["do"]:
            case "bind" if "error" in reply:
                # A child of a former holder, or another program, has the port.
                self.counts["bind refused"] += 1
                node.endpoint = None
                self.forget_commands(node, now)
                self.command(node, "quit")
            case "bind":
                node.has_socket = True
                self.model.bound(node.endpoint, node.process, now)
                address = node.endpoint.address
                self.model.tell(now, f"process {node.process.pid} listens at {address}")
            case "close":
                node.has_socket = False
                self.model.closed(node.endpoint, node.process, node.child, now)
                self.model.tell(now, f"process {node.process.pid} closed {node.endpoint.address}")
            case "fork":
                node.child = reply["child"]
                self.model.tell(now, f"process {node.process.pid} forks child {node.child}")
            case "register":
                self.register_replied(node, command, reply, now)
            case "unregister":
                self.unregister_replied(node, command, reply, now)
        self.continue_node(node)

    def register_replied(self, node, command, reply, now):
        known, status = command["known"], reply["status"]
        text = "no reply" if status is None else f"{reply['message']} ({reply['seconds']:.3f} s)"
        self.model.tell(now, f"{known}: {text}")
        self.counts["REGISTER without reply" if status is None else "REGISTER answered"] += 1
        if status is None:
            self.model.uncertain(known.topic)
            node.commands.appendleft(command)
            return
        self.settle(known.topic, now)
        against = command["against"]
        is_same = against is not None and self.model.current.get(known.topic) is against
        is_other_node = is_same and against.node != known.node
        if status == OK:
            if is_other_node and self.model.is_name_taken(against):
                text = f"{known} was given the name of {against}, which lives"
                raise Violation(text, known.topic, known, against)
            if is_other_node and not against.owner.lives:
                self.counts["name of a dead owner given"] += 1
                if self.model.up_since and now - reply["seconds"] > self.model.up_since:
                    self.note_slowest("REGISTER of a dead owner's name", reply["seconds"])
            self.model.accepted(known, now)
        elif status == ALREADY_EXISTS or (status == ERROR and "it belongs to" in reply["message"]):
            known.replaced_at = now
            # A daemon that ends refuses what it has not judged by then.
            is_judged = command["up_since"] == self.model.up_since
            # So does a busy one that has not probed an endpoint twice within 300 ms.
            is_watched = is_same and against.is_seen and not against.owner.lives
            is_judged &= is_watched or reply["seconds"] < MAX_REGISTER_WAIT
            is_free = is_same and command["is_free"] and self.is_free_for(against, known)
            if is_free and is_judged:
                text = f"{known} was refused for {against}, which is dead"
                raise Violation(text, known.topic, known, against)
            self.counts["REGISTER refused"] += 1
        else:
            raise Violation(f"{known}: {reply['message']}", known.topic, known)

    def is_free_for(self, present, wanted):
        return self.model.is_name_free(present, wanted.endpoint)

    def unregister_replied(self, node, command, reply, now):
        topic, status = command["topic"], reply["status"]
        text = "no reply" if status is None else reply["message"]
        self.model.tell(now, f"process {node.process.pid} UNREGISTERs {topic}: {text}")
        self.settle(topic, now)
        if status is None:
            self.model.uncertain(topic)
        elif status == OK and not command["is_late"]:
            self.model.unregistered(topic, now)

    def settle(self, topic, now):
        self.busy.discard(topic)
        self.settled_at[topic] = now

    def forget_commands(self, node, now):
        """The node sends nothing of what was planned."""
        for command in node.commands:
            if "topic" in command:
                self.settle(command["topic"], now)
        node.commands.clear()

    # Actions.

    def act(self, now):
        actions = {
            self.start: 8 if len(self.nodes) < POPULATION else 1,
            self.kill_any: 2,
            self.replace: 3,
            self.quit_any: 1,
            self.fork_child: 0.5,
            self.close_socket: 0.3 if self.daemon.runs else 3,
            self.end_daemon: 0.4,
            self.register_for_another: 1,
            self.hand_over: 1,
            self.stop_any: 0.5,
        }
        (action,) = self.rng.choices(list(actions), list(actions.values()))
        if action(now):
            self.counts[action.__name__.replace("_", " ")] += 1

    def free_topic(self, now):
        def is_free(topic):
            return topic not in self.busy and now > self.settled_at.get(topic, 0) + SETTLE_PAUSE

        topics = [topic for topic in TOPICS if is_free(topic)]
        return self.rng.choice(topics) if topics else None

    def free_endpoints(self):
        """Those that no living node uses. A child may still hold the listener of a dead one."""
        used = [node.endpoint for node in self.nodes]
        return [
            endpoint
            for endpoint in self.model.endpoints
            if endpoint.holder is None
            and endpoint not in used
            and (endpoint.child is None or not endpoint.is_tcp)
        ]

    def idle_node(self, *, registered=False):
        nodes = [node for node in self.nodes if node.is_idle and not node.is_stopped]
        if registered:
            nodes = [node for node in nodes if self.model.topics_of(node.process)]
            nodes = [node for node in nodes if not self.busy & set(self.topics_of(node))]
        return self.rng.choice(nodes) if nodes else None

    def topics_of(self, node):
        return self.model.topics_of(node.process)

    def take_spare(self, name, is_seen):
        node = self.spares.pop(0)
        node.name, node.is_seen = name, is_seen
        self.nodes.append(node)
        return node

    def bind(self, node, endpoint):
        node.endpoint = endpoint
        self.command(node, "bind", address=endpoint.address)

    def start(self, now, topic=None, name=None, endpoint=None):
        """A new node at an endpoint that nobody serves, with one topic or two."""
        topic = topic or self.free_topic(now)
        free = self.free_endpoints()
        if not (self.spares and topic and free):
            return False
        node = self.take_spare(name or self.rng.choice(NODE_NAMES), self.rng.random() < 0.65)
        self.bind(node, endpoint if endpoint in free else self.rng.choice(free))
        self.register(node, topic)
        second = self.free_topic(now)
        if second and self.rng.random() < 0.3:
            self.register(node, second)
        return True

    def kill_any(self, now):
        if not self.nodes:
            return False
        how = self.rng.choice([signal.SIGKILL, signal.SIGTERM])
        return self.kill(self.rng.choice(self.nodes), now, how, how.name)

    def kill(self, node, now, how, text):
        if node.is_stopped:
            os.kill(node.process.pid, signal.SIGCONT)
        os.kill(node.process.pid, how)
        # Another signal takes effect only when the process runs again.
        while how != signal.SIGKILL and is_running(node.process.pid):
            time.sleep(0.001)
        now = time.monotonic()
        self.nodes.remove(node)
        if node.running and "topic" in node.running:
            self.model.uncertain(node.running["topic"])
            self.settle(node.running["topic"], now)
        elif node.running and node.running["do"] in ("bind", "close"):
            self.model.unclear(node.endpoint, now)
        self.forget_commands(node, now)
        self.model.died(node.process, node.child, now)
        if how == signal.SIGKILL:
            self.dying.append(node.process)
        else:
            node.process.ended_at = now
        child = "" if node.child is None else f", child {node.child} stays"
        self.model.tell(now, f"process {node.process.pid} {text}{child}")
        node.control.close()
        if node.child is not None:
            self.later(now, 0.2, 40, lambda now: self.kill_child(node.child, now))
        return True

    def kill_child(self, child, now):
        os.kill(child, signal.SIGKILL)
        while is_running(child):
            time.sleep(0.001)
        self.model.child_died(child, time.monotonic())
        self.model.tell(now, f"child {child} is killed")

    def replace(self, now):
        """A node is killed, and another process takes its name, its topic or its endpoint."""
        node = self.idle_node(registered=True)
        if node is None or not self.spares:
            return False
        topic, endpoint = self.rng.choice(self.topics_of(node)), node.endpoint
        self.kill(node, now, signal.SIGKILL, "is killed and replaced")
        # The topic has no request under way: the node was idle.
        name = node.name if self.rng.random() < 0.3 else None
        topic = topic if self.rng.random() < 0.7 else None
        return self.start(now, topic, name, endpoint if self.rng.random() < 0.7 else None)

    def quit_any(self, now):
        """A node unregisters its topics, closes its socket and ends."""
        node = self.idle_node(registered=True)
        if node is None:
            return False
        self.unregister_all(node, is_late=False)
        if node.has_socket:
            self.command(node, "close")
        self.command(node, "quit")
        return True

    def unregister_all(self, node, is_late):
        discovery = self.daemon.addresses[node.is_seen]
        for topic in self.topics_of(node):
            self.busy.add(topic)
            self.command(node, "unregister", topic=topic, discovery=discovery, is_late=is_late)

    def fork_child(self, now):
        node = self.idle_node(registered=True)
        if node is None or node.child is not None:
            return False
        self.command(node, "fork")
        return True

    def close_socket(self, now):
        """A node closes its socket. If the daemon runs, the node has failed to unregister."""
        node = self.idle_node(registered=True)
        if node is None or not node.has_socket or node.child is not None:
            return False
        self.command(node, "close")
        self.later(now, 5, 15, lambda now: node in self.nodes and self.command(node, "quit"))
        return True

    def end_daemon(self, now):
        if not self.daemon.runs:
            return False
        how = self.rng.choice([signal.SIGKILL, signal.SIGTERM])
        self.model.daemon_ended()
        self.model.tell(now, f"the daemon gets {how.name}")
        self.daemon.end(how)
        down_time = 0 if self.rng.random() < 0.3 else MAX_DOWN_TIME
        self.later(now, 0, down_time, self.start_daemon)
        return True

    def start_daemon(self, now):
        self.model.tell(now, "the daemon starts")
        self.daemon.start()

    def register_for_another(self, now):
        """A process registers a topic for a publisher, and ends."""
        publisher, topic = self.idle_node(registered=True), self.free_topic(now)
        if publisher is None or topic is None or not self.spares:
            return False
        if publisher.endpoint.holder is not publisher.process:
            return False
        script = self.take_spare(publisher.name, self.rng.random() < 0.7)
        self.register(script, topic, publisher=publisher)
        self.command(script, "quit")
        return True

    def hand_over(self, now):
        """A new process of the node takes over its topic; the old one unregisters it too late."""
        old = self.idle_node(registered=True)
        if old is None or not (self.spares and self.daemon.runs and old.is_seen):
            return False
        topic = self.rng.choice(self.topics_of(old))
        if topic in self.busy or self.model.current[topic].lost_at is not None:
            return False
        if old.endpoint.is_tcp:
            free = self.free_endpoints()
        else:
            free = [old.endpoint]
        if not free:
            return False
        new = self.take_spare(old.name, is_seen=True)
        self.bind(new, self.rng.choice(free))
        self.register(new, topic)
        self.later(now, 0.3, 1.0, lambda now: self.finish_hand_over(now, old, new, topic))
        return True

    def finish_hand_over(self, now, old, new, topic):
        present, up_since = self.model.current.get(topic), self.model.up_since
        if present is None or present.owner is not new.process or topic in self.busy:
            return
        # The daemon forgets over a restart which process was superseded.
        if up_since is None or up_since > present.accepted_at:
            return
        if old not in self.nodes or not old.is_idle or old.is_stopped:
            return
        self.busy.add(topic)
        discovery = self.daemon.addresses[True]
        self.command(old, "unregister", topic=topic, discovery=discovery, is_late=True)
        self.command(old, "quit")
        self.counts["late UNREGISTER"] += 1

    def stop_any(self, now):
        """A debugger stops a node for a while."""
        node = self.idle_node()
        if node is None:
            return False
        os.kill(node.process.pid, signal.SIGSTOP)
        node.is_stopped = True
        node.process.stopped_at = now
        self.model.tell(now, f"process {node.process.pid} is stopped")
        self.later(now, 0.5, 5, lambda now: self.resume(node, now))
        return True

    def end_nodes(self):
        """A stopped process would not notice the end, and keep the standard output open."""
        for node in self.nodes + self.spares:
            for pid in [node.process.pid, node.child]:
                if pid is not None and is_running(pid):
                    os.kill(pid, signal.SIGKILL)

    def resume(self, node, now):
        if node not in self.nodes:
            return
        os.kill(node.process.pid, signal.SIGCONT)
        node.is_stopped = False
        self.model.tell(now, f"process {node.process.pid} goes on")
        self.continue_node(node)


def is_running(pid):
    """Whether the process has not ended. A zombie has."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(") ", 1)[1][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def free_ports(rng, count):
    """Ports that the kernel gives only to programs that name them."""
    ports = []
    while len(ports) < count:
        port = rng.randrange(10_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


def print_story(run, violation, started):
    topic = violation.topic
    print(f"\nthe story of {topic}, in seconds since the start:")
    for when, text in run.model.story(topic, violation.registrations)[-80:]:
        print(f"  {when - started:8.3f} {text}")
    with open(run.daemon.log_path, errors="replace") as log:
        words = [f'"{topic}"', " ERROR ", "serving", "started"]
        lines = [line for line in log if any(word in line for word in words)]
    print("\nlast lines of the daemon's log about it:")
    print("".join(lines[-40:]))


def main(binary, seed, seconds):
    print(f"seed {seed}, {seconds} s", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        run = Run(binary, int(seed), directory)
        failed = False
        try:
            run.run(float(seconds))
        except Violation as violation:
            failed = True
            print(f"VIOLATION after {time.monotonic() - started:.3f} s: {violation}")
            print_story(run, violation, started)
        finally:
            if run.daemon.runs:
                run.daemon.process.kill()
                run.daemon.process.wait()
            run.lister and run.lister.close()
            run.end_nodes()
    for what, count in sorted(run.counts.items()):
        print(f"{count:7} {what}")
    print(f"{run.model.found:7} times a living publisher's topic was listed")
    for what, delay in sorted(run.slowest.items()):
        print(f"{delay:7.3f} s at most: {what}")
    print("result: a violation" if failed else "result: no violation")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
