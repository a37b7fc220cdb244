use diesel::backend::Backend;
use diesel::deserialize::FromSql;
use diesel::prelude::*;
use diesel::serialize::{Output, ToSql};
use diesel::sql_types::Text;
use outbox_core::Outbox;

diesel::table! { products (id) { id -> BigInt, name -> Text } }

#[derive(Debug, diesel::expression::AsExpression, diesel::deserialize::FromSqlRow)]
#[diesel(sql_type = diesel::sql_types::Text)]
struct Name(String);

impl<DB: Backend> ToSql<Text, DB> for Name
where
    String: ToSql<Text, DB>,
{
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, DB>) -> diesel::serialize::Result {
        self.0.to_sql(out)
    }
}

impl<DB: Backend> FromSql<Text, DB> for Name
where
    String: FromSql<Text, DB>,
{
    fn from_sql(bytes: DB::RawValue<'_>) -> diesel::deserialize::Result<Self> {
        FromSql::<Text, DB>::from_sql(bytes).map(Self)
    }
}

#[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product")]
struct Product {
    id: i64,
    name: Name,
}

fn main() {}
