//! Ordinary endpoints over an ordinary table. Nothing here knows of rotating logins.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgPool, Row};

use crate::error::ApiError;

/// In cents. More than this in one account is somebody's mistake.
const MAX_BALANCE: i64 = 100_000_000_000;
const MAX_LIMIT: i64 = 100;

#[derive(Debug, Serialize)]
pub(crate) struct Account {
    id: i32,
    /// In cents.
    balance: i64,
    note: String,
}

impl FromRow<'_, PgRow> for Account {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self { id: row.try_get("id")?, balance: row.try_get("v")?, note: row.try_get("note")? })
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    limit: Option<i64>,
}

/// `GET /accounts?limit=20`: the fullest ones.
pub(crate) async fn list(
    State(pool): State<PgPool>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Vec<Account>>, ApiError> {
    let Query(page) = page?;
    let limit = page.limit.unwrap_or(20);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::BadRequest(format!("limit must be from 1 to {MAX_LIMIT}")));
    }
    let sql = "SELECT id, v, note FROM accounts ORDER BY v DESC, id LIMIT $1";
    Ok(Json(sqlx::query_as(sql).bind(limit).fetch_all(&pool).await?))
}

/// `GET /accounts/{id}`
pub(crate) async fn show(
    State(pool): State<PgPool>,
    id: Result<Path<i32>, PathRejection>,
) -> Result<Json<Account>, ApiError> {
    let Path(id) = id?;
    let sql = "SELECT id, v, note FROM accounts WHERE id = $1";
    let account = sqlx::query_as(sql).bind(id).fetch_optional(&pool).await?;
    account.map(Json).ok_or(ApiError::NotFound("account"))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deposit {
    /// In cents.
    amount: i64,
}

/// `POST /accounts/{id}/deposit` with `{"amount": 250}`: in one transaction, so that two deposits
/// at once both count and the limit holds.
pub(crate) async fn deposit(
    State(pool): State<PgPool>,
    id: Result<Path<i32>, PathRejection>,
    deposit: Result<Json<Deposit>, JsonRejection>,
) -> Result<Json<Account>, ApiError> {
    let (Path(id), Json(Deposit { amount })) = (id?, deposit?);
    if amount <= 0 {
        return Err(ApiError::BadRequest("amount must be more than 0".to_owned()));
    }
    let mut tx = pool.begin().await?;
    let sql = "SELECT v FROM accounts WHERE id = $1 FOR UPDATE";
    let balance: Option<i64> = sqlx::query_scalar(sql).bind(id).fetch_optional(&mut *tx).await?;
    let balance = balance.ok_or(ApiError::NotFound("account"))?;
    let Some(balance) = balance.checked_add(amount).filter(|b| *b <= MAX_BALANCE) else {
        return Err(ApiError::Conflict("the account can't hold that much"));
    };
    let sql = "UPDATE accounts SET v = $2 WHERE id = $1 RETURNING id, v, note";
    let account = sqlx::query_as(sql).bind(id).bind(balance).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(Json(account))
}
