//! Random programs of transactions, alone against a model of the table and its messages, and several at once
//! against what their writers were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use diesel::Connection as _;
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::{Error, ErrorKind, Outbox, OutboxConnection as _, OutboxTx, Result, RetryPolicy, Writer};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::database::{connect, fresh, outbox};
use super::{Connection, SERVER};
use crate::harness::{Server, TestDatabase};
use crate::items::Stepped;

#[path = "random_writes_async.rs"]
mod asynchronous;

diesel::table! {
    good (shop, sku) {
        shop -> BigInt,
        sku -> Text,
        title -> Text,
        price -> BigInt,
        note -> Nullable<Text>,
        stamp -> BigInt,
    }
}

/// The same text for every server.
const GOOD: &str = "create table good (shop bigint not null, sku varchar(40) not null, \
    title varchar(100) not null default 'untitled', price bigint not null, note varchar(100), \
    stamp bigint not null, primary key (shop, sku))";

/// `stamp` differs in every write, so that a message says which one it is of.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = good, primary_key(shop, sku), treat_none_as_null = true)]
#[outbox(aggregate = "good", created = "listed", updated = "changed", deleted = "delisted")]
struct Good {
    shop: i64,
    sku: String,
    #[outbox(rename = "name")]
    title: String,
    price: i64,
    note: Option<String>,
    stamp: i64,
}

#[derive(Debug, Insertable, Outbox)]
#[diesel(table_name = good, primary_key(shop, sku))]
#[outbox(entity = Good)]
struct NewGood<'a> {
    shop: i64,
    sku: &'a str,
    price: i64,
    stamp: i64,
}

type Id = (i64, String);

impl Good {
    fn id(&self) -> Id {
        (self.shop, self.sku.clone())
    }

    fn image(&self) -> Value {
        let Self { shop, sku, title, price, note, stamp } = self;
        json!({"shop": shop, "sku": sku, "name": title, "price": price, "note": note, "stamp": stamp})
    }

    fn stamped(&self, stamp: i64) -> Self {
        Self { stamp, ..self.clone() }
    }

    fn new(id: &Id, price: i64, stamp: i64) -> Self {
        Self { shop: id.0, sku: id.1.clone(), title: "untitled".into(), price, note: None, stamp }
    }
}

/// What stands in for the row of a key that has none.
fn ghost(id: &Id) -> Good {
    Good::new(id, -1, -1)
}

#[derive(Debug, Clone)]
enum Op {
    Insert(Good),
    InsertNew(Id, i64),
    InsertAll(Vec<Good>),
    Upsert(Good),
    Lock(Id),
    Update(Good),
    UpdateFrom(Good),
    UpdateWith(Id, i64),
    /// Of all that cost less.
    UpdateWhere(i64),
    Delete(Id),
    DeleteById(Id),
    DeleteWhere(i64),
    RecordAll(usize),
}

#[derive(Debug, Clone)]
enum Step {
    Op(Op),
    Savepoint { steps: Vec<Step>, commits: bool },
}

#[derive(Debug, Clone)]
struct Transaction {
    connection: usize,
    steps: Vec<Step>,
    commits: bool,
    /// Within one that Diesel opened.
    is_inner: bool,
}

/// What a write was told that it did.
#[derive(Debug, Clone, PartialEq)]
enum Done {
    Created(Good),
    Updated(Option<Good>, Good),
    /// Whether it was new is not told.
    Upserted(Good),
    Deleted(Good),
    Read(Good),
    Stepped(i64),
}

