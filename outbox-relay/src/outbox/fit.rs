//! Whether the tables of an outbox are those that this relay knows, and no other name of the outbox is in use.

use outbox_core::{BUCKET_HASH, BUCKETS, Error, ErrorKind, Result};

use super::short;
use super::store::{Kind, Meta, Store};

/// Refuses an outbox whose writers do not agree with this relay.
///
/// # Errors
/// `Database` when the table is missing, `Invalid` when it does not fit.
pub(crate) async fn verify(store: &mut Store) -> Result<i64> {
    let meta = store.meta().await?;
    match misfit(&meta, store.database().kind()) {
        None => Ok(meta.generation),
        Some((what, fix)) => Err(Error::new(
            ErrorKind::Invalid,
            format!("database {}: {what}: {fix}", store.database().label()),
        )),
    }
}

/// What does not fit, and the statement that mends it.
pub(crate) fn misfit(meta: &Meta, kind: Kind) -> Option<(String, String)> {
    if meta.leases != i64::from(BUCKETS) {
        let what = format!(
            "outbox_lease has rows for {} of {BUCKETS} buckets, messages of the others would wait for ever",
            meta.leases
        );
        return Some((what, missing_leases(kind)));
    }
    if i64::from(meta.buckets) == i64::from(BUCKETS) && meta.bucket_hash == BUCKET_HASH {
        return None;
    }
    Some((
        format!(
            "outbox_meta says {} buckets by {}, this relay knows {BUCKETS} by {BUCKET_HASH}: its writers are of another \
             version",
            meta.buckets, meta.bucket_hash
        ),
        format!(
            "update outbox_meta set buckets = {BUCKETS}, bucket_hash = '{BUCKET_HASH}'; -- once no such writer is left \
             and outbox is empty"
        ),
    ))
}

/// As the migrations do it, without the rows that are there.
fn missing_leases(kind: Kind) -> String {
    let last = BUCKETS - 1;
    let numbers =
        format!("with recursive b (n) as (select 0 union all select n + 1 from b where n < {last})");
    match kind {
        Kind::Postgres => {
            format!(
                "insert into outbox_lease (bucket) select generate_series(0, {last}) on conflict do nothing;"
            )
        }
        Kind::Mysql => format!("insert ignore into outbox_lease (bucket) {numbers} select n from b;"),
        Kind::Sqlite => format!("{numbers} insert or ignore into outbox_lease (bucket) select n from b;"),
    }
}

/// What is wrong when a relay that lives works on this outbox under another name than `name`.
///
/// # Errors
/// As every statement.
pub(crate) async fn other_name(store: &mut Store, name: &str) -> Result<Option<String>> {
    let relays = store.relays().await?;
    // An owner without a name is a relay from before they had one.
    let names = relays.iter().filter_map(|owner| Some((owner, owner.splitn(4, '/').nth(3)?)));
    let other = names.into_iter().find(|(_, other)| *other != short(name));
    Ok(other.map(|(owner, other)| {
        format!(
            "database {}: relay {owner} works on this outbox under the name {other:?}, here it is {name:?}: copies take an \
             outbox by its name and would refuse half of the messages; give both relays the same `name`, or stop the other \
             one",
            store.database().label()
        )
    }))
}
