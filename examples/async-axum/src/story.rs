//! What the example shows: a few requests, and the messages that they must have recorded.

use std::net::SocketAddr;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::{Value, json};

use crate::database::Pool;
use crate::{Result, client};

diesel::table! {
    /// The outbox, as far as it is looked at here.
    outbox (id) {
        id -> BigInt,
        aggregate_type -> Text,
        event_type -> Text,
        aggregate_id -> Text,
        payload -> Binary,
    }
}

/// A message that waits for the relay.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// Its kind and its key.
    pub(crate) name: String,
    pub(crate) payload: Value,
}

/// Each request with the status of its answer.
fn requests() -> [(&'static str, &'static str, Value, u16); 11] {
    let product = |sku: &str, price: u32, cost: u32| json!({"sku": sku, "name": sku.to_lowercase(), "price_cents": price, "cost_cents": cost});
    let list = json!([product("KETTLE", 2400, 1500), product("PAN", 3100, 1900), product("LAMP", 1, 1)]);
    [
        ("POST", "/products", product("LAMP", 950, 500), 201),
        ("POST", "/products/import", list, 200),
        ("GET", "/products", Value::Null, 200),
        ("PATCH", "/products/1", json!({"price_cents": 995}), 200),
        ("PATCH", "/products/1", json!({"price_cents": 0}), 409),
        ("PATCH", "/products/404", json!({"price_cents": 995}), 404),
        ("POST", "/products/discount", json!({"from_cents": 2000, "by_cents": 300}), 200),
        ("POST", "/products/discount", json!({"from_cents": 900, "by_cents": 600}), 422),
        ("DELETE", "/products/3", Value::Null, 204),
        ("DELETE", "/products/3", Value::Null, 404),
        ("GET", "/products", Value::Null, 200),
    ]
}

/// What they record, in the order of their ids; the requests that fail record nothing.
const EXPECTED: [&str; 8] = [
    "product.created 1",
    "product.created 2",
    "product.created 3",
    "product.updated 1",
    "product.price_raised 1",
    "product.updated 2",
    "product.updated 3",
    "product.deleted 3",
];

/// Sends the requests and prints what came of them; false when it is not what was expected.
pub(crate) async fn play(address: SocketAddr, pool: &Pool) -> Result<bool> {
    let mut is_as_expected = true;
    for (method, path, body, expected) in requests() {
        let (status, answer) = client::send(address, method, path, &body).await?;
        println!("{method} {path}{}\n  {status}{}", shown(&body), shown(&answer));
        if status != expected {
            eprintln!("async-axum: expected {expected}");
            is_as_expected = false;
        }
    }
    let recorded = recorded(pool).await?;
    println!("\nin the outbox:");
    for message in &recorded {
        println!("  {} {}", message.name, message.payload);
    }
    if recorded.iter().map(|message| message.name.as_str()).ne(EXPECTED) {
        eprintln!("async-axum: expected {EXPECTED:#?}");
        is_as_expected = false;
    }
    Ok(is_as_expected)
}

/// A body behind what it belongs to, if there is one.
fn shown(body: &Value) -> String {
    if body.is_null() { String::new() } else { format!(" {body}") }
}

/// What the outbox holds.
pub(crate) async fn recorded(pool: &Pool) -> Result<Vec<Recorded>> {
    let rows: Vec<(i64, String, String, String, Vec<u8>)> =
        outbox::table.order(outbox::id).load(&mut pool.get().await?).await?;
    rows.into_iter()
        .map(|(_, aggregate, event, key, payload)| {
            Ok(Recorded {
                name: format!("{aggregate}.{event} {key}"),
                payload: serde_json::from_slice(&payload)?,
            })
        })
        .collect()
}
