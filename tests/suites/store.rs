//! The relay's store, one contract for every database: leases, reads without a cursor, fenced settling.

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::{BUCKETS, Message, OutboxConnection as _};
use outbox_relay::config::Secret;
use outbox_relay::outbox::store::{
    Ask, DEPTH_MAX, Database, DeadAction, DeadFilter, DeadLetter, Failure, Head, INLINE_BYTES_MAX, Store,
};

use super::database::{connect, fresh};
use super::{Connection, SERVER};
use crate::harness::{Server, TestDatabase};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

fn store(database: &TestDatabase, owner: &str) -> Store {
    Store::new(Database::parse(&Secret::new(&database.url)).unwrap(), owner)
}

fn record(connection: &mut Connection, key: &str, payload_bytes: usize) {
    connection
        .outbox_transaction(|tx| {
            tx.record_message(Message::new("thing", key, "made", vec![b' '; payload_bytes])?);
            Ok(())
        })
        .unwrap();
}

fn all_buckets() -> Vec<u16> {
    (0..BUCKETS).collect()
}

async fn read(store: &mut Store, except: &[i64]) -> Vec<Head> {
    store.heads(&Ask { held: &all_buckets(), except, besides: &[], rows: 100 }).await.unwrap()
}

/// Takes everything and returns bucket and epoch of each.
async fn take_all(store: &mut Store, ttl: Duration) -> Vec<(u16, i64)> {
    store.heartbeat(ttl).await.unwrap();
    store.acquire(ttl, BUCKETS).await.unwrap();
    store.leases().await.unwrap().held.into_iter().collect()
}

