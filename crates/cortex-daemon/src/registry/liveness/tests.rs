use super::looks::Awaits;
use super::*;
use crate::peer::Process;
use crate::registry::input::UnknownReason;
use crate::registry::log::record::EvictionReason;
use crate::registry::test_time::start;

const INTERVAL: Duration = Duration::from_secs(5);
const HELPER: Option<EndpointListener> =
    Some(EndpointListener::Process(Process { pid: 5, start_time: 5 }));

fn name(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

fn liveness() -> Liveness {
    Liveness::new(INTERVAL, Some(Duration::from_secs(24 * 3600)))
}

fn registration(listener: Option<EndpointListener>) -> Registration {
    Registration {
        owner: Some(Process { pid: 10, start_time: 10 }),
        registered_ticks: 20,
        is_restored: false,
        listener,
        found_alive: true,
        is_taken_over: false,
    }
}

/// Begins the probe that is due next, and gives it a result. Returns what follows.
fn probe(
    liveness: &mut Liveness,
    result: ProbeResult,
    listener: Option<EndpointListener>,
    recorded: Option<EndpointListener>,
) -> (Verdict, Instant) {
    let now = liveness.next_probe().unwrap();
    assert_eq!(liveness.take_due(now), [name("/a")]);
    let verdict =
        liveness.conclude(&name("/a"), result, listener, &registration(recorded), now).unwrap();
    (verdict, now)
}

#[test]
fn a_result_without_a_probe_under_way_decides_nothing() {
    let (mut liveness, now) = (liveness(), start());
    let conclude = |liveness: &mut Liveness| {
        liveness.conclude(&name("/a"), ProbeResult::Dead, None, &registration(None), now)
    };
    assert_eq!(conclude(&mut liveness), None);
    liveness.observe(name("/a"), ProbeSchedule::orphaned(now));
    assert_eq!(conclude(&mut liveness), None);
}

#[test]
fn a_living_owners_endpoint_is_probed_once() {
    let (mut liveness, now) = (liveness(), start());
    liveness.observe(name("/a"), ProbeSchedule::record_listener(now));
    assert!(liveness.take_due(now).is_empty(), "a topic that goes at once is not probed");
    let (verdict, _) = probe(&mut liveness, ProbeResult::Alive, HELPER, None);
    assert_eq!(verdict, Verdict::Served(HELPER));
    assert_eq!((liveness.next_probe(), liveness.is_probing()), (None, false));
}

#[test]
fn a_listener_may_come_after_the_registration() {
    let mut liveness = liveness();
    liveness.observe(name("/a"), ProbeSchedule::record_listener(start()));
    let mut probed_at = Vec::new();
    while let Some(due) = liveness.next_probe() {
        probed_at.push(due.duration_since(start()).as_millis());
        let (verdict, _) = probe(&mut liveness, ProbeResult::Dead, None, None);
        assert_eq!(verdict, Verdict::Stays);
    }
    assert_eq!(probed_at, [3, 33, 333, 3333]);
    liveness.observe(name("/a"), ProbeSchedule::record_listener(start()));
    probe(&mut liveness, ProbeResult::Dead, None, None);
    let (verdict, _) = probe(&mut liveness, ProbeResult::Alive, HELPER, None);
    assert_eq!((verdict, liveness.next_probe()), (Verdict::Served(HELPER), None));
}

#[test]
fn a_restored_topic_is_probed_again_when_a_probe_has_failed() {
    let mut liveness = liveness();
    liveness.observe(name("/a"), ProbeSchedule::restored(start()));
    let failure = ProbeResult::Unknown(UnknownReason::Failure);
    let (verdict, now) = probe(&mut liveness, failure, None, HELPER);
    assert_eq!((verdict, liveness.next_probe()), (Verdict::Stays, Some(now + INTERVAL)));
    for expected in [Verdict::Stays, Verdict::Evict(EvictionReason::EndpointDead)] {
        assert_eq!(probe(&mut liveness, ProbeResult::Dead, None, HELPER).0, expected);
    }
}

#[test]
fn an_orphan_stays_as_long_as_there_is_evidence() {
    let mut liveness = liveness();
    liveness.observe(name("/a"), ProbeSchedule::orphaned(start()));
    assert!(liveness.is_orphan_without_result(&name("/a")));
    for result in [ProbeResult::Alive, ProbeResult::Silent, ProbeResult::Alive] {
        let (verdict, now) = probe(&mut liveness, result, HELPER, HELPER);
        assert_eq!(verdict, Verdict::Served(HELPER));
        assert_eq!(liveness.next_probe(), Some(now + INTERVAL));
    }
    assert!(!liveness.is_orphan_without_result(&name("/a")));
    let (verdict, _) = probe(&mut liveness, ProbeResult::Alive, None, HELPER);
    assert_eq!(verdict, Verdict::Evict(EvictionReason::OwnerExited));
}

#[test]
fn an_orphaned_tcp_endpoint_may_be_silent_for_30_seconds() {
    let mut liveness = liveness();
    let socket = Some(EndpointListener::Socket(7));
    liveness.observe(name("/a"), ProbeSchedule::orphaned(start()));
    for _ in 0..6 {
        let (verdict, _) = probe(&mut liveness, ProbeResult::Silent, socket, socket);
        assert_eq!(verdict, Verdict::Served(socket));
    }
    let (verdict, now) = probe(&mut liveness, ProbeResult::Silent, socket, socket);
    assert_eq!(verdict, Verdict::Evict(EvictionReason::OwnerExited));
    assert_eq!(now, start() + Duration::from_secs(30));
}

#[test]
fn an_unseen_owners_endpoint_must_be_dead_twice() {
    let mut liveness = liveness();
    liveness.observe(name("/a"), ProbeSchedule::unseen(start()));
    let unknown = ProbeResult::Unknown(UnknownReason::Permission);
    for result in [ProbeResult::Dead, unknown, ProbeResult::Dead] {
        let (verdict, _) = probe(&mut liveness, result, None, None);
        assert_eq!(verdict, Verdict::Stays);
    }
    let (verdict, _) = probe(&mut liveness, ProbeResult::Dead, None, None);
    assert_eq!(verdict, Verdict::Evict(EvictionReason::EndpointDead));
}

#[test]
fn a_host_that_cannot_be_reached_is_unreachable_after_30_seconds_and_gone_after_a_day() {
    let mut liveness = liveness();
    liveness.observe(name("/a"), ProbeSchedule::unseen(start()));
    let last = loop {
        let (verdict, now) = probe(&mut liveness, ProbeResult::Unreachable, None, None);
        let is_unreachable = now >= start() + Duration::from_secs(30);
        assert_eq!(liveness.is_unreachable(&name("/a"), now), is_unreachable);
        if verdict != Verdict::Stays {
            assert_eq!(verdict, Verdict::Evict(EvictionReason::EndpointDead));
            break now;
        }
    };
    assert_eq!(last, start() + Duration::from_secs(24 * 3600));
}

#[test]
fn an_answer_or_a_time_gap_makes_an_endpoint_reachable_again() {
    for has_answered in [true, false] {
        let mut liveness = liveness();
        liveness.observe(name("/a"), ProbeSchedule::unseen(start()));
        for _ in 0..8 {
            probe(&mut liveness, ProbeResult::Unreachable, None, None);
        }
        let now = liveness.next_probe().unwrap();
        assert!(liveness.is_unreachable(&name("/a"), now));
        if has_answered {
            probe(&mut liveness, ProbeResult::Silent, None, None);
        } else {
            liveness.time_gap();
        }
        assert!(!liveness.is_unreachable(&name("/a"), now + Duration::from_secs(60)));
    }
}

#[test]
fn a_restored_endpoint_that_is_dead_twice_was_closed_while_no_daemon_ran() {
    let mut liveness = liveness();
    liveness.observe(name("/a"), ProbeSchedule::restored(start()));
    assert_eq!(probe(&mut liveness, ProbeResult::Dead, None, None).0, Verdict::Stays);
    let (verdict, now) = probe(&mut liveness, ProbeResult::Dead, None, None);
    assert_eq!(verdict, Verdict::Evict(EvictionReason::EndpointDead));
    assert_eq!(now, start() + Duration::from_millis(50), "some time apart, and soon");
    liveness.observe(name("/a"), ProbeSchedule::restored(start()));
    assert_eq!(probe(&mut liveness, ProbeResult::Silent, HELPER, None).0, Verdict::Served(HELPER));
    assert_eq!(liveness.next_probe(), None);
}

#[test]
fn a_rollback_brings_back_the_schedules_that_were_replaced() {
    let (mut liveness, now) = (liveness(), start());
    liveness.observe(name("/a"), ProbeSchedule::unseen(now));
    liveness.replace(&name("/a"), None);
    liveness.replace(&name("/b"), Some(ProbeSchedule::unseen(now)));
    liveness.replace(&name("/b"), None);
    assert_eq!(liveness.next_probe(), None);
    liveness.rollback(now);
    assert_eq!(liveness.take_due(now), [name("/a")]);
}

#[test]
fn a_rollback_leaves_no_schedule_for_a_topic_that_the_batch_has_registered() {
    let (mut liveness, now) = (liveness(), start());
    // A process registers a topic and ends in the same batch.
    liveness.replace(&name("/a"), None);
    liveness.observe(name("/a"), ProbeSchedule::orphaned(now));
    liveness.rollback(now);
    assert_eq!((liveness.next_probe(), liveness.is_probing()), (None, false));
}

#[test]
fn a_probe_under_way_is_not_rescheduled() {
    let (mut liveness, now) = (liveness(), start());
    liveness.observe(name("/a"), ProbeSchedule::unseen(now));
    assert!(!liveness.is_probing());
    liveness.take_due(now);
    assert!(liveness.is_probing());
    liveness.reschedule(&name("/a"), now);
    liveness.reschedule(&name("/not probed"), now);
    assert_eq!(liveness.next_probe(), None);
}

#[test]
fn a_dead_topic_is_neither_probed_nor_looked_at() {
    let (mut liveness, now) = (liveness(), start());
    liveness.observe(name("/a"), ProbeSchedule::orphaned(now));
    liveness.looks.set(name("/a"), Awaits::OrphanVerdict);
    liveness.forget(&name("/a"));
    assert_eq!((liveness.next_probe(), liveness.looks.get(&name("/a"))), (None, None));
}

#[test]
fn a_rollback_keeps_what_is_committed() {
    let (mut liveness, now) = (liveness(), start());
    liveness.replace(&name("/a"), Some(ProbeSchedule::unseen(now)));
    liveness.begin_commit();
    liveness.replace(&name("/b"), Some(ProbeSchedule::unseen(now)));
    liveness.commit();
    liveness.rollback(now);
    assert_eq!(liveness.take_due(now), [name("/a")]);
}

#[test]
fn a_rollback_begins_the_probes_again_that_were_under_way() {
    let (mut liveness, now) = (liveness(), start());
    liveness.observe(name("/a"), ProbeSchedule::unseen(now));
    liveness.observe(name("/b"), ProbeSchedule::record_listener(now));
    let due = liveness.agenda.last().cloned();
    assert_eq!(liveness.take_due(now), [name("/a")]);
    for topic in ["/a", "/b"] {
        liveness.replace(&name(topic), None);
    }
    let later = now + Duration::from_millis(1);
    liveness.rollback(later);
    assert_eq!((liveness.next_probe(), liveness.is_probing()), (Some(later), false));
    assert_eq!(liveness.agenda.last().cloned(), due, "this probe had not begun");
}
