//! Copies whose tables have keys that do not go with them: what is told of them, and that no row is written over another.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::{Frame, Message, Replica};
use outbox_relay::check::{self, Finding};
use outbox_relay::config::{Config, SubscriberConfig};

use super::stage::{Held, Running, ask, recorded};
use super::{Connection, SERVER};
use crate::harness::{Server, TestDatabase};

diesel::table! {
    code_copy (code) {
        code -> Text,
        name -> Text,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

#[derive(Debug, PartialEq, Eq, Queryable, Selectable, Replica)]
#[diesel(table_name = code_copy, primary_key(code))]
#[replica(of = "code")]
struct CodeCopy {
    code: String,
    name: String,
}

fn code(code: &str, event: &str, name: &str, version: i64) -> Frame {
    let side = if event == "deleted" { "before" } else { "after" };
    let image = serde_json::json!({ side: {"code": code, "name": name} });
    recorded(Message::new("code", code, event, image.to_string().into_bytes()).unwrap(), version)
}

fn codes(connection: &mut Connection) -> Vec<(String, String)> {
    code_copy::table
        .order(code_copy::name)
        .select((code_copy::code, code_copy::name))
        .load(connection)
        .unwrap()
}

/// A subscriber whose copy has this besides its columns.
async fn with(besides: &str) -> Running {
    let mut running = Running::start(|s| s.copy::<CodeCopy>()).await;
    let table = format!(
        "create table code_copy (code varchar(50) not null primary key, name varchar(50) not null, \
         outbox_generation bigint not null, outbox_id bigint not null, outbox_bucket smallint not null{besides})"
    );
    running.connection.batch_execute(&table).unwrap();
    running
}

fn is_mysql() -> bool {
    matches!(SERVER, Server::Mariadb | Server::Mysql)
}

/// The default collation of MySQL and MariaDB takes `A` for `a`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_a_collation_takes_for_one_are_never_written_over_each_other() {
    let mut running = with("").await;
    running.feed(&[code("a", "created", "first", 1), code("ö", "created", "third", 2)]).await;
    running.feed(&[code("A", "created", "second", 3), code("ö", "updated", "zzz", 4)]).await;
    let expected = |rows: &[(&str, &str)]| -> Vec<(String, String)> {
        rows.iter().map(|(code, name)| ((*code).into(), (*name).into())).collect()
    };
    if is_mysql() {
        running.until_held("it is given up", |held| held.len() == 1 && held[0].state == "dead").await;
        let held = running.rows();
        assert!(held[0].aggregate_id == "A" && held[0].error.contains("collation"), "{held:?}");
        assert_eq!(codes(&mut running.connection), expected(&[("a", "first"), ("ö", "zzz")]));
        ask(&mut running.connection, "discard", "dead");
    } else {
        let all = [("a", "first"), ("A", "second"), ("ö", "zzz")];
        assert_eq!(codes(&mut running.connection), expected(&all));
    }
    // Nor is a row deleted for another one, and each is for its own.
    running.feed(&[code("A", "deleted", "second", 5)]).await;
    running.until_held("nothing is held", <[Held]>::is_empty).await;
    assert_eq!(codes(&mut running.connection), expected(&[("a", "first"), ("ö", "zzz")]));
    running.feed(&[code("ö", "deleted", "zzz", 6)]).await;
    assert_eq!(codes(&mut running.connection), expected(&[("a", "first")]));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_meets_another_in_a_unique_key_says_so() {
    let mut running = with(", constraint one_name unique (name)").await;
    running.feed(&[code("a", "created", "same", 1), code("b", "created", "same", 2)]).await;
    running.until_held("it is given up", |held| held.len() == 1 && held[0].state == "dead").await;
    let held = running.rows();
    assert!(held[0].aggregate_id == "b" && held[0].attempts > 1, "{held:?}");
    assert!(held[0].error.to_lowercase().contains("unique"), "{held:?}");
    assert!(!held[0].error.contains("stale-unknown"), "{held:?}");
    running.stop().await;
}

async fn warnings(database: &TestDatabase) -> Vec<Finding> {
    let subscriber = vec![SubscriberConfig::new("test", &database.url)];
    let mut findings = check::all(&Config { subscriber, ..Config::default() }).await;
    findings.retain(|finding| finding.text.starts_with("copy "));
    findings
}

/// `check` names what does not go with a copy, and its statements take it away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_besides_a_copys_own_are_told_with_what_takes_them_away() {
    let mut running = with(
        ", constraint one_name unique (name), constraint known foreign key (outbox_id) references item (id)",
    )
    .await;
    diesel::sql_query("insert into item (id, name, amount) values (1, 'x', 1)")
        .execute(&mut running.connection)
        .unwrap();
    running.feed(&[code("a", "created", "first", 1)]).await;
    running.stop_keeping().await;
    let found = warnings(&running.database).await;
    let texts: Vec<_> = found.iter().map(|finding| finding.text.as_str()).collect();
    assert!(texts.iter().any(|text| text.contains("unique key")), "{found:?}");
    assert!(texts.iter().any(|text| text.contains("foreign key")), "{found:?}");
    assert_eq!(texts.iter().any(|text| text.contains("collation")), is_mysql(), "{found:?}");
    if SERVER == Server::Sqlite {
        return;
    }
    let mut fixes: Vec<_> = found.iter().map(|finding| finding.fix.clone().unwrap()).collect();
    // An index that a foreign key needs goes after it.
    fixes.sort_by_key(|fix| !fix.contains("known"));
    for fix in fixes {
        running.connection.batch_execute(&fix).unwrap();
    }
    // MySQL and MariaDB keep the index of a foreign key, which is not unique.
    assert_eq!(
        warnings(&running.database).await.iter().map(|f| &f.text).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
    assert_eq!(codes(&mut running.connection).len(), 1);
}
