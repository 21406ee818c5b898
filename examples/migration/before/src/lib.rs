//! Handlers on a `PgPool`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

#[derive(Serialize)]
struct Order {
    id: i64,
    item: String,
}

#[derive(Deserialize)]
struct Wish {
    item: String,
}

type Answer<T> = Result<Json<T>, StatusCode>;

pub fn router(pool: PgPool) -> Router {
    Router::new().route("/orders", post(take)).route("/orders/{id}", get(show)).with_state(pool)
}

async fn take(State(pool): State<PgPool>, Json(wish): Json<Wish>) -> Answer<Order> {
    let id = sqlx::query_scalar("INSERT INTO orders (item) VALUES ($1) RETURNING id")
        .bind(&wish.item)
        .fetch_one(&pool)
        .await
        .map_err(failed)?;
    Ok(Json(Order { id, item: wish.item }))
}

async fn show(State(pool): State<PgPool>, Path(id): Path<i64>) -> Answer<Order> {
    let item = sqlx::query_scalar("SELECT item FROM orders WHERE id = $1")
        .bind(id)
        .fetch_optional(&pool)
        .await
        .map_err(failed)?;
    item.map(|item| Json(Order { id, item })).ok_or(StatusCode::NOT_FOUND)
}

fn failed(error: sqlx::Error) -> StatusCode {
    eprintln!("{error}");
    StatusCode::INTERNAL_SERVER_ERROR
}
