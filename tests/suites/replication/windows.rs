//! Windows: what was read of a table meets what the stream has brought meanwhile.

use std::collections::HashSet;
use std::sync::Arc;

use outbox_relay::change::Value;
use outbox_relay::replication::{ClosedWindow, CopyPlan, CopyProgress, Group, Key, Projected};

use super::VARIABLE;
use crate::copies::{Copies, ROOMY, columns, sorted, spec};

/// A window ends: what the stream has touched stays, rows that the source has not go, and what is equal is not written.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_reconciled() {
    let table = "create table t (a int, b varchar(10) character set ascii collate ascii_bin, v varchar(10) unique, \
                 primary key (a, b))";
    let mut copies = Copies::of(VARIABLE, &[table], &[table], vec![spec("t")]).await;
    copies
        .there
        .run(&[
            "update outbox_copy set state = 'copying'",
            // Equal, swapped, extra, touched, outside.
            "insert into t values (1, 'a', 'same'), (1, 'b', 'two'), (1, 'c', 'one'), (1, 'd', 'extra'), \
             (2, 'a', 'touched'), (3, 'a', 'outside')",
        ])
        .await;
    let row = |a: i64, b: &str, v: &str| {
        Projected(vec![Value::Int(a), Value::Text(b.into()), Value::Text(v.into())])
    };
    let key = |a: i64, b: &str| Key(vec![Value::Int(a), Value::Text(b.into())]);
    let plan = Arc::clone(&copies.plans[0]);
    let window = ClosedWindow {
        plan: Arc::clone(&plan),
        after: Some(key(0, "z")),
        through: Some(key(2, "b")),
        rows: vec![
            row(1, "a", "same"),
            row(1, "b", "one"),
            row(1, "c", "two"),
            row(2, "a", "stale"),
            row(2, "b", "new"),
        ],
        touched: HashSet::from([key(2, "a")]),
        progress: Some(CopyProgress { after_key: Some(key(2, "b")), rows: 5, is_last: false }),
    };
    let mut group = Group::new(&copies.plans, ROOMY);
    group.add_window(window);
    let applied = copies.target.apply(group, &copies.checkpoint).await.unwrap();
    assert_eq!((applied.set_aside, applied.deleted, applied.upserted), (0, 1, 3));
    let expected = vec![
        row(1, "a", "same"),
        row(1, "b", "one"),
        row(1, "c", "two"),
        row(2, "a", "touched"),
        row(2, "b", "new"),
        row(3, "a", "outside"),
    ];
    assert_eq!(copies.rows_there(0).await, sorted(&plan, expected));
    let state = copies.target.copies().await.unwrap().remove(0);
    assert_eq!((state.after_key, state.rows_copied), (Some(key(2, "b")), 5));
    // The last one, to the end: more rows than a page.
    let many: Vec<_> = (10..3000).map(|n| format!("({n}, 'x', '{n}')")).collect();
    copies.there.run(&[&format!("insert into t values {}", many.join(", "))]).await;
    let mut group = Group::new(&copies.plans, ROOMY);
    group.add_window(ClosedWindow {
        plan,
        after: Some(key(2, "b")),
        through: None,
        rows: vec![row(2999, "x", "kept")],
        touched: HashSet::new(),
        progress: Some(CopyProgress { after_key: None, rows: 1, is_last: true }),
    });
    copies.target.apply(group, &copies.checkpoint).await.unwrap();
    assert_eq!(
        copies.ask("select group_concat(v order by a, b) from t").await,
        ["same,one,two,touched,new,kept"]
    );
    assert_eq!(copies.ask("select concat(ready, consistent) from outbox_freshness").await, ["11"]);
    copies.drop().await;
}

