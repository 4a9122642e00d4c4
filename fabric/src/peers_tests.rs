use super::*;

const A: PeerKey = PeerKey::from_bytes([1; 32]);

fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn conn(n: usize) -> ConnectionId {
    ConnectionId::new_unchecked(n)
}

fn peers() -> (Peers, Instant) {
    let now = Instant::now();
    let mut peers = Peers::new(Limits::default(), 7);
    peers.on_established(now, A, conn(1), true, "/ip4/127.0.0.1/tcp/1".into());
    (peers, now)
}

#[test]
fn a_silent_connection_is_overdue_after_its_ten_seconds() {
    let (mut peers, now) = peers();
    assert_eq!(peers.next_deadline(), Some(now + s(10)));
    assert!(peers.overdue(now + s(9)).is_empty());
    assert_eq!(peers.overdue(now + s(10)), [(A, conn(1))]);
    assert!(peers.overdue(now + s(11)).is_empty(), "named twice");
    assert_eq!(peers.next_deadline(), None);
}

#[test]
fn a_connection_is_dead_when_it_answers_no_ping_for_a_minute() {
    let (mut peers, now) = peers();
    let first = |peers: &mut Peers, heard| {
        peers.get_mut(A).unwrap().conns.get_mut(&conn(1)).unwrap().heard = heard;
    };
    peers.on_established(now + s(30), A, conn(2), true, "/ip4/127.0.0.1/tcp/1".into());
    let second = peers.get_mut(A).unwrap().conns.get_mut(&conn(2)).unwrap();
    second.on_pong(now + s(31), 500);
    assert!(peers.silent(now + s(60) - Duration::from_millis(1)).is_empty());
    // Who answers no pings at all may be another program, and is not closed for it.
    first(&mut peers, None);
    assert!(peers.silent(now + s(90)).is_empty());
    first(&mut peers, Some(now + s(40)));
    assert_eq!(peers.silent(now + s(91)), [(A, conn(2))]);
    assert_eq!(peers.silent(now + s(100)), [(A, conn(1))]);
    assert!(peers.silent(now + s(500)).is_empty(), "named twice");
}

#[test]
fn a_hello_that_crawls_is_overdue_after_three_steps() {
    let (mut peers, now) = peers();
    for at in (0..=29).step_by(5) {
        assert!(peers.overdue(now + s(at)).is_empty(), "{at}");
        peers.on_progress(now + s(at), A);
    }
    assert_eq!(peers.overdue(now + s(30)), [(A, conn(1))]);
}

#[test]
fn an_announced_peer_is_never_overdue() {
    let (mut peers, now) = peers();
    assert_eq!(peers.settle(A, Some(1)), Some(Settled::First));
    assert_eq!(peers.next_deadline(), Some(now + SILENCE_MAX));
    assert!(peers.overdue(now + s(1000)).is_empty());
}

#[test]
fn settling_twice_is_one_period_and_a_new_generation_is_another() {
    let (mut peers, _) = peers();
    assert_eq!(peers.settle(A, None), Some(Settled::First));
    assert_eq!(peers.settle(A, Some(4)), Some(Settled::Again));
    assert_eq!(peers.settle(A, Some(4)), Some(Settled::Again));
    assert_eq!(peers.settle(A, None), Some(Settled::Again));
    assert_eq!(peers.settle(A, Some(5)), Some(Settled::Restarted));
}

#[test]
fn only_the_last_of_several_connections_ends_the_period() {
    let (mut peers, now) = peers();
    let first = peers.get(A).unwrap().generation;
    peers.on_established(now, A, conn(2), false, String::new());
    peers.settle(A, Some(1));
    assert!(peers.on_closed(A, conn(1)).is_none());
    assert!(!peers.is_admitted(A), "as a guest so far");
    peers.get_mut(A).unwrap().is_member = true;
    assert!(peers.is_admitted(A));
    assert!(peers.on_closed(A, conn(2)).is_some_and(|e| e.is_announced));
    assert!(!peers.is_admitted(A));
    peers.on_established(now, A, conn(3), false, String::new());
    assert_ne!(peers.get(A).unwrap().generation, first);
    assert!(!peers.is_admitted(A));
}

#[test]
fn a_rate_allows_its_burst_and_then_its_pace() {
    let (mut peers, now) = peers();
    let burst = Limits::default().messages_burst;
    for _ in 0..burst {
        assert!(peers.may_send_message(now, A, None));
    }
    assert!(!peers.may_send_message(now, A, None));
    let later = now + Duration::from_millis(10);
    assert!(peers.may_send_message(later, A, None));
    assert!(!peers.may_send_message(later, A, None));
}

#[test]
fn offences_add_up_to_a_ban_that_ends_and_grows() {
    let (mut peers, now) = peers();
    assert_eq!(peers.penalize(now, A, Offence::Forged), None);
    assert_eq!(peers.points(now, A), -50);
    assert_eq!(peers.penalize(now, A, Offence::Forged), Some(now + s(600)));
    assert_eq!(peers.banned_for(now, A), Some(s(600)));
    assert_eq!(peers.banned(now).count(), 1);
    let free = now + s(600);
    assert_eq!(peers.banned_for(free, A), None);
    assert_eq!(peers.points(free, A), AFTER_BAN);
    assert_eq!(peers.penalize(free, A, Offence::Forged), Some(free + s(1200)));
}

#[test]
fn offences_are_forgiven_with_time() {
    let (mut peers, now) = peers();
    peers.penalize(now, A, Offence::Malformed);
    assert_eq!(peers.points(now + s(100), A), -10);
    assert_eq!(peers.points(now + s(1000), A), 0);
}

#[test]
fn what_cannot_be_read_is_never_a_ban_by_itself() {
    let (mut peers, now) = peers();
    for _ in 0..10_000 {
        assert_eq!(peers.penalize(now, A, Offence::Unknown), None);
    }
    assert_eq!(peers.points(now, A), UNKNOWN_LEAST);
    assert!(peers.penalize(now, A, Offence::Forged).is_some(), "it counts beside a lie");
    // Nor does it make a standing better that is worse already.
    let (mut peers, now) = self::peers();
    for _ in 0..4 {
        peers.penalize(now, A, Offence::Malformed);
    }
    assert_eq!(peers.penalize(now, A, Offence::Unknown), None);
    assert_eq!(peers.points(now, A), -80);
}

#[test]
fn the_memory_of_offences_is_bounded_and_keeps_the_worst() {
    let (mut peers, now) = peers();
    peers.penalize(now, A, Offence::Forged);
    for i in 0..2 * STANDINGS_MAX as u64 {
        let mut key = [9; 32];
        key[..8].copy_from_slice(&i.to_be_bytes());
        peers.penalize(now, PeerKey::from_bytes(key), Offence::Flood);
    }
    assert_eq!(peers.standings.len(), STANDINGS_MAX);
    assert_eq!(peers.points(now, A), -50);
}

#[test]
fn a_peer_is_as_far_as_its_shortest_round_trip_of_late() {
    let mut pings = Pings::default();
    assert_eq!((pings.last(), pings.least()), (None, None));
    for rtt_us in [900, 300, 40_000] {
        pings.push(rtt_us);
    }
    assert_eq!((pings.last(), pings.least()), (Some(40_000), Some(300)));
    for _ in 0..PINGS_KEPT {
        pings.push(50_000);
    }
    assert_eq!(pings.least(), Some(50_000), "the path is longer now");
}
