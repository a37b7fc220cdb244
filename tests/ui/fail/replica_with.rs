use outbox_core::Replica;

diesel::table! {
    product_copies (id) {
        id -> BigInt,
        a -> BigInt,
        b -> BigInt,
        c -> BigInt,
        d -> BigInt,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

struct NoDisplay;

fn infallible(text: String) -> i64 {
    text.len() as i64
}

fn other(text: String) -> Result<i32, std::num::ParseIntError> {
    text.parse()
}

fn unshown(_: String) -> Result<i64, NoDisplay> {
    Err(NoDisplay)
}

fn borrowed(_: NoDisplay) -> Result<i64, String> {
    Ok(1)
}

#[derive(Replica)]
#[replica(of = "product", table = product_copies)]
struct ProductCopy {
    id: i64,
    #[replica(with = infallible)]
    a: i64,
    #[replica(with = other)]
    b: i64,
    #[replica(with = unshown)]
    c: i64,
    #[replica(with = borrowed)]
    d: i64,
}

fn main() {}
