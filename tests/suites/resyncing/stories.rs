//! What a resync has to do whatever happens beside it.

use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::OutboxConnection as _;
use outbox_relay::config::SubscriberConfig;
use outbox_relay::held;
use outbox_relay::outbox::store::{DeadFilter, HeldAction};
use outbox_relay::resync;

use super::SERVER;
use super::database::{connect, copies, items, outbox_is_empty};
use super::stage::{
    Stage, insert, insert_silently, number, outbox_config, put_copy, rename, restore, resync_of,
};
use crate::harness::{Server, until};
use crate::items::{Item, NewItem, timed_copy};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_copy_starts_from_nothing_and_ends_equal_while_writes_go_on() {
    let stage = Stage::new().await;
    let mut source = connect(&stage.source);
    insert_silently(&mut source, 150);
    // Never at the source, or deleted there without a message.
    put_copy(&mut connect(&stage.target), 9_999, 1);
    // Its version is above the marks: whatever became of it, a message says so.
    let stage = stage.all().await;
    let id = stage.ask(&[], 0).await;
    for number in 0..40 {
        let known = items(&mut source);
        rename(&mut source, known[number].id, &format!("renamed {number}"));
        source.outbox_transaction(|tx| tx.delete(&known[50 + number])).unwrap();
        insert(&mut source, &format!("new {number}"));
    }
    let report = stage.is_over(id).await;
    assert!(report.is_done(), "{report:?}");
    assert!(report.rows >= 110, "{report:?}");
    stage.is_equal().await;
    let mut target = connect(&stage.target);
    let marked: Vec<i64> = timed_copy::table
        .filter(timed_copy::deleted_at.is_not_null().and(timed_copy::name.eq("stale")))
        .select(timed_copy::id)
        .load(&mut target)
        .unwrap();
    assert_eq!(marked, [9_999], "a soft delete stays, marked");
    assert_eq!(number(&mut target, "select count(*) from inbox_held"), 0);
    assert!(outbox_is_empty(&mut source));
    stage.stop().await;
}

