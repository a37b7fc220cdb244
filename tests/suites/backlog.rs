//! Writers held back while the outbox is not emptied.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use outbox_core::{BacklogLimit, ErrorKind, OutboxConnection as _, Result, WhenFull, Writer};

use super::database::{connect, fresh, message, outbox};
use super::writer::counting;
use super::{Connection, SERVER};
use crate::harness::Server;

/// Looks again at almost every transaction.
const PROBE: Duration = Duration::from_millis(10);

fn rows(rows: u64) -> BacklogLimit {
    BacklogLimit { rows: Some(rows), probe: PROBE, ..BacklogLimit::default() }
}

fn age(seconds: u64) -> BacklogLimit {
    BacklogLimit { age: Some(Duration::from_secs(seconds)), probe: PROBE, ..BacklogLimit::default() }
}

fn refusing(limit: BacklogLimit) -> Writer {
    Writer::new().backlog(limit, WhenFull::Refuse)
}

/// Fills the outbox past any limit.
fn fill(connection: &mut Connection, key: &str, count: usize) {
    let filled = connection.outbox_transaction(|tx| {
        (0..count).for_each(|_| tx.record_message(message(key, "waits")));
        Ok(())
    });
    filled.unwrap();
}

/// One transaction with a look of its own.
fn write(writer: &Writer, connection: &mut Connection, key: &str) -> Result<()> {
    std::thread::sleep(PROBE);
    writer.transaction(connection, |tx| {
        tx.record_message(message(key, "written"));
        Ok(())
    })
}

fn execute(connection: &mut Connection, statement: &str) {
    connection.batch_execute(statement).unwrap();
}

/// Makes the rows of a key a minute older.
fn age_by_a_minute(connection: &mut Connection, key: &str) {
    let older = match SERVER {
        Server::Sqlite => "created_at - 60000000",
        Server::Postgres => "created_at - interval '60 seconds'",
        Server::Mariadb | Server::Mysql => "created_at - interval 60 second",
    };
    execute(connection, &format!("update outbox set created_at = {older} where aggregate_id = '{key}'"));
}

fn hold_key(connection: &mut Connection, key: &str, parked: bool) {
    let now = if SERVER == Server::Sqlite { "0" } else { "current_timestamp" };
    execute(
        connection,
        &format!(
            "insert into outbox_key \
               (aggregate_type, aggregate_id, head_id, attempts, parked, next_at, last_error) \
             values ('thing', '{key}', 1, 5, {parked}, {now}, 'no')"
        ),
    );
}

#[test]
fn more_rows_than_the_limit_refuse_and_fewer_let_in() {
    let database = fresh();
    let mut connection = connect(&database);
    let writer = refusing(rows(3));
    for _ in 0..4 {
        write(&writer, &mut connection, "k").unwrap();
    }
    let error = write(&writer, &mut connection, "k").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backlog);
    assert!(error.to_string().contains("3 rows") && error.to_string().contains("ids 1 to 4"), "{error}");
    assert!(error.to_string().contains("outbox-relay status"), "{error}");
    assert_eq!(outbox(&mut connection).len(), 4, "nothing was written");

    // Three rows are left, whatever their ids say.
    execute(&mut connection, "delete from outbox where id = 2");
    write(&writer, &mut connection, "k").unwrap();
    assert_eq!(write(&writer, &mut connection, "k").unwrap_err().kind(), ErrorKind::Backlog);
}

#[test]
fn a_row_older_than_the_limit_refuses_unless_its_key_is_parked() {
    let database = fresh();
    let mut connection = connect(&database);
    let writer = refusing(age(30));
    fill(&mut connection, "old", 2);
    write(&writer, &mut connection, "young").unwrap();
    age_by_a_minute(&mut connection, "old");
    let error = write(&writer, &mut connection, "young").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backlog);
    assert!(error.to_string().contains("30.0 s is the limit"), "{error}");
    let text = error.to_string();
    let seconds: f64 = text.split("has a row ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((60.0..90.0).contains(&seconds), "on the database's clock: {error}");

    hold_key(&mut connection, "old", false);
    assert!(write(&writer, &mut connection, "young").is_err(), "it waits for its next attempt, and counts");
    execute(&mut connection, "update outbox_key set parked = true");
    write(&writer, &mut connection, "young").unwrap();

    age_by_a_minute(&mut connection, "young");
    assert!(write(&writer, &mut connection, "young").is_err(), "behind the parked ones is another old one");
    assert!(write(&refusing(rows(3)), &mut connection, "young").is_err(), "parked rows are rows");
}

