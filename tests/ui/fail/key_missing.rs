use outbox_core::{Outbox, OutboxEvent, Replica};

diesel::table! { products (sku) { sku -> Text } }

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product")]
struct Product {
    sku: String,
}

#[derive(Replica)]
#[diesel(table_name = products, primary_key(skew))]
#[replica(of = "product")]
struct ProductCopy {
    sku: String,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "seen")]
struct Seen {
    sku: String,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "sold", key(sku, by))]
struct Sold {
    sku: String,
}

fn main() {}
