//! Real requests to the router, on SQLite.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the failure")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use diesel::SqliteConnection;
use diesel::connection::{Connection as _, SimpleConnection as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::database::{self, Pool};
use crate::{client, service, story};

/// The service on a database of its own.
struct Served {
    address: SocketAddr,
    pool: Pool,
    folder: TempDir,
}

impl Served {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pool = database::open(&url(&folder)).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, service::router(pool.clone())).into_future());
        Self { address, pool, folder }
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let (status, body) = client::send(self.address, method, path, &body).await.unwrap();
        (status.as_u16(), body)
    }

    async fn add(&self, sku: &str, price_cents: i64) -> i64 {
        let new = json!({"sku": sku, "name": "a name", "price_cents": price_cents, "cost_cents": 100});
        let (status, product) = self.send("POST", "/products", new).await;
        assert_eq!(status, 201, "{product}");
        product["id"].as_i64().unwrap()
    }

    async fn recorded(&self) -> Vec<String> {
        story::recorded(&self.pool).await.unwrap().into_iter().map(|message| message.name).collect()
    }

    /// A connection beside the service that keeps every other writer out.
    fn lock(&self) -> SqliteConnection {
        let mut connection = SqliteConnection::establish(&url(&self.folder)).unwrap();
        connection.batch_execute("begin immediate").unwrap();
        connection
    }
}

fn url(folder: &TempDir) -> String {
    format!("sqlite://{}/test.db", folder.path().display())
}

// The migrations block their thread, so each test has more than one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_records_exactly_its_messages() {
    let served = Served::start().await;
    assert!(story::play(served.address, &served.pool).await.unwrap());
    assert!(!story::play(served.address, &served.pool).await.unwrap(), "a second time is something else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_is_what_was_recorded_without_the_cost() {
    let served = Served::start().await;
    let id = served.add("A", 700).await;
    let (status, answer) =
        served.send("PATCH", &format!("/products/{id}"), json!({"price_cents": 800})).await;
    assert_eq!(status, 200);
    assert_eq!(answer, json!({"id": id, "sku": "A", "name": "a name", "price_cents": 800}));
    let recorded = story::recorded(&served.pool).await.unwrap();
    assert_eq!(recorded[1].payload, json!({"after": answer, "changed": ["price_cents"]}));
    assert_eq!(recorded[2].payload, json!({"product_id": id, "from_cents": 700, "to_cents": 800}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_fails_changes_nothing_and_records_nothing() {
    let served = Served::start().await;
    for (sku, price) in [("A", 900), ("B", 150)] {
        served.add(sku, price).await;
    }
    let before = (served.send("GET", "/products", Value::Null).await, served.recorded().await);
    // A is written, and its message recorded, before B turns out to be too cheap.
    let discount = json!({"from_cents": 100, "by_cents": 100});
    let (status, answer) = served.send("POST", "/products/discount", discount).await;
    assert_eq!((status, &answer["error"]), (422, &json!("B would sell below its cost")));
    let taken = json!({"sku": "A", "name": "n", "price_cents": 1, "cost_cents": 1});
    assert_eq!(served.send("POST", "/products", taken).await.0, 409);
    assert_eq!(served.send("PATCH", "/products/1", json!({"price_cents": -1})).await.0, 409);
    assert_eq!(served.send("DELETE", "/products/77", Value::Null).await.0, 404);
    assert_eq!((served.send("GET", "/products", Value::Null).await, served.recorded().await), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_written_now_is_an_outage() {
    let served = Served::start().await;
    let lock = served.lock();
    let new = json!({"sku": "A", "name": "n", "price_cents": 1, "cost_cents": 1});
    let (status, answer) = served.send("POST", "/products", new).await;
    assert_eq!((status, answer), (503, json!({"error": "Service Unavailable"})));
    drop(lock);
    served.add("A", 1).await;
    assert_eq!(served.recorded().await, ["product.created 1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_leaves_a_whole_transaction_behind() {
    let served = Served::start().await;
    let id = served.add("A", 700).await;
    let lock = served.lock();
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let request = format!("DELETE /products/{id} HTTP/1.1\r\nhost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    // The handler waits for the lock when the client leaves, and the server has seen that when it is free.
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(lock);
    let started = Instant::now();
    while served.recorded().await.len() < 2 {
        assert!(started.elapsed() < Duration::from_secs(20), "the transaction was given up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(served.recorded().await[1], format!("product.deleted {id}"));
    served.add("B", 700).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_changes_of_one_product_are_recorded_in_the_order_of_their_commits() {
    let served = Served::start().await;
    let path = format!("/products/{}", served.add("A", 1000).await);
    let requests = (1..=20).map(|price| served.send("PATCH", &path, json!({"price_cents": price})));
    let answers = futures::future::join_all(requests).await;
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    let recorded = story::recorded(&served.pool).await.unwrap();
    let updates = recorded.iter().filter(|message| message.name.starts_with("product.updated"));
    let prices: Vec<_> = updates.map(|message| &message.payload["after"]["price_cents"]).collect();
    assert_eq!(prices.len(), 20);
    let (_, products) = served.send("GET", "/products", Value::Null).await;
    assert_eq!(*prices[19], products[0]["price_cents"]);
}
