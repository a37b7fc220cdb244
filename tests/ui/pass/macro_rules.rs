//! A struct that a macro of the user's writes, and a crate under another name.

use diesel::prelude::*;
use outbox_core as renamed;
use renamed::{Entity, Outbox, OutboxEvent, Replica};

diesel::table! {
    products (id) {
        id -> BigInt,
        name -> Text,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

macro_rules! model {
    ($name:ident, $copy:ident, $event:ident, $table:path, $aggregate:literal, $ty:ty, $key:ident) => {
        #[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
        #[diesel(table_name = $table)]
        #[outbox(aggregate = $aggregate, crate = renamed)]
        struct $name {
            id: $ty,
            name: String,
        }

        #[derive(Replica)]
        #[replica(of = $aggregate, table = $table, crate = crate::renamed, key($key))]
        #[allow(dead_code)]
        struct $copy {
            $key: $ty,
            name: String,
        }

        #[derive(serde::Serialize, OutboxEvent)]
        #[outbox(aggregate = $aggregate, event = "seen", key = $key, crate = self::renamed)]
        #[allow(dead_code)]
        struct $event {
            $key: $ty,
        }
    };
}

model!(Product, ProductCopy, Seen, products, "product", i64, id);

fn main() {
    assert_eq!(Product { id: 7, name: String::new() }.key(), "7");
}