#[test]
fn clones_share_one_look_per_interval() {
    let database = fresh();
    let (mut first, mut second) = (connect(&database), connect(&database));
    fill(&mut first, "k", 4);
    let looks = [counting(&mut first, "min(id)"), counting(&mut second, "min(id)")];
    let writer = refusing(BacklogLimit { probe: Duration::from_secs(3600), age: Some(PROBE), ..rows(3) });
    for _ in 0..5 {
        assert!(write(&writer, &mut first, "k").is_err());
        assert!(write(&writer.clone(), &mut second, "k").is_err());
    }
    execute(&mut first, "delete from outbox");
    assert!(write(&writer, &mut second, "k").is_err(), "the last answer is used");
    assert_eq!(looks.map(|looks| looks.load(Ordering::Relaxed)), [1, 0]);

    let (looks, begins) = (counting(&mut first, "outbox"), counting(&mut second, "outbox"));
    for writer in [Writer::new(), refusing(BacklogLimit::default())] {
        writer.transaction(&mut first, |_| Ok(())).unwrap();
        writer.transaction(&mut second, |_| Ok(())).unwrap();
    }
    assert_eq!(
        [looks, begins].map(|count| count.load(Ordering::Relaxed)),
        [0, 0],
        "without a limit, no look"
    );
}

#[test]
fn who_may_wait_is_let_in_once_the_outbox_is_emptied_and_refused_in_the_end() {
    let database = fresh();
    let mut connection = connect(&database);
    fill(&mut connection, "k", 4);
    let writer = Writer::new().backlog(rows(3), WhenFull::Delay(Duration::from_millis(200)));
    let began = Instant::now();
    assert_eq!(write(&writer, &mut connection, "k").unwrap_err().kind(), ErrorKind::Backlog);
    assert!(began.elapsed() >= Duration::from_millis(200));

    let writer = Writer::new().backlog(rows(3), WhenFull::Delay(Duration::from_secs(30)));
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut relay = connect(&database);
            std::thread::sleep(Duration::from_millis(200));
            execute(&mut relay, "delete from outbox");
        });
        write(&writer, &mut connection, "late").unwrap();
    });
    assert!((Duration::from_millis(150)..Duration::from_secs(20)).contains(&began.elapsed()));
    assert_eq!(outbox(&mut connection).len(), 1);
}

#[test]
fn a_look_that_cannot_be_had_is_an_error_that_says_what_is_missing() {
    let database = SERVER.empty();
    let mut connection = connect(&database);
    for _ in 0..2 {
        let error = write(&refusing(rows(3)), &mut connection, "k").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Database);
        for part in ["backlog", "SELECT", "outbox-relay migrate"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}

/// The look waits for a lock that ends it; the transaction needs that lock on SQLite only.
#[test]
fn a_look_that_fails_by_an_outage_lets_the_transaction_see_for_itself() {
    let database = fresh();
    let mut blocker = connect(&database);
    fill(&mut blocker, "old", 1);
    age_by_a_minute(&mut blocker, "old");
    let (block, impatience) = match SERVER {
        Server::Sqlite => ("pragma journal_mode = delete; begin exclusive", "pragma busy_timeout = 0"),
        Server::Postgres => ("begin; lock table outbox_key", "set lock_timeout = '50ms'"),
        Server::Mariadb | Server::Mysql => ("lock tables outbox_key write", "set lock_wait_timeout = 1"),
    };
    execute(&mut blocker, block);
    let mut connection = <Connection as diesel::Connection>::establish(&database.url).unwrap();
    execute(&mut connection, impatience);
    let looks = counting(&mut connection, "outbox_key");
    let written = write(&refusing(age(30)), &mut connection, "k");
    if SERVER == Server::Sqlite {
        let error = written.unwrap_err();
        assert!(error.is_contention() && !error.to_string().contains("backlog"), "{error}");
    } else {
        written.unwrap();
        assert_eq!(looks.load(Ordering::Relaxed), 1, "it did look");
    }
}