/// A row that is read while transactions change it and back, or in columns that are not copied, is left to them: they
/// have to write it, or nobody does.
#[tokio::test(flavor = "multi_thread")]
async fn what_ends_as_it_began_within_a_window_is_written() {
    let table = "create table t (id int primary key, v varchar(10), own int)";
    let mut copies = Copies::of(VARIABLE, &[table], &[], vec![columns("t", &["id", "v"])]).await;
    copies.source.run(&["insert into t values (1, 'back', 0), (2, 'own', 0), (3, 'gone', 0)"]).await;
    // As if the copy began here: the rows are in the source only.
    let _begun = copies.read().await;
    copies
        .source
        .run(&[
            "update t set v = 'forth' where id = 1",
            "update t set v = 'back' where id = 1",
            "update t set own = 1 where id = 2",
            "delete from t where id = 3",
            "insert into t values (3, 'gone', 0)",
        ])
        .await;
    let (mut group, mut touched) = (Group::new(&copies.plans, ROOMY), HashSet::new());
    for txn in copies.read().await {
        copies.checkpoint.position = txn.position.clone();
        let mut touch = |_: &Arc<CopyPlan>, key: &Key| {
            touched.insert(key.clone());
        };
        group.push(txn, Some(&mut touch)).unwrap();
    }
    let row = |id: i64, v: &str| Projected(vec![Value::Int(id), Value::Text(v.into())]);
    group.add_window(ClosedWindow {
        plan: Arc::clone(&copies.plans[0]),
        after: None,
        through: None,
        rows: vec![row(1, "forth"), row(2, "own"), row(3, "gone")],
        touched,
        progress: Some(CopyProgress { after_key: None, rows: 3, is_last: true }),
    });
    copies.target.apply(group, &copies.checkpoint).await.unwrap();
    assert_eq!(copies.ask("select group_concat(id, v order by id) from t").await, ["1back,2own,3gone"]);
    copies.drop().await;
}

/// Three that end together: of a table that is empty yet, and once more in place, by rows that are old. Nothing of what is
/// behind the last goes.
#[tokio::test(flavor = "multi_thread")]
async fn windows_one_behind_the_other_are_reconciled_together() {
    const EACH: i64 = 1500;
    let table = "create table t (id int primary key, v varchar(20) unique)";
    let mut copies = Copies::of(VARIABLE, &[table], &[table], vec![spec("t")]).await;
    copies
        .there
        .run(&["update outbox_copy set state = 'copying'", "insert into t values (9000, 'behind')"])
        .await;
    let plan = Arc::clone(&copies.plans[0]);
    let key = |id: i64| Key(vec![Value::Int(id)]);
    let row = |id: i64, v: String| Projected(vec![Value::Int(id), Value::Text(v)]);
    for (round, stale) in ["first", "second"].into_iter().enumerate() {
        let is_first = round == 0;
        if !is_first {
            // What the stream has written meanwhile, one row in each range, and what it has deleted.
            copies
                .there
                .run(&["replace into t values (7, 'live 7'), (1507, 'live 1507'), (3007, 'live 3007')"])
                .await;
            copies.there.run(&["delete from t where id in (8, 1508, 3008)"]).await;
        }
        let mut group = Group::new(&copies.plans, ROOMY);
        for number in 0..3 {
            let (first, last) = (number * EACH + 1, (number + 1) * EACH);
            let rows = (first..=last).filter(|id| id % 10 != round as i64);
            group.add_window(ClosedWindow {
                plan: Arc::clone(&plan),
                after: (number > 0).then(|| key(first - 1)),
                through: Some(key(last)),
                rows: rows.map(|id| row(id, format!("{stale} {id}"))).collect(),
                touched: HashSet::from([key(first + 6), key(first + 7)]),
                progress: Some(CopyProgress {
                    after_key: Some(key(last)),
                    rows: EACH as u64,
                    is_last: false,
                }),
            });
        }
        let applied = copies.target.apply(group, &copies.checkpoint).await.unwrap();
        assert_eq!((applied.set_aside, applied.held.len()), (0, 0));
        let expected = (1..=3 * EACH).filter(|id| id % 10 != round as i64).filter_map(|id| match id % EACH {
            7 => (!is_first).then(|| row(id, format!("live {id}"))),
            8 => None,
            _ => Some(row(id, format!("{stale} {id}"))),
        });
        let expected: Vec<_> = expected.chain([row(9000, "behind".into())]).collect();
        if is_first {
            assert_eq!(applied.loaded, expected.len() as u64 - 1, "all are new, and go in at once");
        }
        assert_eq!(copies.rows_there(0).await, sorted(&plan, expected), "{stale}");
        let state = copies.target.copies().await.unwrap().remove(0);
        let copied = 3 * EACH as u64 * (round as u64 + 1);
        assert_eq!((state.after_key, state.rows_copied), (Some(key(3 * EACH)), copied));
    }
    copies.drop().await;
}
