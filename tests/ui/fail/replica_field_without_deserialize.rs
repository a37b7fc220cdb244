use diesel::backend::Backend;
use diesel::deserialize::FromSql;
use diesel::serialize::{Output, ToSql};
use diesel::sql_types::Text;
use outbox_core::Replica;

diesel::table! {
    products (id) {
        id -> BigInt,
        name -> Text,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

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

#[derive(Replica)]
#[replica(of = "product", table = products)]
struct ProductCopy {
    id: i64,
    name: Name,
}

fn main() {}
