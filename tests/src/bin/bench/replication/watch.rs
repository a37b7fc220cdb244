//! How long a change that is committed takes to be seen in the copy.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;

use super::servers::Side;
use crate::Failure;
use crate::table::median;

/// How often the copy is looked at.
const STEP: Duration = Duration::from_micros(200);
/// Far longer than a change may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two changes that are watched while others are made, at least.
const APART: Duration = Duration::from_millis(50);

/// Waits until what is written now is applied.
pub(crate) async fn until_visible(source: &mut Side, target: &mut Side) -> Result<(), Failure> {
    source.run("replace into bench.product (id, sku, name, category, price, status, made) values (-1, 'watched', '', '', 0, 'draft', '2024-01-01'), (-2, 'busy', '', '', 0, 'draft', '2024-01-01')").await?;
    seen(target, "-2", 0).await
}

/// The median, in milliseconds, with so many transactions a second in all.
pub(crate) async fn latency_ms(
    source: &mut Side,
    target: &mut Side,
    rate: f64,
    samples: u32,
) -> Result<f64, Failure> {
    let period = Duration::from_secs_f64(1.0 / rate);
    let mut others = None;
    if period < APART {
        // Another connection makes the others.
        let mut busy = mysql_async::Conn::new(mysql_async::Opts::from_url(source.server.url())?).await?;
        others = Some(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(period);
            for n in 0_u32.. {
                ticks.tick().await;
                if busy
                    .query_drop(format!("update bench.product set weight = {n} where id = -2"))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }));
    }
    let mut times = vec![];
    for n in 1..=samples {
        let begun = Instant::now();
        let value = n + (rate * 1000.0) as u32;
        source.run(&format!("update bench.product set price = {value} where id = -1")).await?;
        let committed = Instant::now();
        seen(target, "-1", value).await?;
        times.push(committed.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(period.max(APART).saturating_sub(begun.elapsed())).await;
    }
    if let Some(others) = others {
        others.abort();
    }
    Ok(median(&times))
}

async fn seen(target: &mut Side, id: &str, price: u32) -> Result<(), Failure> {
    let sql = format!("select 1 from bench.product where id = {id} and price = {price}");
    let since = Instant::now();
    while target.sql.query_first::<u8, _>(&sql).await?.is_none() {
        if since.elapsed() > PATIENCE {
            return Err("a change is not seen in the copy".into());
        }
        tokio::time::sleep(STEP).await;
    }
    Ok(())
}