/// A message, without what the library adds.
type Said = (&'static str, String, Value);

impl Done {
    fn said(&self) -> Option<Said> {
        let of_good = |event, good: &Good, payload| {
            let sku = good.sku.replace('\\', "\\\\").replace(':', "\\:");
            Some((event, format!("{}:{sku}", good.shop), payload))
        };
        match self {
            Self::Created(good) | Self::Upserted(good) => {
                of_good("good.listed", good, json!({ "after": good.image() }))
            }
            Self::Updated(None, good) => of_good("good.changed", good, json!({ "after": good.image() })),
            Self::Updated(Some(before), good) => {
                let changed = changed(&before.image(), &good.image());
                of_good("good.changed", good, json!({ "after": good.image(), "changed": changed }))
            }
            Self::Deleted(good) => of_good("good.delisted", good, json!({ "before": good.image() })),
            Self::Read(_) => None,
            Self::Stepped(sequence) => {
                Some(("account.stepped", "a".into(), json!({"account": "a", "sequence": sequence})))
            }
        }
    }
}

fn changed(before: &Value, after: &Value) -> Vec<String> {
    let fields = after.as_object().unwrap().iter();
    let mut names: Vec<_> =
        fields.filter(|(name, value)| before[*name] != **value).map(|(name, _)| name.clone()).collect();
    names.sort();
    names
}

fn perform(tx: &mut OutboxTx<'_, Connection>, op: &Op, stamp: i64) -> Result<Vec<Done>> {
    let locked = |tx: &mut OutboxTx<'_, Connection>, id: &Id| match tx.lock::<Good>(id) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(ghost(id)),
        found => found,
    };
    Ok(match op {
        Op::Insert(good) => vec![Done::Created(tx.insert(&good.stamped(stamp))?)],
        Op::InsertNew((shop, sku), price) => {
            vec![Done::Created(tx.insert(&NewGood { shop: *shop, sku, price: *price, stamp })?)]
        }
        Op::InsertAll(goods) => {
            let goods: Vec<_> = goods.iter().map(|good| good.stamped(stamp)).collect();
            tx.insert_all(&goods)?.into_iter().map(Done::Created).collect()
        }
        Op::Upsert(good) => vec![Done::Upserted(tx.upsert(&good.stamped(stamp))?)],
        Op::Lock(id) => vec![Done::Read(tx.lock(id)?)],
        Op::Update(good) => vec![Done::Updated(None, tx.update(&good.stamped(stamp))?)],
        Op::UpdateFrom(good) => {
            let before = locked(tx, &good.id())?;
            let after = tx.update_from(&before, &good.stamped(stamp))?;
            vec![Done::Updated(Some(before), after)]
        }
        Op::UpdateWith(id, by) => {
            let before = locked(tx, id)?;
            let changes = (good::price.eq(good::price + by), good::note.eq("with"), good::stamp.eq(stamp));
            let after = tx.update_with(&before, changes)?;
            vec![Done::Updated(Some(before), after)]
        }
        Op::UpdateWhere(below) => {
            let changes = (good::price.eq(good::price + 1), good::stamp.eq(stamp));
            let after: Vec<Good> = tx.update_where(good::price.lt(below), changes)?;
            // Its stamp is not told and differs in any case.
            let old = |good: &Good| Good { price: good.price - 1, ..good.stamped(-1) };
            after.into_iter().map(|good| Done::Updated(Some(old(&good)), good)).collect()
        }
        Op::Delete(id) => vec![Done::Deleted(tx.delete(&ghost(id))?)],
        Op::DeleteById(id) => vec![Done::Deleted(tx.delete_by_id(id)?)],
        Op::DeleteWhere(below) => {
            let rows: Vec<Good> = tx.delete_where(good::price.lt(below))?;
            rows.into_iter().map(Done::Deleted).collect()
        }
        Op::RecordAll(count) => {
            let sequences = || (0..*count as i64).map(|n| stamp * 10 + n);
            let events: Vec<_> =
                sequences().map(|sequence| Stepped { account: "a".into(), sequence }).collect();
            match &*events {
                [one] => tx.record(one)?,
                all => tx.record_all(all)?,
            }
            sequences().map(Done::Stepped).collect()
        }
    })
}

fn goods(connection: &mut Connection) -> Vec<Good> {
    let mut goods: Vec<Good> = good::table.select(Good::as_select()).load(connection).unwrap();
    goods.sort_by_key(Good::id);
    goods
}

/// The outbox as [`Done::said`] puts it; `changed` is sorted.
fn said(connection: &mut Connection) -> Vec<(String, String, Value)> {
    let rows = outbox(connection).into_iter().map(|mut row| {
        if let Some(Value::Array(changed)) = row.payload.get_mut("changed") {
            changed.sort_by_key(|name| name.as_str().map(str::to_owned));
        }
        (row.kind, row.key, row.payload)
    });
    rows.collect()
}

fn is_conflict(error: &Error) -> bool {
    use diesel::result::{DatabaseErrorKind, Error as Diesel};
    let unique = DatabaseErrorKind::UniqueViolation;
    matches!(error.downcast_ref(), Some(Diesel::DatabaseError(kind, _)) if *kind as u8 == unique as u8)
}

fn next_stamp() -> i64 {
    static STAMP: AtomicI64 = AtomicI64::new(1);
    STAMP.fetch_add(1, Ordering::Relaxed)
}

// What is tried.

