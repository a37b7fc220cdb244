//! A subscriber with a copy applies what a relay has published, held against bare upserts of the same rows, beside what
//! a consumer that does nothing gets from RabbitMQ; and both at once, held against the slower of the two alone.

use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};
use outbox_core::broker::rabbitmq::RabbitMq;
use outbox_core::{Message, MessageId, OutboxConnection as _, Replica, Subscriber, SubscriberStats, migrate};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::drain::Server;
use crate::process::Relay;
use crate::raw;
use crate::table::Measure;
use crate::{Failure, Size};

/// What a subscriber's batch is by default, and one transaction of the bare upserts.
const BATCH: usize = 500;
/// An entity is written a few times.
const ROWS_PER_KEY: usize = 4;
/// Rows of one transaction that fills the outbox.
const FILL: usize = 5000;
/// RabbitMQ takes in for seconds what it has confirmed, on both cores: that is part of filling the queue.
const SETTLE: Duration = Duration::from_secs(5);
/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_secs(600);

diesel::table! {
    product_copy (id) {
        id -> BigInt,
        name -> Text,
        price_cents -> BigInt,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

#[derive(Queryable, Selectable, Replica)]
#[diesel(table_name = product_copy)]
#[replica(of = "product")]
struct ProductCopy {
    id: i64,
    name: String,
    price_cents: i64,
}

/// A subscriber at work.
pub(crate) struct Applying {
    stats: SubscriberStats,
    shutdown: CancellationToken,
    task: JoinHandle<outbox_core::Result<()>>,
}

impl Applying {
    async fn until(&self, count: usize) -> Result<(), Failure> {
        let started = Instant::now();
        while (self.stats.applied() as usize) < count {
            if started.elapsed() > LIMIT || self.task.is_finished() {
                return Err(format!("{} of {count} messages were applied", self.stats.applied()).into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn stop(self) -> Result<(), Failure> {
        self.shutdown.cancel();
        Ok(self.task.await??)
    }
}

/// The operations that need a connection's own type; the same text for each.
macro_rules! consumer {
    ($module:ident, $connection:ty, $text:literal, $bytes:literal, $keep:literal, $replace:literal) => {
        pub(crate) mod $module {
            use super::*;

            /// The tables of both sides.
            pub(super) fn prepare(url: &str) -> Result<(), Failure> {
                let mut connection = <$connection>::establish(url)?;
                migrate::run(&mut connection, &migrate::INBOX)?;
                connection.batch_execute(concat!(
                    "create table product_copy (id bigint not null primary key, name ",
                    $text,
                    " not null, price_cents bigint not null, outbox_generation bigint not null, \
                     outbox_id bigint not null, outbox_bucket smallint not null)"
                ))?;
                Ok(())
            }

            /// Fills the outbox with updates of products.
            pub(super) fn fill(url: &str, size: Size) -> Result<(), Failure> {
                let mut connection = <$connection>::establish(url)?;
                for first in (0..size.rows).step_by(FILL) {
                    connection.outbox_transaction(|tx| {
                        for number in first..(first + FILL).min(size.rows) {
                            tx.record_message(update(number, size)?);
                        }
                        Ok(())
                    })?;
                }
                Ok(())
            }

            /// Rows a second of transactions of one multi-row INSERT into the inbox and one multi-row upsert.
            pub(super) fn bare_rate(url: &str, size: Size) -> Result<f64, Failure> {
                let mut connection = <$connection>::establish(url)?;
                let statements: Vec<[String; 2]> = (0..size.rows)
                    .step_by(BATCH)
                    .map(|first| {
                        let rows = || first..(first + BATCH).min(size.rows);
                        let ids: Vec<_> = rows()
                            .map(|_| {
                                let hex: String =
                                    MessageId::now().as_bytes().iter().map(|b| format!("{b:02x}")).collect();
                                format!(concat!("('bare', ", $bytes, ")"), hex)
                            })
                            .collect();
                        let copies: Vec<_> = rows()
                            .map(|number| {
                                let (id, name) = (key(number, size), name(size));
                                format!("({id}, '{name}', {number}, 1, {number}, 1)")
                            })
                            .collect();
                        [
                            format!(
                                concat!("insert into inbox (consumer, message_id) values {} ", $keep),
                                ids.join(", ")
                            ),
                            format!(
                                concat!(
                                    "insert into product_copy (id, name, price_cents, outbox_generation, \
                                     outbox_id, outbox_bucket) values {} ",
                                    $replace
                                ),
                                copies.join(", ")
                            ),
                        ]
                    })
                    .collect();
                let started = Instant::now();
                for [inbox, copies] in &statements {
                    connection.transaction(|connection| {
                        connection.batch_execute(inbox)?;
                        connection.batch_execute(copies)
                    })?;
                }
                let rate = size.rows as f64 / started.elapsed().as_secs_f64();
                connection.batch_execute("delete from product_copy; delete from inbox")?;
                Ok(rate)
            }

            fn subscriber(url: &str, amqp: &str) -> Result<Subscriber<RabbitMq, $connection>, Failure> {
                let pool = Pool::builder().max_size(4).build(ConnectionManager::<$connection>::new(url))?;
                let broker = RabbitMq::new(amqp)?.exchange("bench");
                Ok(Subscriber::new("apply", broker, pool).copy::<ProductCopy>())
            }

            /// Whether every key shows its last change.
            fn check(url: &str, size: Size) -> Result<(), Failure> {
                let mut connection = <$connection>::establish(url)?;
                let keys = (size.rows / ROWS_PER_KEY) as i64;
                let shown: i64 = product_copy::table
                    .filter(product_copy::price_cents.ge(size.rows as i64 - keys))
                    .count()
                    .get_result(&mut connection)?;
                if shown != keys {
                    return Err(format!("{shown} of {keys} products show their last change").into());
                }
                connection.batch_execute("delete from product_copy")?;
                Ok(())
            }

            /// All measures on this server, side by side.
            pub(crate) async fn measure(server: &Server, size: Size) -> Result<Vec<Measure>, Failure> {
                let (admin, amqp) = (server.admin()?, Server::amqp()?);
                let name = format!("bench_apply_{}", std::process::id());
                let (mut alone, mut bares, mut slower, mut both) = (vec![], vec![], vec![], vec![]);
                let mut consumed = vec![];
                for _ in 0..size.runs {
                    let url = server.create(&admin, &name)?;
                    prepare(&url)?;
                    bares.push(bare_rate(&url, size)?);
                    consumed.push(raw::consume_rate(&amqp, size, BATCH).await?);
                    subscriber(&url, &amqp)?.declare().await?;

                    fill(&url, size)?;
                    let started = Instant::now();
                    relay(&url, &amqp).await?;
                    let drained = size.rows as f64 / started.elapsed().as_secs_f64();
                    tokio::time::sleep(SETTLE).await;
                    let started = Instant::now();
                    let applying = start(subscriber(&url, &amqp)?);
                    applying.until(size.rows).await?;
                    let applied = size.rows as f64 / started.elapsed().as_secs_f64();
                    applying.stop().await?;
                    check(&url, size)?;
                    alone.push(applied);
                    slower.push(applied.min(drained));

                    fill(&url, size)?;
                    let applying = start(subscriber(&url, &amqp)?);
                    let started = Instant::now();
                    let (relayed, applied) = tokio::join!(relay(&url, &amqp), applying.until(size.rows));
                    relayed.and(applied)?;
                    both.push(size.rows as f64 / started.elapsed().as_secs_f64());
                    applying.stop().await?;
                    check(&url, size)?;
                    RabbitMq::new(&amqp)?.exchange("bench").remove(&["apply.0".to_owned()]).await?;
                    server.drop(&admin, &name)?;
                }
                let measure = |measure: &str, against: &str, ours, theirs| Measure {
                    measure: format!("{measure} {}", server.name),
                    against: against.to_owned(),
                    unit: "msg/s",
                    ours,
                    theirs,
                };
                Ok(vec![
                    measure("bare consumer", "bare upserts + inbox", consumed, bares.clone()),
                    measure("apply", "bare upserts + inbox", alone, bares),
                    measure("end to end", "slower of relay, subscriber", both, slower),
                ])
            }
        }
    };
}

consumer!(
    mysql,
    diesel::MysqlConnection,
    "varchar(1000)",
    "x'{}'",
    "on duplicate key update consumer = consumer",
    "on duplicate key update name = values(name), price_cents = values(price_cents), \
     outbox_generation = values(outbox_generation), outbox_id = values(outbox_id), \
     outbox_bucket = values(outbox_bucket)"
);
consumer!(
    postgres,
    diesel::PgConnection,
    "text",
    "'\\x{}'",
    "on conflict do nothing",
    "on conflict (id) do update set name = excluded.name, price_cents = excluded.price_cents, \
     outbox_generation = excluded.outbox_generation, outbox_id = excluded.outbox_id, \
     outbox_bucket = excluded.outbox_bucket"
);

/// On MariaDB or PostgreSQL.
pub(crate) async fn measure(server: &Server, size: Size) -> Result<Vec<Measure>, Failure> {
    if server.name == "postgres" {
        return postgres::measure(server, size).await;
    }
    mysql::measure(server, size).await
}

fn key(number: usize, size: Size) -> usize {
    number % (size.rows / ROWS_PER_KEY)
}

fn name(size: Size) -> String {
    "x".repeat(size.payload_bytes.saturating_sub(60))
}

fn update(number: usize, size: Size) -> outbox_core::Result<Message> {
    let (id, name) = (key(number, size), name(size));
    let image = format!("{{\"after\":{{\"id\":{id},\"name\":\"{name}\",\"price_cents\":{number}}}}}");
    Message::new("product", id.to_string(), "updated", image.into_bytes())
}

fn start<C: outbox_core::OutboxConnection>(subscriber: Subscriber<RabbitMq, C>) -> Applying {
    let (stats, shutdown) = (subscriber.stats(), CancellationToken::new());
    let task = tokio::spawn(subscriber.run(shutdown.clone()));
    Applying { stats, shutdown, task }
}

/// Runs the relay as a process of its own until the outbox is empty.
async fn relay(database: &str, amqp: &str) -> Result<(), Failure> {
    let mut relay = Relay::start(database, amqp, "poll", &["--until-idle"])?;
    let status = loop {
        if let Some(status) = relay.ended()? {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    if status.success() { Ok(()) } else { Err(format!("the relay ended with {status}").into()) }
}
