"""What `random_liveness.py` expects of the daemon: a model that knows which publishers live.

The model is pure: times are arguments, in seconds. It knows each REGISTER by the fingerprint of its
topic. The rules are those of docs/ARCHITECTURE.md, "When a topic ends". Where they leave a choice,
or where the model cannot know what the daemon has seen, it expects nothing.
"""

import dataclasses

OK, NOT_FOUND, ALREADY_EXISTS, ERROR = 0, 1, 2, 3

# The longest time that a dead owner's topic may be listed if the daemon watches the owner.
MAX_LISTED = 1.0
# A probe and its reply, on a busy machine.
SLACK = 1.5
# A silent TCP listener of a dead owner counts as dead after this time.
SILENT_SECONDS = 30.0
# After this time of service the daemon has certainly probed an endpoint.
PROBED_AFTER = 0.3
# The longest pause between two probes after a publisher was stopped for some seconds.
PAUSE_AFTER_SILENCE = 12.0


@dataclasses.dataclass
class Process:
    """A node's process, as far as the driver knows."""

    pid: int
    # When it was killed, and when it had ended: on a busy machine that takes its time.
    died_at: float | None = None
    ended_at: float | None = None
    # When it was last stopped (SIGSTOP).
    stopped_at: float | None = None

    @property
    def lives(self):
        return self.died_at is None


@dataclasses.dataclass
class Endpoint:
    """An address, and the process that listens there."""

    address: str
    # The process that connections reach; None also while only a forked child holds the listener.
    holder: Process | None = None
    # The pid of a child that holds the listener of a holder that has ended.
    child: int | None = None
    # Since when no process or child, or always the same ones, are there.
    changed_at: float = 0.0

    @property
    def is_tcp(self):
        return self.address.startswith("tcp:")

    @property
    def is_free(self):
        return self.holder is None and self.child is None


@dataclasses.dataclass
class Registration:
    """One REGISTER that a process has sent."""

    fingerprint: int
    topic: str
    node: str
    owner: Process
    # The process that served the endpoint; another one than the owner if a script registers.
    publisher: Process
    endpoint: Endpoint
    # Whether the daemon sees the owner: it registered over the Unix socket.
    is_seen: bool
    accepted_at: float | None = None
    # When its publisher no longer served the endpoint.
    lost_at: float | None = None
    # Whether the daemon has certainly found the endpoint alive.
    is_probed: bool = False
    # When a later registration or an UNREGISTER ended it.
    replaced_at: float | None = None
    # Whether the daemon has started since the endpoint was lost.
    restarted_since_lost: bool = False
    # Whether another process may have served the endpoint when the registration came.
    is_disputed: bool = False
    # Whether a forked child has held the listener after the publisher's end.
    had_child: bool = False

    @property
    def is_by_script(self):
        return self.owner is not self.publisher

    def __str__(self):
        how = "ipc" if self.is_seen else "tcp"
        return (
            f"{self.topic} #{self.fingerprint} of {self.node}, process {self.owner.pid} over {how},"
            f" at {self.endpoint.address}"
        )


