//! The databases of the story, on whichever server. A service of one's own has one connection type and
//! needs none of this: it writes these queries straight.

use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool, R2D2Connection};
use outbox_core::broker::Broker;
use outbox_core::{MessageId, OutboxConnection, Result, Subscriber};

use crate::changes::Change;
use crate::order::ProductCopy;
use crate::product::{PriceRaised, Product, ProductService};
use crate::purchase::StockedProduct;

/// The three services, in the order in which their databases are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Service {
    Product,
    Order,
    Purchase,
}

impl Service {
    pub(crate) const ALL: [Self; 3] = [Self::Product, Self::Order, Self::Purchase];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Product => "product",
            Self::Order => "order",
            Self::Purchase => "purchase",
        }
    }
}

/// When a message was recorded and when it was applied, by the clocks of writer and consumer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) message: MessageId,
    pub(crate) applied_us: i64,
}

/// What a category has turned over, by a local join.
#[derive(Debug, Clone, PartialEq, Eq, diesel::QueryableByName, serde::Serialize)]
pub(crate) struct Total {
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub(crate) name: String,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    pub(crate) total: i64,
}

/// Over so many queues the order service's messages are spread.
pub(crate) const ORDER_QUEUES: u16 = 2;

/// A connection that the story runs on.
pub(crate) trait Database: OutboxConnection + R2D2Connection + Sized {
    /// The product service's transaction.
    fn write(&mut self, service: &mut ProductService, changes: &[Change]) -> Result<()>;

    /// The order service's subscriber, which has two queues: one for each of its two processes.
    fn order_subscriber<B: Broker>(
        name: String,
        broker: B,
        pool: Pool<ConnectionManager<Self>>,
    ) -> Subscriber<B, Self>;

    /// The purchase service's subscriber.
    fn purchase_subscriber<B: Broker>(
        name: String,
        broker: B,
        pool: Pool<ConnectionManager<Self>>,
    ) -> Subscriber<B, Self>;

    /// A pool of connections to one service's database.
    fn pool(url: &str) -> Result<Pool<ConnectionManager<Self>>>;

    /// Creates the tables of a service, ours and its own.
    fn create_tables(&mut self, service: Service) -> Result<()>;

    fn products(&mut self) -> QueryResult<Vec<Product>>;
    fn product_copies(&mut self) -> QueryResult<Vec<ProductCopy>>;
    fn stocked_products(&mut self) -> QueryResult<Vec<StockedProduct>>;

    fn add_order_line(&mut self, product_id: i64, quantity: i32) -> QueryResult<()>;
    fn add_purchase_line(&mut self, product_id: i64, quantity: i32) -> QueryResult<()>;
    fn add_price_alert(&mut self, raised: &PriceRaised) -> QueryResult<()>;
    fn price_alerts(&mut self) -> QueryResult<i64>;

    /// Turnover per category: order lines joined with the copy of the products.
    fn turnover(&mut self) -> QueryResult<Vec<Total>>;
    /// Pieces bought per batch: purchase lines joined with the copy.
    fn bought(&mut self) -> QueryResult<Vec<Total>>;

    fn outbox_rows(&mut self) -> QueryResult<i64>;
    fn inbox_rows(&mut self) -> QueryResult<i64>;
    fn held_errors(&mut self) -> QueryResult<Vec<String>>;
    fn times(&mut self) -> QueryResult<Vec<Times>>;
}

#[derive(diesel::QueryableByName)]
struct Count {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    count: i64,
}

#[derive(diesel::QueryableByName)]
struct HeldError {
    #[diesel(sql_type = diesel::sql_types::Text)]
    error: String,
}

#[derive(diesel::QueryableByName)]
struct TimesRow {
    #[diesel(sql_type = diesel::sql_types::Binary)]
    message_id: Vec<u8>,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    applied_us: i64,
}