fn ids() -> impl Strategy<Value = Id> {
    (1..=3_i64, select(vec!["a", "b:c", "ö"])).prop_map(|(shop, sku)| (shop, sku.to_owned()))
}

fn any_good() -> impl Strategy<Value = Good> {
    (ids(), 0..6_i64, select(vec!["t", "u"]), select(vec![None, Some("n")])).prop_map(
        |(id, price, title, note)| Good {
            title: title.into(),
            note: note.map(Into::into),
            ..Good::new(&id, price, 0)
        },
    )
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => any_good().prop_map(Op::Insert),
        2 => (ids(), 0..6_i64).prop_map(|(id, price)| Op::InsertNew(id, price)),
        2 => proptest::collection::vec(any_good(), 0..4).prop_map(Op::InsertAll),
        3 => any_good().prop_map(Op::Upsert),
        1 => ids().prop_map(Op::Lock),
        2 => any_good().prop_map(Op::Update),
        2 => any_good().prop_map(Op::UpdateFrom),
        2 => (ids(), 0..3_i64).prop_map(|(id, by)| Op::UpdateWith(id, by)),
        2 => (0..7_i64).prop_map(Op::UpdateWhere),
        2 => ids().prop_map(Op::Delete),
        2 => ids().prop_map(Op::DeleteById),
        2 => (0..7_i64).prop_map(Op::DeleteWhere),
        1 => (0..3_usize).prop_map(Op::RecordAll),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let savepoint = |(steps, commits): (Vec<Step>, bool)| Step::Savepoint { steps, commits };
    let step = ops().prop_map(Step::Op).prop_recursive(3, 12, 4, move |step| {
        (proptest::collection::vec(step, 0..4), prop::bool::weighted(0.7)).prop_map(savepoint)
    });
    proptest::collection::vec(step, 0..7)
}