class Model:
    """The processes, endpoints and registrations, and what the daemon may say about them."""

    def __init__(self, probe_interval, addresses):
        self.probe_interval = probe_interval
        self.endpoints = [Endpoint(address) for address in addresses]
        self.registrations = {}
        # For each topic, the registration that counts; None when that is not certain.
        self.current = {}
        # Since when the daemon answers; None while it does not.
        self.up_since = None
        # What has happened: times and sentences.
        self.events = []
        # How often a living publisher's topic had to be listed.
        self.found = 0

    # What happens.

    def tell(self, now, text):
        self.events.append((now, text))

    def story(self, topic, known):
        """What has happened to a topic, and to its registrations' processes and endpoints."""
        pids = {process.pid for one in known for process in (one.owner, one.publisher)}
        children = {one.endpoint.child for one in known}
        words = {f"process {pid} " for pid in pids} | {f"child {child} " for child in children}
        words |= {one.endpoint.address for one in known} | {f"{topic} ", "the daemon"}
        return [event for event in self.events if any(word in f"{event[1]} " for word in words)]

    def topics_of(self, process):
        return [topic for topic, known in self.current.items() if known and known.owner is process]

    def register(self, registration):
        self.registrations[registration.fingerprint] = registration

    def accepted(self, registration, now):
        """The daemon has answered a REGISTER with OK."""
        former = self.current.get(registration.topic)
        for other in self.registrations.values():
            if other.topic == registration.topic and other is not registration:
                other.replaced_at = other.replaced_at or now
        registration.accepted_at = registration.accepted_at or now
        registration.is_disputed |= registration.lost_at is not None
        self.current[registration.topic] = registration
        return former

    def uncertain(self, topic):
        """A request that may change the topic has no answer."""
        self.current[topic] = None

    def unregistered(self, topic, now):
        for known in self.registrations.values():
            if known.topic == topic:
                known.replaced_at = known.replaced_at or now
        self.current[topic] = None

    def changes(self, endpoint, what, process, now):
        """A process is about to close its socket at the endpoint, or to replace another one's."""
        if what == "bind" or endpoint.holder is process:
            self.note_lost(endpoint, now)

    def note_lost(self, endpoint, now):
        for known in self.registrations.values():
            if known.endpoint is endpoint and known.lost_at is None:
                known.lost_at = now

    def bound(self, endpoint, process, now):
        """A process listens at the endpoint. Over ipc it replaces the socket that is there."""
        self.lose(endpoint, now)
        endpoint.holder = process

    def closed(self, endpoint, process, child, now):
        """A process has closed its socket. ZeroMQ leaves the socket file."""
        if endpoint.holder is process:
            self.leave(endpoint, child, now)

    def died(self, process, child, now):
        process.died_at = now
        for endpoint in self.endpoints:
            if endpoint.holder is process:
                self.leave(endpoint, child, now)

    def leave(self, endpoint, child, now):
        """The holder is gone; a forked child may still hold its listener."""
        if child is not None:
            for known in self.registrations.values():
                known.had_child |= known.endpoint is endpoint and known.replaced_at is None
        self.lose(endpoint, now)
        endpoint.child = child

    def child_died(self, child, now):
        for endpoint in self.endpoints:
            if endpoint.child == child:
                endpoint.child = None
                endpoint.changed_at = now

    def unclear(self, endpoint, now):
        """A process has died while it bound or closed its socket: the listener is unknown."""
        self.lose(endpoint, now)
        for known in self.registrations.values():
            known.is_disputed |= known.endpoint is endpoint

    def lose(self, endpoint, now):
        self.note_lost(endpoint, now)
        endpoint.holder, endpoint.child, endpoint.changed_at = None, None, now

    def daemon_ended(self):
        self.up_since = None

    def daemon_answers(self, now):
        if self.up_since is not None:
            return
        self.up_since = now
        for known in self.registrations.values():
            known.restarted_since_lost |= known.lost_at is not None

    # What follows.

    def must_be_listed(self, known):
        """Whether the topic of this registration must be found."""
        if self.current.get(known.topic) is not known:
            return False
        if known.is_seen and known.owner.lives:
            # It may have lost its endpoint, but that shows only at a restart.
            return not known.restarted_since_lost
        return known.publisher.lives and known.lost_at is None

    def must_be_gone_at(self, known):
        """From when on the topic must not be found with this registration; None: no such time."""
        if known.replaced_at is not None:
            return known.replaced_at
        if self.up_since is None or known.is_disputed:
            return None
        if any(not one.lives and one.ended_at is None for one in (known.owner, known.publisher)):
            return None
        if known.is_seen and known.owner.lives:
            return self.closed_topic_ends_at(known)
        endpoint = known.endpoint
        if known.is_seen and not known.is_by_script:
            start = max(known.owner.ended_at, self.up_since)
            if not known.is_probed and endpoint.holder is not None:
                # The newcomer may have been faster than the daemon's first probe.
                return None
            if not known.is_probed:
                # One may have been there until a moment ago.
                start = max(start, endpoint.changed_at + self.probe_interval)
            if not endpoint.is_tcp or not known.had_child:
                return start + MAX_LISTED
            if endpoint.child is not None:
                return start + SILENT_SECONDS + self.probe_interval + SLACK
            return max(start, endpoint.changed_at) + self.probe_interval + SLACK
        if known.lost_at is None:
            return None
        ends = [one.ended_at or 0.0 for one in (known.owner, known.publisher)]
        start = max(*ends, known.lost_at, self.up_since, endpoint.changed_at)
        if known.is_seen:
            silence = SILENT_SECONDS if endpoint.is_tcp and endpoint.child is not None else 0.0
            return start + silence + self.probe_interval + SLACK
        if (claimed_at := self.claimed_at(known)) is not None:
            return max(start, claimed_at) + SLACK
        if known.is_probed and endpoint.is_free and not known.had_child:
            stopped = known.publisher.stopped_at is not None
            pause = PAUSE_AFTER_SILENCE if stopped else 2 * self.probe_interval
            return start + pause + SLACK
        return None

    def claimed_at(self, known):
        """When another node has registered the endpoint, after the socket was another one."""
        if not known.is_probed or known.lost_at is None:
            return None
        claims = [
            other.accepted_at
            for other in self.registrations.values()
            if other.endpoint is known.endpoint
            and other.node != known.node
            and other.accepted_at is not None
            and other.accepted_at > known.lost_at
            and other.publisher is known.endpoint.holder
            and other.replaced_at is None
            and other.lost_at is None
        ]
        return min(claims, default=None)

    def closed_topic_ends_at(self, known):
        """A living process that closed its socket while no daemon ran."""
        is_absent = known.endpoint.is_free and known.endpoint.changed_at < self.up_since
        if known.restarted_since_lost and known.is_probed and is_absent:
            return self.up_since + MAX_LISTED
        return None

    def tick(self, now):
        """Notes which endpoints the daemon has probed, and forgets what is over."""
        for known in self.registrations.values():
            since = max(known.accepted_at or now, self.up_since or now)
            stopped = known.publisher.stopped_at is not None
            if known.lost_at is None and not stopped and now - since > PROBED_AFTER:
                known.is_probed = True
        over = [
            fingerprint
            for fingerprint, known in self.registrations.items()
            if known.replaced_at is not None
            and now - known.replaced_at > 60
            and not known.owner.lives
        ]
        for fingerprint in over:
            del self.registrations[fingerprint]

    def is_name_free(self, known, wanted):
        """Whether a REGISTER for the endpoint `wanted` may not be refused for this registration."""
        endpoint = known.endpoint
        if known.is_disputed:
            return False
        if known.is_seen and not known.owner.lives and not known.is_by_script:
            may_be_newcomer = not known.is_probed and endpoint.holder is not None
            is_silent = endpoint.is_tcp and endpoint.child is not None
            return not is_silent and not may_be_newcomer
        if known.is_seen and known.is_by_script and not known.owner.lives:
            is_silent = endpoint.is_tcp and endpoint.child is not None
            return known.lost_at is not None and not is_silent
        if known.lost_at is None or not known.is_probed:
            return False
        is_for_newcomer = known.endpoint is wanted and endpoint.holder is not None
        return endpoint.is_free or (is_for_newcomer and not known.is_seen)

    def is_name_taken(self, known):
        """Whether a REGISTER of another node must be refused for the sake of this registration."""
        return self.must_be_listed(known) and known.lost_at is None

    def check_list(self, listed, sent, unsettled, lag):
        """Compares a LIST with the model. Returns what is wrong: registrations and sentences.

        `listed` has the fingerprint of each listed topic. The daemon answered after `sent`. Other
        requests about the topics in `unsettled` may have come before or after. On a busy machine
        everything may come later by `lag`.
        """
        wrong = []
        for fingerprint in listed.values():
            known = self.registrations.get(fingerprint)
            # What is over for a minute is forgotten, and would have been reported before.
            gone_at = self.must_be_gone_at(known) if known is not None else None
            if gone_at is not None and gone_at + lag < sent:
                late = sent - gone_at
                wrong.append((known, f"{known} is listed {late:.2f} s after it had to be gone"))
        for topic, known in self.current.items():
            if known is None or topic in unsettled or not self.must_be_listed(known):
                continue
            self.found += 1
            if listed.get(topic) != known.fingerprint:
                found = listed.get(topic, "nothing")
                wrong.append((known, f"{known} lives and is not listed, but {found}"))
        return wrong
