//! The product service: requests in, rows and messages out. Each write is one outbox transaction.

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use outbox_core::{AsyncOutboxConnection as _, Error};
use serde::{Deserialize, Serialize};

use crate::database::Pool;
use crate::failure::{BelowCost, Failure, is_constraint};
use crate::product::{NewProduct, PriceRaised, Product, product};

/// The service on this database.
pub(crate) fn router(pool: Pool) -> Router {
    Router::new()
        .route("/products", get(list).post(create))
        .route("/products/import", post(import))
        .route("/products/discount", post(discount))
        .route("/products/{id}", patch(reprice).delete(remove))
        .layer(middleware::from_fn(to_the_end))
        .with_state(pool)
}

/// Runs each request in a task of its own. A server drops a handler whose client has gone; a transaction's
/// future must be awaited to its end.
async fn to_the_end(request: Request, next: Next) -> Result<Response, StatusCode> {
    tokio::spawn(next.run(request)).await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn list(State(pool): State<Pool>) -> Result<Json<Vec<Product>>, Failure> {
    let products =
        product::table.order(product::id).select(Product::as_select()).load(&mut pool.get().await?).await?;
    Ok(Json(products))
}

async fn create(
    State(pool): State<Pool>,
    Json(new): Json<NewProduct>,
) -> Result<(StatusCode, Json<Product>), Failure> {
    let product = pool.get().await?.outbox_transaction(async |tx| tx.insert(&new).await).await?;
    Ok((StatusCode::CREATED, Json(product)))
}

#[derive(Serialize)]
struct Imported {
    created: Vec<Product>,
    /// The SKUs that are taken.
    refused: Vec<String>,
}

/// Inserts those that can be inserted: a savepoint that fails takes its own writes and messages along.
async fn import(
    State(pool): State<Pool>,
    Json(list): Json<Vec<NewProduct>>,
) -> Result<Json<Imported>, Failure> {
    let imported = pool
        .get()
        .await?
        .outbox_transaction(async |tx| {
            let (mut created, mut refused) = (Vec::new(), Vec::new());
            for new in &list {
                match tx.savepoint(async |tx| tx.insert(new).await).await {
                    Ok(product) => created.push(product),
                    Err(error) if is_constraint(&error) => refused.push(new.sku.clone()),
                    Err(error) => return Err(error),
                }
            }
            Ok(Imported { created, refused })
        })
        .await?;
    Ok(Json(imported))
}

#[derive(Deserialize)]
struct Price {
    price_cents: i64,
}

/// Sets a price; a higher one is an event as well.
async fn reprice(
    State(pool): State<Pool>,
    Path(id): Path<i64>,
    Json(Price { price_cents }): Json<Price>,
) -> Result<Json<Product>, Failure> {
    let product = pool
        .get()
        .await?
        .outbox_transaction(async |tx| {
            let before: Product = tx.lock(&id).await?;
            let after = tx.update_with(&before, product::price_cents.eq(price_cents)).await?;
            if after.price_cents > before.price_cents {
                tx.record(&PriceRaised {
                    product_id: id,
                    from_cents: before.price_cents,
                    to_cents: after.price_cents,
                })?;
            }
            Ok(after)
        })
        .await?;
    Ok(Json(product))
}

async fn remove(State(pool): State<Pool>, Path(id): Path<i64>) -> Result<StatusCode, Failure> {
    pool.get().await?.outbox_transaction(async |tx| tx.delete_by_id::<Product>(&id).await).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Discount {
    /// Products from this price on…
    from_cents: i64,
    /// …become so much cheaper.
    by_cents: i64,
}

/// Makes all dear products cheaper, or none when one would sell below its cost.
async fn discount(
    State(pool): State<Pool>,
    Json(Discount { from_cents, by_cents }): Json<Discount>,
) -> Result<Json<Vec<Product>>, Failure> {
    let products = pool
        .get()
        .await?
        .outbox_transaction(async |tx| {
            let dear = product::price_cents.ge(from_cents);
            let cheaper = product::price_cents.eq(product::price_cents - by_cents);
            let products: Vec<Product> = tx.update_where(dear, cheaper).await?;
            match products.iter().find(|product| product.price_cents < product.cost_cents) {
                Some(product) => Err(Error::application(BelowCost { sku: product.sku.clone() })),
                None => Ok(products),
            }
        })
        .await?;
    Ok(Json(products))
}