fn program(transactions: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Transaction>> {
    let transaction = (0..3_usize, steps(), prop::bool::weighted(0.8), prop::bool::weighted(0.2));
    let transaction = transaction.prop_map(|(connection, steps, commits, is_inner)| Transaction {
        connection,
        steps,
        commits,
        is_inner,
    });
    proptest::collection::vec(transaction, transactions)
}

/// So many cases, or what `PROPTEST_CASES` says of the ordinary number of 32.
fn runner(share: u32) -> TestRunner {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { 32 };
    config.cases = (cases / share).max(1);
    config.max_shrink_time = 30_000;
    config.max_shrink_iters = if share == 1 { 1000 } else { 0 };
    TestRunner::new(config)
}

fn store() -> TestDatabase {
    let database = fresh();
    connect(&database).batch_execute(GOOD).unwrap();
    database
}

/// New ones for each case: one that a failure left inside of a transaction is not used again.
fn connections(database: &TestDatabase, count: usize) -> Vec<Connection> {
    let mut all: Vec<_> = (0..count).map(|_| connect(database)).collect();
    all[0].batch_execute("delete from good; delete from outbox").unwrap();
    all
}

// Alone: against a model.

#[derive(Debug)]
enum Refusal {
    Missing,
    Conflict,
}

#[derive(Debug, Clone, Default)]
struct Model {
    table: BTreeMap<Id, Good>,
    said: Vec<Said>,
}

impl Model {
    fn apply(&mut self, op: &Op, stamp: i64) -> Result<Vec<Done>, Refusal> {
        match op {
            Op::Insert(good) => self.insert(vec![good.stamped(stamp)]),
            Op::InsertNew(id, price) => self.insert(vec![Good::new(id, *price, stamp)]),
            Op::InsertAll(goods) => self.insert(goods.iter().map(|good| good.stamped(stamp)).collect()),
            Op::Upsert(good) => {
                let good = good.stamped(stamp);
                let is_new = self.table.insert(good.id(), good.clone()).is_none();
                Ok(vec![if is_new { Done::Created(good) } else { Done::Updated(None, good) }])
            }
            Op::Lock(id) => Ok(vec![Done::Read(self.table.get(id).cloned().ok_or(Refusal::Missing)?)]),
            Op::Update(good) => {
                let (_, after) = self.change(&good.id(), |row| *row = good.stamped(stamp))?;
                Ok(vec![Done::Updated(None, after)])
            }
            Op::UpdateFrom(good) => {
                let (before, after) = self.change(&good.id(), |row| *row = good.stamped(stamp))?;
                Ok(vec![Done::Updated(Some(before), after)])
            }
            Op::UpdateWith(id, by) => {
                let (before, after) = self.change(id, |row| {
                    *row = Good { price: row.price + by, note: Some("with".into()), ..row.stamped(stamp) }
                })?;
                Ok(vec![Done::Updated(Some(before), after)])
            }
            Op::UpdateWhere(below) => {
                let ids = self.cheaper(*below);
                let raise = |id: &Id| {
                    let raised = self.change(id, |row| {
                        *row = Good { price: row.price + 1, ..row.stamped(stamp) };
                    });
                    raised.map(|(before, after)| Done::Updated(Some(before), after))
                };
                ids.iter().map(raise).collect()
            }
            Op::Delete(id) | Op::DeleteById(id) => {
                Ok(vec![Done::Deleted(self.table.remove(id).ok_or(Refusal::Missing)?)])
            }
            Op::DeleteWhere(below) => {
                let ids = self.cheaper(*below);
                Ok(ids.iter().filter_map(|id| self.table.remove(id)).map(Done::Deleted).collect())
            }
            Op::RecordAll(count) => Ok((0..*count as i64).map(|n| Done::Stepped(stamp * 10 + n)).collect()),
        }
    }

    fn insert(&mut self, goods: Vec<Good>) -> Result<Vec<Done>, Refusal> {
        for good in &goods {
            // What is inserted before a conflict goes with the savepoint or the transaction.
            if self.table.insert(good.id(), good.clone()).is_some() {
                return Err(Refusal::Conflict);
            }
        }
        Ok(goods.into_iter().map(Done::Created).collect())
    }

    fn change(&mut self, id: &Id, change: impl FnOnce(&mut Good)) -> Result<(Good, Good), Refusal> {
        let row = self.table.get_mut(id).ok_or(Refusal::Missing)?;
        let before = row.clone();
        change(row);
        Ok((before, row.clone()))
    }

    fn cheaper(&self, below: i64) -> Vec<Id> {
        self.table.values().filter(|good| good.price < below).map(Good::id).collect()
    }

    fn goods(&self) -> Vec<Good> {
        self.table.values().cloned().collect()
    }

    /// Does what a write has done, and compares.
    ///
    /// # Errors
    /// The write's, if it had to fail with it and ends what is around it.
    fn compare(&mut self, op: &Op, stamp: i64, done: Result<Vec<Done>>) -> Result<()> {
        match (done, self.apply(op, stamp)) {
            (Ok(done), Ok(expected)) => self.note(op, &done, expected),
            (Err(error), Err(Refusal::Missing)) if error.kind() == ErrorKind::NotFound => {}
            (Err(error), Err(Refusal::Conflict)) if is_conflict(&error) => return Err(error),
            (done, expected) => panic!("{op:?}: {done:?} where {expected:?} was due"),
        }
        Ok(())
    }

    /// Compares what a write did with what it had to do; only conditions may do it in another order.
    fn note(&mut self, op: &Op, done: &[Done], mut expected: Vec<Done>) {
        if matches!(op, Op::UpdateWhere(_) | Op::DeleteWhere(_)) {
            expected.sort_by_key(|one| done.iter().position(|other| other.said() == one.said()));
        }
        match (done, &*expected) {
            ([Done::Upserted(row)], [Done::Created(good) | Done::Updated(None, good)])
            | ([Done::Read(row)], [Done::Read(good)]) => assert_eq!(row, good, "{op:?}"),
            (done, expected) => {
                let said = |all: &[Done]| all.iter().map(Done::said).collect::<Vec<_>>();
                assert_eq!(said(done), said(expected), "{op:?}");
            }
        }
        self.said.extend(expected.iter().filter_map(Done::said));
    }
}

fn run(tx: &mut OutboxTx<'_, Connection>, steps: &[Step], model: &mut Model) -> Result<()> {
    for step in steps {
        match step {
            Step::Op(op) => {
                let stamp = next_stamp();
                model.compare(op, stamp, perform(tx, op, stamp))?;
            }
            Step::Savepoint { steps, commits } => {
                let mut inner = model.clone();
                let outcome = tx.savepoint(|tx| {
                    run(tx, steps, &mut inner)?;
                    if *commits { Ok(()) } else { Err(Error::application("back")) }
                });
                match outcome {
                    Ok(()) => *model = inner,
                    Err(error) => assert!(is_refused(&error), "{error}"),
                }
            }
        }
    }
    Ok(())
}

fn is_refused(error: &Error) -> bool {
    error.kind() == ErrorKind::Application || is_conflict(error)
}

fn run_alone(connection: &mut Connection, transaction: &Transaction, model: &mut Model) {
    let mut after = model.clone();
    let body = |tx: &mut OutboxTx<'_, Connection>| {
        run(tx, &transaction.steps, &mut after)?;
        assert_eq!(goods(tx.conn()), after.goods(), "within the transaction");
        if transaction.commits { Ok(()) } else { Err(Error::application("back")) }
    };
    let outcome = if transaction.is_inner {
        connection.transaction(|connection| connection.record_in_open_transaction(body))
    } else {
        connection.outbox_transaction(body)
    };
    match outcome {
        Ok(()) => *model = after,
        Err(error) => assert!(is_refused(&error), "{error}"),
    }
}