/// A row that was written before the begin marks and committed after the scan has passed its place: not among what
/// was sent, older than the begin mark, and yet there.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_late_is_not_taken_for_stale() {
    if SERVER == Server::Sqlite {
        // One writer at a time: nothing can be late.
        return;
    }
    let stage = Stage::new().await;
    let mut source = connect(&stage.source);
    let first = insert(&mut source, "first");
    let stage = stage.all().await;
    stage.is_equal().await;

    let mut locker = connect(&stage.source);
    let locked = format!("begin; update item set secret = 'locked' where id = {}", first.id);
    // The message has its id before the marks have theirs.
    let recorded: Item = {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let url = stage.source.url.clone();
        let (told, hears) = std::sync::mpsc::channel::<Item>();
        let writer = std::thread::spawn(move || {
            let mut connection = super::database::connect_url(&url);
            connection
                .transaction(|connection| {
                    let item = connection
                        .record_in_open_transaction(|tx| tx.insert(&NewItem { name: "late", amount: 1 }))?;
                    told.send(item).unwrap();
                    receiver.recv().unwrap();
                    Ok::<_, outbox_core::Error>(())
                })
                .unwrap();
        });
        let item = hears.recv().unwrap();
        // The scan waits for this row.
        locker.batch_execute(&locked).unwrap();
        let id = stage.ask(&[], 0).await;
        until("the scan has begun", || async { stage.report(id).await.state == "scanning" }).await;
        // Most likely it has read its page by now, in which the late row is not.
        tokio::time::sleep(Duration::from_millis(300)).await;
        sender.send(()).unwrap();
        writer.join().unwrap();
        until("the late row is applied", || async {
            copies(&mut connect(&stage.target)).iter().any(|copy| copy.id == item.id)
        })
        .await;
        let late =
            number(&mut connect(&stage.target), "select count(*) from copy_late where copy = 'item_copy'");
        assert_eq!(late, 1, "it is older than the mark");
        locker.batch_execute("rollback").unwrap();
        assert!(stage.is_over(id).await.is_done());
        item
    };
    stage.is_equal().await;
    let ids: Vec<_> = copies(&mut connect(&stage.target)).iter().map(|copy| copy.id).collect();
    assert_eq!(ids, [first.id, recorded.id]);
    assert_eq!(number(&mut connect(&stage.target), "select count(*) from copy_late"), 0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_sent_one_by_one_and_those_without_a_row_are_dropped() {
    let stage = Stage::new().await.all().await;
    let (mut source, mut target) = (connect(&stage.source), connect(&stage.target));
    insert_silently(&mut source, 3);
    for id in [1, 77, 78] {
        put_copy(&mut target, id, 1);
    }
    // So that versions start above those.
    for number in 0..3 {
        insert(&mut source, &format!("told {number}"));
    }
    let id = stage.ask(&["1", "77"], 0).await;
    let report = stage.is_over(id).await;
    assert_eq!((report.is_done(), report.rows, report.gone), (true, 1, 1), "{report:?}");
    until("the keys are as at the source", || async {
        let shown: Vec<_> =
            copies(&mut connect(&stage.target)).into_iter().map(|copy| (copy.id, copy.name)).collect();
        let expected = [(1, "item 0"), (4, "told 0"), (5, "told 1"), (6, "told 2"), (78, "stale")];
        shown.iter().map(|(id, name)| (*id, name.as_str())).eq(expected)
    })
    .await;

    let failed = stage.is_over(stage.ask(&["seven"], 0).await).await;
    assert_eq!(failed.state, "failed");
    assert!(failed.error.contains("\"seven\" is no key of item"), "{failed:?}");
    // It stands in nobody's way.
    let id = stage.ask(&[], 0).await;
    assert!(stage.is_over(id).await.is_done());
    stage.is_equal().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_goes_on_where_one_was_killed() {
    let stage = Stage::new().await;
    insert_silently(&mut connect(&stage.source), 60);
    let relay = stage.relay();
    let killed = stage.serve(resync_of(&stage.source).page(5));
    stage.offered().await;
    let id = stage.ask(&[], 50).await;
    until("a part is sent", || async { stage.report(id).await.rows >= 10 }).await;
    killed.handle.abort();
    assert!(killed.handle.await.is_err() || stage.report(id).await.is_over());

    let others = [stage.serve(resync_of(&stage.source)), stage.serve(resync_of(&stage.source))];
    let report = stage.is_over(id).await;
    assert_eq!((report.is_done(), report.rows), (true, 60), "each row once: {report:?}");
    stage.is_equal().await;
    for task in others.into_iter().chain([relay]) {
        task.stop().await;
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_is_not_faster_than_was_asked_for() {
    const ROWS: u32 = 60;
    const PAGE: u16 = 5;
    const RATE: u32 = 40;
    let stage = Stage::new().await;
    insert_silently(&mut connect(&stage.source), ROWS.into());
    let relay = stage.relay();
    let serving = stage.serve(resync_of(&stage.source).page(PAGE));
    stage.offered().await;
    let began = Instant::now();
    let id = stage.ask(&[], RATE).await;
    until("all rows are sent", || async { stage.report(id).await.rows == i64::from(ROWS) }).await;
    // What follows the last page is not waited for here.
    let least = Duration::from_secs(1) * (ROWS - u32::from(PAGE)) / RATE;
    assert!(began.elapsed() >= least, "{:?} is less than {least:?}", began.elapsed());
    for task in [serving, relay] {
        task.stop().await;
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_outbox_is_noticed_and_a_new_generation_heals_it() {
    let stage = Stage::new().await.all().await;
    let mut source = connect(&stage.source);
    let first: Vec<_> = (0..10).map(|number| insert(&mut source, &format!("item {number}"))).collect();
    stage.is_equal().await;
    until("the outbox is empty", || async { outbox_is_empty(&mut connect(&stage.source)) }).await;
    let backup = items(&mut source);

    for item in &first[..5] {
        rename(&mut source, item.id, "lost by the restore");
    }
    insert(&mut source, "lost by the restore");
    source.outbox_transaction(|tx| tx.delete(&first[9])).unwrap();
    stage.is_equal().await;
    until("the outbox is empty", || async { outbox_is_empty(&mut connect(&stage.source)) }).await;

    restore(&mut source, &backup, 11);
    rename(&mut source, first[0].id, "after the restore");
    rename(&mut source, first[5].id, "after the restore");
    let order = SubscriberConfig::new("copies", &stage.target.url);
    let filter = DeadFilter { error: Some("stale-unknown".into()), ..DeadFilter::default() };
    until("the subscriber has noticed", || async {
        !held::list(&order, &filter, 10).await.unwrap().is_empty()
    })
    .await;
    let dead = held::list(&order, &filter, 10).await.unwrap();
    assert_eq!(dead[0].key, first[0].id.to_string());
    assert!(dead[0].error.contains("raise its generation and resync"), "{dead:?}");

    let outbox = outbox_config(&stage.source);
    let dry = resync::generation(&outbox, "a test", true).await.unwrap();
    assert_eq!((dry.was, dry.is, dry.aggregates.as_slice()), (1, 2, ["item".to_owned()].as_slice()));
    let raised = resync::generation(&outbox, "a test", false).await.unwrap();
    assert_eq!((raised.was, raised.is), (1, 2));
    assert!(stage.is_over(raised.resyncs[0]).await.is_done());
    stage.is_equal().await;
    let audited =
        number(&mut source, "select count(*) from outbox_audit where action in ('generation', 'resync')");
    assert_eq!(audited, 2);

    // What was set aside is older than what the copies show now, which somebody has looked at.
    for name in ["copies", "timed"] {
        let subscriber = SubscriberConfig::new(name, &stage.target.url);
        let outcome = held::act(&subscriber, &filter, HeldAction::Replay, "a test", false).await.unwrap();
        assert_eq!(outcome.count, 1, "{name}");
    }
    until("nothing is set aside", || async {
        number(&mut connect(&stage.target), "select count(*) from inbox_held") == 0
    })
    .await;
    stage.is_equal().await;
    assert_eq!(number(&mut connect(&stage.target), "select count(*) from inbox_audit"), 2);
    stage.stop().await;
}

/// The state of a row that could not be applied is no sign that the row is gone.
#[tokio::test(flavor = "multi_thread")]
async fn rows_stay_while_what_was_sent_is_set_aside() {
    let stage = Stage::new().await.all().await;
    let (mut source, mut target) = (connect(&stage.source), connect(&stage.target));
    insert_silently(&mut source, 1);
    put_copy(&mut target, 1, 1);
    insert(&mut source, "told");
    insert(&mut source, "told");
    // The copy refuses the row for now.
    let (refuse, allow) = match SERVER {
        Server::Sqlite => (
            "create trigger refuse before update on item_copy when new.id = 1 begin select raise(abort, 'refused'); end",
            "drop trigger refuse",
        ),
        Server::Postgres => (
            "alter table item_copy add constraint refused check (id <> 1 or name = 'stale')",
            "alter table item_copy drop constraint refused",
        ),
        Server::Mariadb | Server::Mysql => (
            "alter table item_copy add constraint refused check (id <> 1 or name = 'stale')",
            "alter table item_copy drop constraint refused",
        ),
    };
    until("both are told", || async { copies(&mut connect(&stage.target)).len() == 3 }).await;
    target.batch_execute(refuse).unwrap();
    let id = stage.ask(&["1"], 0).await;
    assert!(stage.is_over(id).await.is_done());
    until("it is set aside", || async {
        number(&mut connect(&stage.target), "select count(*) from inbox_held where consumer = 'copies'") == 1
    })
    .await;
    let all = stage.ask(&[], 0).await;
    assert!(stage.is_over(all).await.is_done());
    until("all other buckets are done with", || async {
        number(&mut connect(&stage.target), "select count(*) from copy_begun where copy = 'item_copy'") <= 2
    })
    .await;
    let names: Vec<_> = copies(&mut target).into_iter().map(|copy| copy.name).collect();
    assert!(names.contains(&"stale".to_owned()), "{names:?}");
    target.batch_execute(allow).unwrap();
    let subscriber = SubscriberConfig::new("copies", &stage.target.url);
    let everything = DeadFilter::default();
    until("it is applied", || async {
        held::act(&subscriber, &everything, HeldAction::Replay, "a test", false).await.unwrap();
        number(&mut connect(&stage.target), "select count(*) from inbox_held") == 0
    })
    .await;
    stage.is_equal().await;
    stage.stop().await;
}
