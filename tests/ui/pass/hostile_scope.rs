//! Everything that generated code could name means something else here.
#![deny(warnings)]
#![allow(dead_code, non_camel_case_types, non_upper_case_globals)]

mod schema {
    diesel::table! {
        products (id) {
            id -> BigInt,
            image -> Text,
            version -> Text,
            bucket -> Text,
            connection -> Text,
            gone -> Bool,
            outbox_generation -> BigInt,
            outbox_id -> BigInt,
            outbox_bucket -> SmallInt,
        }
    }
}

/// What the derives write, and nothing else, is compiled in this scope.
mod hostile {
    use crate::schema::products;
    // Unit structs named as parameters could be.
    #[allow(unused_imports)]
    use crate::schema::products::dsl::*;

    pub(crate) struct Result;
    pub(crate) struct Option;
    pub(crate) struct Vec;
    pub(crate) struct Box;
    pub(crate) struct Entity;
    pub(crate) struct Image;
    pub(crate) struct Version;
    pub(crate) struct InsertOn;
    pub(crate) struct str;
    pub(crate) struct u16;
    pub(crate) struct usize;
    pub(crate) struct bool;
    pub(crate) enum Outcome {
        Ok,
        Err,
        Some,
        None,
    }
    #[allow(unused_imports)]
    pub(crate) use Outcome::{Err, None, Ok, Some};
    pub(crate) mod core {}
    pub(crate) mod std {}
    pub(crate) mod alloc {}
    pub(crate) mod serde_json {}
    pub(crate) mod outbox_core {}
    pub(crate) mod diesel {}

    /// Blanket methods of the names that Diesel's traits have.
    pub(crate) trait Confusing: Sized {
        fn eq(self, _: ()) {}
        fn filter(self, _: ()) {}
        fn find(self, _: ()) {}
        fn get_result(self, _: ()) {}
        fn key(&self) {}
    }
    impl<T> Confusing for T {}

    pub(crate) type Text = ::std::string::String;
    pub(crate) struct String;

    #[derive(::outbox_core::Replica)]
    #[replica(of = "product", table = products, soft_delete = gone, created = "made")]
    pub(crate) struct ProductCopy {
        pub(crate) id: i64,
        pub(crate) image: Text,
        #[replica(with = convert)]
        pub(crate) version: Text,
        #[replica(local)]
        pub(crate) bucket: Text,
    }

    fn convert(text: Text) -> ::core::result::Result<Text, Text> {
        Outcome::ok(text)
    }

    // Serde's own derive does not bear this scope.
    #[derive(::outbox_core::OutboxEvent)]
    #[outbox(aggregate = "product", event = "price_raised", key = id)]
    pub(crate) struct Event {
        pub(crate) id: i64,
    }

    #[derive(::outbox_core::OutboxEvent)]
    #[outbox(aggregate = "product", key = image)]
    pub(crate) enum Happened {
        PriceRaised { image: i64 },
        Held(Event),
    }
}

impl hostile::Outcome {
    fn ok<T, E>(value: T) -> Result<T, E> {
        Ok(value)
    }
}

impl serde::Serialize for hostile::Happened {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl serde::Serialize for hostile::Event {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.id.serialize(serializer)
    }
}

/// Diesel's own derives need `Result` and the like: a scope as hostile as they bear.
mod unfriendly {
    use crate::schema::products;
    #[allow(unused_imports)]
    use crate::schema::products::dsl::*;

    pub(crate) struct Entity;
    pub(crate) struct Image;
    pub(crate) struct String;
    pub(crate) mod core {}
    pub(crate) mod serde_json {}
    pub(crate) mod outbox_core {}

    pub(crate) type Text = ::std::string::String;

    #[derive(
        ::diesel::Queryable,
        ::diesel::Selectable,
        ::diesel::Identifiable,
        ::diesel::Insertable,
        ::diesel::AsChangeset,
        ::outbox_core::Outbox,
    )]
    #[diesel(table_name = products)]
    #[outbox(aggregate = "product")]
    pub(crate) struct Product {
        pub(crate) id: i64,
        pub(crate) image: Text,
        pub(crate) version: Text,
    }

    #[derive(::diesel::Insertable, ::outbox_core::Outbox)]
    #[diesel(table_name = products)]
    #[outbox(entity = Product)]
    pub(crate) struct Connection<'a> {
        pub(crate) connection: &'a ::core::primitive::str,
    }
}

fn main() {
    let product = unfriendly::Product { id: 7, image: "i".to_owned(), version: "v".to_owned() };
    assert_eq!(outbox_core::Entity::key(&product), "7");
    assert_eq!(outbox_core::Event::key(&hostile::Event { id: 7 }), "7");
    assert_eq!(outbox_core::Event::key(&hostile::Happened::PriceRaised { image: 8 }), "8");
    let held = hostile::Happened::Held(hostile::Event { id: 9 });
    assert_eq!((outbox_core::Event::key(&held).as_str(), outbox_core::Event::event(&held)), ("9", "held"));
    let copy = <hostile::ProductCopy as outbox_core::Replica>::from_image(
        &outbox_core::Entity::image(&product).unwrap(),
    );
    assert_eq!(copy.unwrap().image, "i");
}