/// What a copy has that heard all.
fn folded<'s>(said: impl Iterator<Item = (&'s str, &'s str, &'s Value)>) -> BTreeMap<String, Value> {
    let mut rows = BTreeMap::new();
    for (kind, key, payload) in said {
        let (is_new, is_gone) = match kind {
            "good.listed" => (true, false),
            "good.changed" => (false, false),
            "good.delisted" => (false, true),
            _ => continue,
        };
        let last = rows.remove(key);
        assert_eq!(last.is_none(), is_new, "{kind} of {key} after {last:?}");
        if is_gone {
            assert_eq!(Some(&payload["before"]), last.as_ref(), "the last row of {key}");
            continue;
        }
        let after = &payload["after"];
        if let (Some(named), Some(last)) = (payload.get("changed"), &last) {
            // A row that came between a lock that found none and the update is compared with the ghost.
            let mut unknown = after.clone();
            for (name, value) in [("name", json!("untitled")), ("price", json!(-1)), ("stamp", json!(-1))] {
                unknown[name] = value;
            }
            unknown["note"] = Value::Null;
            let possible = [changed(last, after), changed(&unknown, after)].map(|names| json!(names));
            assert!(possible.contains(named), "{named} changed in {key}, of {possible:?}");
        }
        rows.insert(key.to_owned(), after.clone());
    }
    rows
}

/// The table, as the messages have it.
fn images(connection: &mut Connection) -> BTreeMap<String, Value> {
    let rows = goods(connection).into_iter().map(|good| {
        let (_, key, _) = Done::Created(good.clone()).said().unwrap();
        (key, good.image())
    });
    rows.collect()
}

fn assert_copies_follow(connection: &mut Connection) {
    let said = said(connection);
    let copy = folded(said.iter().map(|(kind, key, payload)| (&**kind, &**key, payload)));
    assert_eq!(copy, images(connection));
}