macro_rules! database {
    ($connection:ty, $server:literal, settings: $settings:literal, integer: $integer:literal, applied_us: $applied_us:literal) => {
        impl Database for $connection {
            fn write(&mut self, service: &mut ProductService, changes: &[Change]) -> Result<()> {
                service.write(self, changes)
            }

            fn order_subscriber<B: Broker>(
                name: String,
                broker: B,
                pool: Pool<ConnectionManager<Self>>,
            ) -> Subscriber<B, Self> {
                Subscriber::new(name, broker, pool)
                    .queues(ORDER_QUEUES)
                    .copy::<ProductCopy>()
                    .on("product.price_raised", |tx, raised: PriceRaised| {
                        Ok(tx.conn().add_price_alert(&raised)?)
                    })
            }

            fn purchase_subscriber<B: Broker>(
                name: String,
                broker: B,
                pool: Pool<ConnectionManager<Self>>,
            ) -> Subscriber<B, Self> {
                Subscriber::new(name, broker, pool).copy::<StockedProduct>()
            }

            fn pool(url: &str) -> Result<Pool<ConnectionManager<Self>>> {
                let pool = Pool::builder().max_size(8).connection_customizer(Box::new(Settings($settings)));
                Ok(pool.build(ConnectionManager::new(url))?)
            }

            fn create_tables(&mut self, service: Service) -> Result<()> {
                use diesel::connection::SimpleConnection as _;
                let (own, ours) = match service {
                    Service::Product => (
                        include_str!(concat!("../sql/product.", $server, ".sql")),
                        &outbox_core::migrate::OUTBOX,
                    ),
                    Service::Order => (
                        include_str!(concat!("../sql/order.", $server, ".sql")),
                        &outbox_core::migrate::INBOX,
                    ),
                    Service::Purchase => (
                        include_str!(concat!("../sql/purchase.", $server, ".sql")),
                        &outbox_core::migrate::INBOX,
                    ),
                };
                outbox_core::migrate::run(self, ours)?;
                Ok(self.batch_execute(own)?)
            }

            fn products(&mut self) -> QueryResult<Vec<Product>> {
                use crate::schema::product::product::dsl::*;
                product.order(id).select(Product::as_select()).load(self)
            }

            fn product_copies(&mut self) -> QueryResult<Vec<ProductCopy>> {
                use crate::schema::order::product_copy::dsl::*;
                product_copy.order(id).select(ProductCopy::as_select()).load(self)
            }

            fn stocked_products(&mut self) -> QueryResult<Vec<StockedProduct>> {
                use crate::schema::purchase::stocked_product::dsl::*;
                stocked_product.order(id).select(StockedProduct::as_select()).load(self)
            }

            fn add_order_line(&mut self, product_id: i64, quantity: i32) -> QueryResult<()> {
                let line = crate::order::NewOrderLine { product_id, quantity };
                let table = crate::schema::order::order_line::table;
                diesel::insert_into(table).values(line).execute(self).map(|_| ())
            }

            fn add_purchase_line(&mut self, product_id: i64, quantity: i32) -> QueryResult<()> {
                let line = crate::purchase::NewPurchaseLine { product_id, quantity };
                let table = crate::schema::purchase::purchase_line::table;
                diesel::insert_into(table).values(line).execute(self).map(|_| ())
            }

            fn add_price_alert(&mut self, raised: &PriceRaised) -> QueryResult<()> {
                let alert = crate::order::NewPriceAlert {
                    product_id: raised.product_id,
                    raised_cents: raised.to_cents - raised.from_cents,
                };
                let table = crate::schema::order::price_alert::table;
                diesel::insert_into(table).values(alert).execute(self).map(|_| ())
            }

            fn price_alerts(&mut self) -> QueryResult<i64> {
                crate::schema::order::price_alert::table.count().get_result(self)
            }

            fn turnover(&mut self) -> QueryResult<Vec<Total>> {
                diesel::sql_query(concat!(
                    "select p.category as name, cast(sum(l.quantity * p.unit_price_cents) as ",
                    $integer,
                    ") as total from order_line l join product_copy p on p.id = l.product_id",
                    " group by p.category order by 2 desc, 1"
                ))
                .load(self)
            }

            fn bought(&mut self) -> QueryResult<Vec<Total>> {
                diesel::sql_query(concat!(
                    "select p.batch as name, cast(sum(l.quantity) as ",
                    $integer,
                    ") as total from purchase_line l join stocked_product p on p.id = l.product_id",
                    " group by p.batch order by 2 desc, 1 limit 5"
                ))
                .load(self)
            }

            fn outbox_rows(&mut self) -> QueryResult<i64> {
                let count: Count =
                    diesel::sql_query("select count(*) as count from outbox").get_result(self)?;
                Ok(count.count)
            }

            fn inbox_rows(&mut self) -> QueryResult<i64> {
                let count: Count =
                    diesel::sql_query("select count(*) as count from inbox").get_result(self)?;
                Ok(count.count)
            }

            fn held_errors(&mut self) -> QueryResult<Vec<String>> {
                let rows: Vec<HeldError> =
                    diesel::sql_query("select error from inbox_held limit 5").load(self)?;
                Ok(rows.into_iter().map(|row| row.error).collect())
            }

            fn times(&mut self) -> QueryResult<Vec<Times>> {
                let rows: Vec<TimesRow> = diesel::sql_query(concat!(
                    "select message_id, ",
                    $applied_us,
                    " as applied_us from inbox"
                ))
                .load(self)?;
                let times = rows.into_iter().filter_map(|row| {
                    let message = MessageId::from_slice(&row.message_id).ok()?;
                    Some(Times { message, applied_us: row.applied_us })
                });
                Ok(times.collect())
            }
        }
    };
}

/// Settings of a fresh connection.
#[derive(Debug)]
struct Settings(&'static str);

impl<C: diesel::connection::SimpleConnection + 'static>
    diesel::r2d2::CustomizeConnection<C, diesel::r2d2::Error> for Settings
{
    fn on_acquire(&self, connection: &mut C) -> std::result::Result<(), diesel::r2d2::Error> {
        connection.batch_execute(self.0).map_err(diesel::r2d2::Error::QueryError)
    }
}

database!(
    diesel::SqliteConnection,
    "sqlite",
    settings: "pragma busy_timeout = 10000; pragma journal_mode = wal; pragma synchronous = normal",
    integer: "bigint",
    applied_us: "applied_at"
);
#[cfg(feature = "servers")]
database!(
    diesel::MysqlConnection,
    "mysql",
    settings: "set time_zone = '+00:00'",
    integer: "signed",
    applied_us: "timestampdiff(microsecond, '1970-01-01 00:00:00', applied_at)"
);
#[cfg(feature = "servers")]
database!(
    diesel::PgConnection,
    "postgres",
    settings: "set client_min_messages = warning",
    integer: "bigint",
    applied_us: "cast(extract(epoch from applied_at) * 1000000 as bigint)"
);
