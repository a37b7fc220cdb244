//! How many statements a batch takes, whatever it holds.

use std::sync::{Arc, Mutex};

use diesel::Connection as _;
use diesel::connection::InstrumentationEvent;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool};
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{Recorded, Subscriber};

use super::Connection;
use super::SERVER;
use super::database::{copies, fresh};
use super::stage::{Running, change, copy};
use crate::harness::{Server, TestDatabase, until};
use crate::items::ItemCopy;

/// Notes what is written.
#[derive(Debug, Clone, Default)]
struct Written(Arc<Mutex<Vec<String>>>);

impl CustomizeConnection<Connection, diesel::r2d2::Error> for Written {
    fn on_acquire(&self, connection: &mut Connection) -> Result<(), diesel::r2d2::Error> {
        let seen = Arc::clone(&self.0);
        connection.set_instrumentation(move |event: InstrumentationEvent<'_>| {
            if let InstrumentationEvent::StartQuery { query, .. } = event {
                let text = query.to_string().to_lowercase().replace(['`', '"'], "");
                seen.lock().unwrap().push(text.chars().take(400).collect());
            }
        });
        Ok(())
    }
}

impl Written {
    fn pool(&self, database: &TestDatabase) -> Pool<ConnectionManager<Connection>> {
        Pool::builder()
            .max_size(2)
            .connection_customizer(Box::new(self.clone()))
            .build(ConnectionManager::new(&database.url))
            .unwrap()
    }
}

/// A hundred changes of a hundred keys, updates of a tenth of them, deletes of another tenth: as many statements
/// as for one of each.
#[tokio::test]
async fn a_batch_of_changes_takes_one_statement_for_each_table() {
    let (database, broker, written) = (fresh(), MemoryBroker::new(), Written::default());
    let pool = written.pool(&database);
    let subscriber = Subscriber::new("test", broker.clone(), pool).batch(200).copy::<ItemCopy>();
    let mut frames: Vec<_> = (1..=100).map(|id| change(id, "created", "a", id)).collect();
    frames.extend((1..=10).map(|id| change(id, "updated", "b", 100 + id)));
    frames.extend((11..=20).map(|id| change(id, "deleted", "a", 100 + id)));
    let mut running = Running::over(broker, database, subscriber, &frames).await;
    until("all is consumed", || async { running.broker.is_idle() }).await;
    let expected: Vec<_> =
        (1..=10).map(|id| copy(id, "b", 100 + id)).chain((21..=100).map(|id| copy(id, "a", id))).collect();
    assert_eq!(copies(&mut running.connection), expected);
    assert!(running.rows().is_empty());

    let seen = written.0.lock().unwrap().clone();
    let count = |beginning: &str| seen.iter().filter(|text| text.starts_with(beginning)).count();
    assert_eq!(count("insert into item_copy"), 1, "{seen:#?}");
    assert_eq!(count("delete from item_copy"), 1, "{seen:#?}");
    assert_eq!(count("insert into copy_deleted"), 1, "{seen:#?}");
    let inbox = if SERVER == Server::Sqlite { "insert or ignore into inbox " } else { "insert into inbox " };
    assert_eq!(count(inbox), 1, "{seen:#?}");
    // After the delete, which does not tell what it left.
    let of_copy = seen.iter().filter(|text| text.contains("from item_copy") && text.starts_with("select"));
    assert_eq!(of_copy.count(), 1, "{seen:#?}");
    running.stop().await;
}

/// Of messages that waited for long it is asked once, not for each, what the inbox may have forgotten.
#[tokio::test]
async fn the_horizon_is_read_once_in_a_batch() {
    let (database, broker, written) = (fresh(), MemoryBroker::new(), Written::default());
    let subscriber = Subscriber::new("test", broker.clone(), written.pool(&database)).copy::<ItemCopy>();
    let frames: Vec<_> = (1..=50)
        .map(|id| {
            let mut recorded = Recorded::from_frame(&change(id, "created", "a", id)).unwrap();
            recorded.recorded_at -= chrono::TimeDelta::hours(2);
            recorded.to_frame()
        })
        .collect();
    let mut running = Running::over(broker, database, subscriber, &frames).await;
    until("all is consumed", || async { running.broker.is_idle() }).await;
    assert_eq!(copies(&mut running.connection).len(), 50);
    let seen = written.0.lock().unwrap().clone();
    let horizons = seen.iter().filter(|text| text.starts_with("select") && text.contains("inbox_consumer"));
    assert_eq!(horizons.count(), 1, "{seen:#?}");
    running.stop().await;
}