#[test]
fn random_transactions_do_and_say_what_the_model_does() {
    let database = store();
    let outcome = runner(1).run(&program(1..8), |program| {
        let mut connections = connections(&database, 3);
        let mut model = Model::default();
        for transaction in &program {
            run_alone(&mut connections[transaction.connection], transaction, &mut model);
        }
        let connection = &mut connections[0];
        prop_assert_eq!(goods(connection), model.goods());
        let expected = model.said.into_iter().map(|(kind, key, payload)| (kind.to_owned(), key, payload));
        prop_assert_eq!(said(connection), expected.collect::<Vec<_>>());
        assert_copies_follow(connection);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

// Several at once: against what each was told.

/// What a transaction was told; what is to be rolled back is not in it.
fn attempt(tx: &mut OutboxTx<'_, Connection>, steps: &[Step], told: &mut Vec<Done>) -> Result<()> {
    for step in steps {
        match step {
            Step::Op(op) => match perform(tx, op, next_stamp()) {
                Ok(done) => told.extend(done),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            },
            Step::Savepoint { steps, commits } => {
                let mut inner = Vec::new();
                let outcome = tx.savepoint(|tx| {
                    attempt(tx, steps, &mut inner)?;
                    if *commits { Ok(()) } else { Err(Error::application("back")) }
                });
                match outcome {
                    Ok(()) => told.extend(inner),
                    // Now and then contention is kept from the transaction, which must not commit a part then.
                    Err(error) => {
                        let is_swallowed = is_refused(&error) || next_stamp() % 2 == 0;
                        if !is_swallowed {
                            return Err(error);
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Deadlocks are looked for soon, and no wait outlasts the test.
fn make_impatient(connection: &mut Connection) {
    let setting = match SERVER {
        Server::Sqlite => return,
        Server::Postgres => "set deadlock_timeout = '20ms'",
        Server::Mariadb | Server::Mysql => "set session innodb_lock_wait_timeout = 2",
    };
    connection.batch_execute(setting).unwrap();
}

/// What the transactions that reported a commit were told.
fn run_among_others(mut connection: Connection, program: &[Transaction]) -> Vec<Done> {
    let policy = RetryPolicy {
        initial: Duration::from_millis(1),
        max: Duration::from_millis(20),
        max_attempts: 500,
        ..RetryPolicy::default()
    };
    let writer = Writer::new().retry(policy);
    let mut committed = Vec::new();
    for transaction in program {
        let mut told = Vec::new();
        let outcome = writer.transaction(&mut connection, |tx| {
            told.clear();
            attempt(tx, &transaction.steps, &mut told)?;
            if transaction.commits { Ok(()) } else { Err(Error::application("back")) }
        });
        match outcome {
            Ok(()) => committed.append(&mut told),
            Err(error) => assert!(is_refused(&error), "{error:?}"),
        }
    }
    committed
}

#[test]
fn random_transactions_at_once_say_exactly_what_they_committed_and_in_order() {
    let database = store();
    let programs = proptest::collection::vec(program(20..30), 4);
    let outcome = runner(8).run(&programs, |programs| {
        let mut connections = connections(&database, 5);
        connections.iter_mut().for_each(make_impatient);
        let mut reader = connections.pop().unwrap();
        let told: Vec<Done> = std::thread::scope(|scope| {
            let threads: Vec<_> = programs
                .iter()
                .zip(connections)
                .map(|(program, connection)| scope.spawn(|| run_among_others(connection, program)))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_copies_follow(&mut reader);
        // The messages prove whether an upsert found a row: the fold above has checked them.
        let of_upserts = |kind: &str| if kind == "good.changed" { "good.listed" } else { kind }.to_owned();
        let sorted = |all: Vec<(String, String, Value)>| {
            let mut all: Vec<_> = all
                .into_iter()
                .map(|(kind, key, payload)| (key, of_upserts(&kind), payload.to_string()))
                .collect();
            all.sort();
            all
        };
        let expected = told.iter().filter_map(Done::said);
        let expected = expected.map(|(kind, key, payload)| (kind.to_owned(), key, payload)).collect();
        prop_assert_eq!(sorted(said(&mut reader)), sorted(expected));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

/// The server fails the read after its first row; libmariadb would then wait for the rest when the statement is
/// executed again, if Diesel kept it.
#[test]
fn a_deadlock_among_the_rows_of_a_locking_read_does_not_hang_the_next_attempt() {
    if SERVER == Server::Sqlite {
        return;
    }
    let database = store();
    let mut holder = connect(&database);
    let goods = [1, 2, 3, 4, 5, 6, 7, 8].map(|shop| Good::new(&(shop, "a".into()), 0, 0));
    holder.outbox_transaction(|tx| tx.insert_all(&goods)).unwrap();
    let mut victim = connect(&database);
    let (done, is_done) = std::sync::mpsc::channel();
    holder
        .outbox_transaction(|tx| {
            // Many writes: the other one is the victim.
            for good in &goods[1..] {
                tx.update(&good.stamped(1))?;
            }
            std::thread::spawn(move || {
                let writer = Writer::new().retry(RetryPolicy::default());
                let all = writer.transaction(&mut victim, |tx| {
                    tx.update_where::<Good, _, _>(good::price.ge(0), good::stamp.eq(9))
                });
                done.send(all.map(|all| all.len()))
            });
            // Until it has the first row and waits for the second.
            std::thread::sleep(Duration::from_millis(500));
            tx.update(&goods[0].stamped(1))
        })
        .unwrap();
    let all = is_done.recv_timeout(Duration::from_secs(10)).expect("the second attempt ends");
    assert_eq!(all.unwrap(), goods.len());
}

/// The look before the statement must not be one into the snapshot of the transaction's first read.
#[test]
fn an_upsert_of_what_another_has_inserted_meanwhile_is_an_update() {
    if SERVER == Server::Sqlite {
        return;
    }
    let database = store();
    let (mut one, mut other) = (connect(&database), connect(&database));
    let good = Good::new(&(1, "a".into()), 0, 1);
    let outcome = one.outbox_transaction(|tx| {
        goods(tx.conn());
        other.outbox_transaction(|tx| tx.insert(&good))?;
        tx.upsert(&good.stamped(2))
    });
    // A server may also refuse it as contention.
    assert!(outcome.is_ok() || outcome.is_err_and(|error| error.is_contention()));
    assert_copies_follow(&mut one);
}
