//! The random transactions through diesel-async, alone, against the same model.

use std::future::Future;
use std::pin::Pin;

use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, SimpleAsyncConnection as _};
use outbox_core::{AsyncOutboxConnection as _, AsyncOutboxTx, Error, ErrorKind, Result};
use proptest::prelude::*;

use super::super::{AsyncConnection, SERVER};
use super::{
    Done, Good, Id, Model, NewGood, Op, Step, Transaction, assert_copies_follow, connections, ghost, good,
    goods, is_refused, next_stamp, program, runner, said, store,
};
use crate::harness::Server;
use crate::items::Stepped;

type Tx<'c> = AsyncOutboxTx<'c, AsyncConnection>;

async fn locked(tx: &mut Tx<'_>, id: &Id) -> Result<Good> {
    match tx.lock::<Good>(id).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(ghost(id)),
        found => found,
    }
}

async fn perform(tx: &mut Tx<'_>, op: &Op, stamp: i64) -> Result<Vec<Done>> {
    Ok(match op {
        Op::Insert(good) => vec![Done::Created(tx.insert(&good.stamped(stamp)).await?)],
        Op::InsertNew((shop, sku), price) => {
            vec![Done::Created(tx.insert(&NewGood { shop: *shop, sku, price: *price, stamp }).await?)]
        }
        Op::InsertAll(goods) => {
            let goods: Vec<_> = goods.iter().map(|good| good.stamped(stamp)).collect();
            tx.insert_all(&goods).await?.into_iter().map(Done::Created).collect()
        }
        Op::Upsert(good) => vec![Done::Upserted(tx.upsert(&good.stamped(stamp)).await?)],
        Op::Lock(id) => vec![Done::Read(tx.lock(id).await?)],
        Op::Update(good) => vec![Done::Updated(None, tx.update(&good.stamped(stamp)).await?)],
        Op::UpdateFrom(good) => {
            let before = locked(tx, &good.id()).await?;
            let after = tx.update_from(&before, &good.stamped(stamp)).await?;
            vec![Done::Updated(Some(before), after)]
        }
        Op::UpdateWith(id, by) => {
            let before = locked(tx, id).await?;
            let changes = (good::price.eq(good::price + by), good::note.eq("with"), good::stamp.eq(stamp));
            let after = tx.update_with(&before, changes).await?;
            vec![Done::Updated(Some(before), after)]
        }
        Op::UpdateWhere(below) => {
            let changes = (good::price.eq(good::price + 1), good::stamp.eq(stamp));
            let after: Vec<Good> = tx.update_where(good::price.lt(*below), changes).await?;
            let old = |good: &Good| Good { price: good.price - 1, ..good.stamped(-1) };
            after.into_iter().map(|good| Done::Updated(Some(old(&good)), good)).collect()
        }
        Op::Delete(id) => vec![Done::Deleted(tx.delete(&ghost(id)).await?)],
        Op::DeleteById(id) => vec![Done::Deleted(tx.delete_by_id(id).await?)],
        Op::DeleteWhere(below) => {
            let rows: Vec<Good> = tx.delete_where(good::price.lt(*below)).await?;
            rows.into_iter().map(Done::Deleted).collect()
        }
        Op::RecordAll(count) => {
            let sequences = || (0..*count as i64).map(|n| stamp * 10 + n);
            let events: Vec<_> =
                sequences().map(|sequence| Stepped { account: "a".into(), sequence }).collect();
            tx.record_all(&events)?;
            sequences().map(Done::Stepped).collect()
        }
    })
}

fn run<'a>(
    tx: &'a mut Tx<'_>,
    steps: &'a [Step],
    model: &'a mut Model,
) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
    Box::pin(async move {
        for step in steps {
            match step {
                Step::Op(op) => {
                    let stamp = next_stamp();
                    model.compare(op, stamp, perform(tx, op, stamp).await)?;
                }
                Step::Savepoint { steps, commits } => {
                    let mut inner = model.clone();
                    let within = &mut inner;
                    let outcome = tx
                        .savepoint(async |tx| {
                            run(tx, steps, within).await?;
                            if *commits { Ok(()) } else { Err(Error::application("back")) }
                        })
                        .await;
                    match outcome {
                        Ok(()) => *model = inner,
                        Err(error) => assert!(is_refused(&error), "{error}"),
                    }
                }
            }
        }
        Ok(())
    })
}

async fn run_alone(connection: &mut AsyncConnection, transaction: &Transaction, model: &mut Model) {
    let mut after = model.clone();
    let within = &mut after;
    let body = async |tx: &mut Tx<'_>| {
        run(tx, &transaction.steps, within).await?;
        if transaction.commits { Ok(()) } else { Err(Error::application("back")) }
    };
    match connection.outbox_transaction(body).await {
        Ok(()) => *model = after,
        Err(error) => assert!(is_refused(&error), "{error}"),
    }
}

#[test]
fn random_transactions_through_diesel_async_do_and_say_what_the_model_does() {
    let database = store();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let outcome = runner(2).run(&program(1..8), |program| {
        let mut sync = connections(&database, 1).remove(0);
        let mut model = Model::default();
        runtime.block_on(async {
            let mut connection = AsyncConnection::establish(&database.url).await.unwrap();
            if SERVER == Server::Sqlite {
                connection.batch_execute("pragma busy_timeout = 20000").await.unwrap();
            }
            for transaction in &program {
                run_alone(&mut connection, transaction, &mut model).await;
            }
        });
        prop_assert_eq!(goods(&mut sync), model.goods());
        let expected = std::mem::take(&mut model.said);
        let expected = expected.into_iter().map(|(kind, key, payload)| (kind.to_owned(), key, payload));
        prop_assert_eq!(said(&mut sync), expected.collect::<Vec<_>>());
        assert_copies_follow(&mut sync);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