fn failure(head: &Head, lease: &[(u16, i64)], parked: bool, wait_ms: i64) -> Failure {
    let bucket = head.bucket as u16;
    let epoch = lease.iter().find(|(held, _)| *held == bucket).unwrap().1;
    Failure { id: head.id, bucket, epoch, attempts: 1, parked, wait_ms, error: "no ö thanks".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn meta_says_what_writers_and_relays_agree_on() {
    let database = fresh();
    let meta = store(&database, "a").meta().await.unwrap();
    assert_eq!((meta.generation, meta.buckets, meta.bucket_hash.as_str()), (1, 64, "fnv1a64"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_held_until_it_expires_and_a_takeover_raises_the_epoch() {
    let database = fresh();
    let (mut first, mut second) = (store(&database, "first"), store(&database, "second"));
    let held = take_all(&mut first, SHORT).await;
    assert_eq!(held.len(), usize::from(BUCKETS));
    assert!(take_all(&mut second, LONG).await.is_empty(), "nothing is free");
    assert_eq!(second.leases().await.unwrap().live, 2);

    assert_eq!(first.renew(SHORT).await.unwrap(), usize::from(BUCKETS), "renewing keeps the epoch");
    assert_eq!(take_all(&mut first, SHORT).await, held);
    tokio::time::sleep(SHORT * 2).await;
    let taken = take_all(&mut second, LONG).await;
    assert_eq!(taken.len(), held.len());
    assert!(taken.iter().zip(&held).all(|(now, before)| now.0 == before.0 && now.1 > before.1));
    assert_eq!(first.renew(LONG).await.unwrap(), 0, "too late");
    assert!(first.leases().await.unwrap().held.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_each_bucket_goes_to_one() {
    let database = fresh();
    let mut races = tokio::task::JoinSet::new();
    for number in 0..4 {
        let mut store = store(&database, &format!("relay {number}"));
        races.spawn(async move {
            store.heartbeat(LONG).await.unwrap();
            // A deadlock or a busy database is an outage: the relay tries again.
            while let Err(error) = store.acquire(LONG, 20).await {
                assert!(error.is_outage(), "{error}");
            }
            store.leases().await.unwrap().held.into_keys().collect::<Vec<_>>()
        });
    }
    let held = races.join_all().await;
    let mut all: Vec<_> = held.iter().flatten().copied().collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), held.iter().map(Vec::len).sum::<usize>(), "no bucket twice");
    assert!(held.iter().all(|one| one.len() <= 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_impossibly_late_counts_as_over() {
    let database = fresh();
    let (mut dead, mut living) = (store(&database, "dead"), store(&database, "living"));
    take_all(&mut dead, Duration::from_secs(3600)).await;
    // As if the clock had been set back after the lease was taken: it ends further ahead than it is long.
    diesel::sql_query("update outbox_lease set lease_ms = 1000").execute(&mut connect(&database)).unwrap();
    assert_eq!(take_all(&mut living, LONG).await.len(), usize::from(BUCKETS));
}

#[tokio::test(flavor = "multi_thread")]
async fn released_buckets_are_free_at_once() {
    let database = fresh();
    let (mut first, mut second) = (store(&database, "first"), store(&database, "second"));
    take_all(&mut first, LONG).await;
    assert_eq!(first.release(&[3, 5]).await.unwrap(), 2);
    let held: Vec<_> = take_all(&mut second, LONG).await.into_iter().map(|(bucket, _)| bucket).collect();
    assert_eq!(held, [3, 5]);
    first.leave().await.unwrap();
    assert_eq!(second.leases().await.unwrap().live, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn takeovers_are_counted_until_they_are_forgiven() {
    let database = fresh();
    let mut stores = ["a", "b", "c"].map(|owner| store(&database, owner));
    let mut counts = Vec::new();
    let mut expire = connect(&database);
    for round in 0..4 {
        let store = &mut stores[round.min(2)];
        take_all(store, LONG).await;
        let unclean = store.leases().await.unwrap().unclean;
        assert!([0, usize::from(BUCKETS)].contains(&unclean.len()));
        counts.push(unclean.get(&7).copied().unwrap_or_default());
        let over = "update outbox_lease set expires_at = ";
        let long_ago = if SERVER == Server::Sqlite { "0" } else { "'1970-01-02 00:00:00'" };
        diesel::sql_query(format!("{over}{long_ago}")).execute(&mut expire).unwrap();
    }
    assert_eq!(counts, [0, 1, 2, 2], "its own is no takeover");
    let last = &mut stores[2];
    take_all(last, LONG).await;
    last.release(&[7]).await.unwrap();
    take_all(last, LONG).await;
    assert_eq!(
        last.leases().await.unwrap().unclean.get(&7),
        Some(&2),
        "given back, it is as suspect as before"
    );
    assert_eq!(last.forgive().await.unwrap(), usize::from(BUCKETS));
    assert!(last.leases().await.unwrap().unclean.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_show_what_waits_in_them() {
    let database = fresh();
    let (mut store, mut connection) = (store(&database, "a"), connect(&database));
    record(&mut connection, "k", 10);
    record(&mut connection, "k", 10);
    store.acquire(LONG, BUCKETS).await.unwrap();
    let buckets = store.buckets().await.unwrap();
    assert_eq!(buckets.len(), usize::from(BUCKETS));
    let filled: Vec<_> = buckets.iter().filter(|bucket| bucket.first_id.is_some()).collect();
    let [one] = filled[..] else { panic!("{filled:?}") };
    assert_eq!(one.bucket as u16, outbox_core::bucket_of("thing", "k"));
    assert_eq!((one.last_id, one.owner.as_deref()), (one.first_id.map(|id| id + 1), Some("a")));
    assert!(one.oldest_ms.is_some_and(|age| (0..600_000).contains(&age)), "{one:?}");
    let bucket = one.bucket as u16;
    let other = (bucket + 1) % BUCKETS;
    assert_eq!(store.depths(&[other, bucket]).await.unwrap(), [0, 2]);
    let all: Vec<u16> = (0..BUCKETS).collect();
    assert_eq!(store.depths(&all).await.unwrap().iter().sum::<u64>(), 2);

    let many = connection.outbox_transaction(|tx| {
        for _ in 0..DEPTH_MAX {
            tx.record_message(Message::new("thing", "k", "made", b"1".to_vec())?);
        }
        Ok(())
    });
    many.unwrap();
    assert_eq!(store.depths(&[bucket]).await.unwrap(), [DEPTH_MAX], "it counts no further");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_somebody_has_locked_keep_no_others_from_being_taken() {
    if super::SERVER == crate::harness::Server::Sqlite {
        return; // One writer at a time: there is nothing to pass by.
    }
    let database = fresh();
    let (mut store, mut other) = (store(&database, "a"), connect(&database));
    let begin = if super::SERVER == crate::harness::Server::Postgres { "begin" } else { "start transaction" };
    other.batch_execute(begin).unwrap();
    other.batch_execute("select bucket from outbox_lease where bucket = 7 for update").unwrap();
    assert_eq!(store.acquire(LONG, BUCKETS).await.unwrap(), usize::from(BUCKETS) - 1);
    other.batch_execute("rollback").unwrap();
    assert_eq!(store.acquire(LONG, BUCKETS).await.unwrap(), 1);
    assert_eq!(store.leases().await.unwrap().held.len(), usize::from(BUCKETS));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_in_order_without_those_on_their_way_and_of_held_buckets_only() {
    let database = fresh();
    let (mut store, mut connection) = (store(&database, "a"), connect(&database));
    (0..10).for_each(|number| record(&mut connection, &number.to_string(), 10));
    let heads = read(&mut store, &[]).await;
    assert_eq!(heads.len(), 10);
    assert!(heads.is_sorted_by_key(|head| head.id));
    assert!(heads.iter().all(|head| head.payload.as_deref() == Some(b"          ")));

    let except = [heads[0].id, heads[4].id];
    let rest: Vec<_> = read(&mut store, &except).await.into_iter().map(|head| head.id).collect();
    assert!(rest.len() == 8 && !rest.contains(&except[0]) && !rest.contains(&except[1]));

    let bucket = heads[0].bucket as u16;
    let one = store.heads(&Ask { held: &[bucket], except: &[], besides: &[], rows: 100 }).await.unwrap();
    assert!(one.iter().all(|head| head.bucket as u16 == bucket) && !one.is_empty());
    let few = store.heads(&Ask { held: &all_buckets(), except: &[], besides: &[], rows: 3 }).await.unwrap();
    assert_eq!(few.len(), 3);
    assert!(store.heads(&Ask { held: &[], except: &[], besides: &[], rows: 3 }).await.unwrap().is_empty());

    // The first key's second row goes with its first one.
    record(&mut connection, "0", 10);
    let besides = [heads[0].id, heads[4].id];
    let others =
        store.heads(&Ask { held: &all_buckets(), except: &[], besides: &besides, rows: 100 }).await.unwrap();
    let others: Vec<_> = others.into_iter().map(|head| head.aggregate_id).collect();
    assert_eq!(others, [1, 2, 3, 5, 6, 7, 8, 9].map(|key: u8| key.to_string().into_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_payload_is_fetched_by_itself() {
    let database = fresh();
    let (mut store, mut connection) = (store(&database, "a"), connect(&database));
    let large = INLINE_BYTES_MAX as usize + 1;
    record(&mut connection, "small", 10);
    record(&mut connection, "large", large);
    let heads = read(&mut store, &[]).await;
    assert!(heads[0].payload.is_some() && heads[1].payload.is_none());
    assert!(heads[1].bytes as usize >= large);
    let bodies = store.bodies(&[heads[1].id, 9_999_999]).await.unwrap();
    assert_eq!(bodies.len(), 1, "a row that is gone is left out");
    assert_eq!(bodies[0].payload.len(), large);
}

#[tokio::test(flavor = "multi_thread")]
async fn settling_is_fenced_by_owner_and_epoch() {
    let database = fresh();
    let (mut old, mut new) = (store(&database, "old"), store(&database, "new"));
    let mut connection = connect(&database);
    (0..6).for_each(|number| record(&mut connection, &number.to_string(), 10));
    let stale = take_all(&mut old, SHORT).await;
    let ids: Vec<_> = read(&mut old, &[]).await.into_iter().map(|head| head.id).collect();
    tokio::time::sleep(SHORT * 2).await;
    let current = take_all(&mut new, LONG).await;

    assert_eq!(old.settle(&stale, &ids).await.unwrap(), 0, "a lost lease deletes nothing");
    assert_eq!(old.settle(&current, &ids).await.unwrap(), 0, "nor does somebody else's");
    assert_eq!(new.settle(&stale, &ids).await.unwrap(), 0, "nor an epoch that is over");
    assert_eq!(new.settle(&current, &ids[..4]).await.unwrap(), 4);
    assert_eq!(new.settle(&current, &ids).await.unwrap(), 2, "what is gone is not counted");
    assert!(read(&mut new, &[]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_key_waits_and_a_parked_one_waits_for_ever() {
    let database = fresh();
    let (mut store, mut connection) = (store(&database, "a"), connect(&database));
    for key in ["waits", "parked", "free", "waits", "parked"] {
        record(&mut connection, key, 10);
    }
    let lease = take_all(&mut store, LONG).await;
    let heads = read(&mut store, &[]).await;
    let failures = [failure(&heads[0], &lease, false, 400), failure(&heads[1], &lease, true, 0)];
    store.fail(&failures).await.unwrap();

    let keys = |heads: Vec<Head>| -> Vec<String> {
        heads.into_iter().map(|head| String::from_utf8(head.aggregate_id).unwrap()).collect()
    };
    assert_eq!(keys(read(&mut store, &[]).await), ["free"]);
    let leases = store.leases().await.unwrap();
    assert_eq!((leases.waiting, leases.parked), (1, 1));
    let held = store.held_keys(10).await.unwrap();
    assert_eq!(held[0].aggregate_id, "parked");
    assert_eq!(held[0].last_error, "no ö thanks");

    tokio::time::sleep(Duration::from_millis(600)).await;
    let again = read(&mut store, &[]).await;
    assert_eq!((again[0].attempts, again[0].head_id), (Some(1), Some(again[0].id)));
    assert_eq!(keys(again), ["waits", "free", "waits"]);

    let recovered = heads[0].id;
    store.clear_keys(&lease, &[recovered]).await.unwrap();
    assert_eq!(store.held_keys(10).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_renewed_while_rows_are_settled_without_a_deadlock() {
    let database = fresh();
    let (mut settling, mut keeping) = (store(&database, "a"), store(&database, "a"));
    let mut connection = connect(&database);
    (0..300).for_each(|number| record(&mut connection, &number.to_string(), 10));
    let lease = take_all(&mut settling, LONG).await;
    let ids: Vec<_> = read(&mut settling, &[]).await.into_iter().map(|head| head.id).collect();
    let keeper = tokio::spawn(async move {
        for _ in 0..150 {
            keeping.renew(LONG).await.unwrap();
        }
    });
    // Against the order of the buckets, as ids have none.
    for ids in ids.rchunks(2) {
        settling.clear_keys(&lease, ids).await.unwrap();
        assert_eq!(settling.settle(&lease, ids).await.unwrap(), ids.len());
    }
    keeper.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_fails_only_under_the_lease_that_its_message_was_read_with() {
    let database = fresh();
    let (mut old, mut new) = (store(&database, "old"), store(&database, "new"));
    record(&mut connect(&database), "k", 10);
    let stale = take_all(&mut old, SHORT).await;
    let heads = read(&mut old, &[]).await;
    tokio::time::sleep(SHORT * 2).await;
    take_all(&mut new, LONG).await;
    old.fail(&[failure(&heads[0], &stale, true, 0)]).await.unwrap();
    assert!(new.held_keys(10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_is_told_apart_from_what_is_parked() {
    let database = fresh();
    let (mut store, mut connection) = (store(&database, "a"), connect(&database));
    assert_eq!(store.top().await.unwrap(), None);
    record(&mut connection, "parked", 10);
    record(&mut connection, "free", 10);
    let lease = take_all(&mut store, LONG).await;
    let heads = read(&mut store, &[]).await;
    let top = store.top().await.unwrap().unwrap();
    assert_eq!(top, heads[1].id);
    store.fail(&[failure(&heads[0], &lease, true, 0)]).await.unwrap();
    assert!(store.is_left(top, true).await.unwrap());
    store.settle(&lease, &[heads[1].id]).await.unwrap();
    assert!(!store.is_left(top, true).await.unwrap(), "only the parked one is");
    assert!(store.is_left(top, false).await.unwrap());
    let backlog = store.backlog().await.unwrap();
    assert_eq!((backlog.first_id, backlog.last_id), (Some(heads[0].id), Some(heads[0].id)));
    assert!(backlog.oldest_ms.unwrap() >= 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_differ_in_blanks_or_case_are_different() {
    let database = fresh();
    let (mut store, mut connection) = (store(&database, "a"), connect(&database));
    for key in ["k", "k ", "K", "ķ"] {
        record(&mut connection, key, 10);
    }
    let lease = take_all(&mut store, LONG).await;
    let heads = read(&mut store, &[]).await;
    store.fail(&[failure(&heads[0], &lease, true, 0)]).await.unwrap();
    assert_eq!(read(&mut store, &[]).await.len(), 3, "only the one key is parked");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_an_outbox_has_every_right_and_a_missing_table_is_named() {
    let database = fresh();
    let mut store = store(&database, "a");
    for probe in store.probes() {
        store.probe(probe).await.unwrap_or_else(|error| panic!("{} {}: {error}", probe.right, probe.table));
    }
    let empty = super::SERVER.empty();
    drop(connect(&empty));
    let error = self::store(&empty, "a").meta().await.unwrap_err();
    assert!(error.to_string().contains("outbox_meta"), "{error}");
}

/// Parks the keys of the outbox's first messages.
async fn park(store: &mut Store, keys: usize) -> Vec<Head> {
    let lease = take_all(store, LONG).await;
    let mut heads = read(store, &[]).await;
    heads.truncate(keys);
    let failures: Vec<_> = heads.iter().map(|head| failure(head, &lease, true, 0)).collect();
    store.fail(&failures).await.unwrap();
    heads
}

fn keys(letters: &[DeadLetter]) -> Vec<&str> {
    letters.iter().map(|letter| letter.aggregate_id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_found_by_what_they_are() {
    let database = fresh();
    let (mut store, mut connection) = (store(&database, "a"), connect(&database));
    ["a", "ö", "50%", "free"].iter().for_each(|key| record(&mut connection, key, 10));
    let heads = park(&mut store, 3).await;
    let all = DeadFilter::default();
    let letters = store.dead(&all, 10).await.unwrap();
    assert_eq!(keys(&letters), ["a", "ö", "50%"]);
    assert_eq!(letters[0].event_type.as_deref(), Some("made"));
    assert_eq!(letters[0].message_id.as_ref().map(Vec::len), Some(16));
    assert_eq!(store.dead(&all, 2).await.unwrap().len(), 2);

    let text = |text: &str| Some(text.to_owned());
    let filters = [
        (DeadFilter { key: text("ö"), ..all.clone() }, 1),
        (DeadFilter { key: text("O"), ..all.clone() }, 0),
        (DeadFilter { aggregate: text("thing"), event: text("made"), ..all.clone() }, 3),
        (DeadFilter { event: text("gone"), ..all.clone() }, 0),
        (DeadFilter { id: Some(heads[1].id), ..all.clone() }, 1),
        (DeadFilter { error: text("ö th"), ..all.clone() }, 3),
        (DeadFilter { error: text("%"), ..all.clone() }, 0),
        (DeadFilter { error: text("_o"), ..all.clone() }, 0),
        (DeadFilter { newer_ms: Some(60_000), ..all.clone() }, 3),
        (DeadFilter { older_ms: Some(60_000), ..all.clone() }, 0),
    ];
    for (filter, expected) in filters {
        assert_eq!(store.count_dead(&filter).await.unwrap(), expected, "{filter:?}");
        assert_eq!(store.dead(&filter, 10).await.unwrap().len() as u64, expected, "{filter:?}");
    }
}

/// Deleted by hand, or by a restore.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_message_that_is_gone_leaves_nothing_behind() {
    let database = fresh();
    let (mut store, mut connection) = (store(&database, "a"), connect(&database));
    ["gone", "there"].iter().for_each(|key| record(&mut connection, key, 10));
    let heads = park(&mut store, 2).await;
    let ids: Vec<_> = heads.iter().map(|head| head.id).collect();
    record(&mut connection, "gone", 10);
    connection.batch_execute(&format!("delete from outbox where id = {}", ids[0])).unwrap();
    assert_eq!(store.act_on_dead(DeadAction::Replay, &ids, "ann").await.unwrap(), 2);
    let left = store.held_keys(10).await.unwrap();
    let left: Vec<_> = left.iter().map(|key| (key.head_id, key.parked)).collect();
    assert_eq!(left, [(ids[1], false)], "what was replayed and is there waits for its try");
    let next: Vec<_> = read(&mut store, &[]).await.into_iter().map(|head| head.aggregate_id).collect();
    assert_eq!(next, [&b"there"[..], b"gone"], "what came after it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_key_goes_on_in_order_and_a_discarded_message_is_gone() {
    let database = fresh();
    let (mut store, mut connection) = (store(&database, "a"), connect(&database));
    ["again", "away", "again", "away", "still"].iter().for_each(|key| record(&mut connection, key, 10));
    let heads = park(&mut store, 5).await;
    let head = |key: &str| heads.iter().find(|head| head.aggregate_id == key.as_bytes()).unwrap().id;
    assert!(read(&mut store, &[]).await.is_empty());

    // The last refused message of a key is its head here, as `park` took them all.
    let letters = store.dead(&DeadFilter::default(), 10).await.unwrap();
    let of = |key: &str| letters.iter().find(|letter| letter.aggregate_id == key).unwrap().head_id;
    assert_ne!(of("away"), head("away"));
    assert_eq!(store.act_on_dead(DeadAction::Replay, &[of("again")], "ann").await.unwrap(), 1);
    assert_eq!(store.act_on_dead(DeadAction::Replay, &[of("again")], "ann").await.unwrap(), 0, "no more");
    assert_eq!(store.act_on_dead(DeadAction::Discard, &[of("away"), -1], "bob").await.unwrap(), 1);
    let left: Vec<_> = read(&mut store, &[]).await.into_iter().map(|head| head.aggregate_id).collect();
    assert_eq!(left, [&b"again"[..], b"away", b"again"], "in order, and one of `away` less");
    assert_eq!(keys(&store.dead(&DeadFilter::default(), 10).await.unwrap()), ["still"]);

    #[derive(diesel::QueryableByName)]
    struct Line {
        #[diesel(sql_type = diesel::sql_types::Text)]
        line: String,
    }
    let concat = match super::SERVER {
        crate::harness::Server::Mysql | crate::harness::Server::Mariadb => {
            "concat(actor, ' ', action, ' ', convert(aggregate_id using utf8mb4), ' ', detail)"
        }
        _ => "actor || ' ' || action || ' ' || aggregate_id || ' ' || detail",
    };
    let lines: Vec<Line> =
        diesel::sql_query(format!("select {concat} as line from outbox_audit order by id"))
            .load(&mut connection)
            .unwrap();
    let lines: Vec<_> = lines.into_iter().map(|line| line.line).collect();
    assert_eq!(lines, ["ann replay again no ö thanks", "bob discard away no ö thanks"]);

    let year = Duration::from_secs(365 * 24 * 3600);
    assert_eq!(store.prune_audit(year).await.unwrap(), 0);
    let long_ago = match super::SERVER {
        crate::harness::Server::Sqlite => "at - 366 * 86400000000",
        crate::harness::Server::Postgres => "at - interval '366 days'",
        _ => "at - interval 366 day",
    };
    connection
        .batch_execute(&format!("update outbox_audit set at = {long_ago} where action = 'replay'"))
        .unwrap();
    assert_eq!(store.prune_audit(year).await.unwrap(), 1);
    let left = diesel::dsl::sql::<diesel::sql_types::Text>("select action from outbox_audit");
    assert_eq!(left.load::<String>(&mut connection).unwrap(), ["discard"]);
}
