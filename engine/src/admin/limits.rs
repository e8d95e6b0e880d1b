//! Limits and budgets of tenants and keys: seen and changed.

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
};
use serde::Deserialize;
use storage::{
    admission::Scope,
    limits::{LimitPeriod, Limits, Observed},
};
use utoipa::ToSchema;

use super::{
    Admin,
    fault::{Fault, Named},
};
use crate::party::{BudgetView, LimitsView, Party};

/// Limits that take the place of the ones before; what is not given has no limit. The budget stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewLimits {
    /// Requests per minute.
    rpm: Option<u64>,
    /// Tokens per minute.
    tpm: Option<u64>,
    /// Requests at once.
    concurrency: Option<u64>,
    /// Which of `rpm`, `tpm`, `concurrency`, `budget` only count and report.
    #[serde(default)]
    observed: Vec<String>,
}

/// A budget that takes the place of the one before.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBudget {
    /// Tokens per period; null takes the budget away.
    tokens: Option<u64>,
    /// `day`, `month` or `total`, in UTC. Default: month.
    period: Option<String>,
}

/// Whose limits: `tenants/{name or id}` or `keys/{prefix or id}`.
async fn party(admin: &Admin, scope: &str, named: &str) -> Result<Party, Fault> {
    let scope = match scope {
        "tenants" => Scope::Tenant,
        "keys" => Scope::Key,
        other => return Err(Fault::NotFound(format!("{other:?}: give tenants or keys"))),
    };
    Ok(Party::find(&admin.gateway.storage, scope, named).await?)
}

/// The limits of a tenant or a key.
#[utoipa::path(
    get,
    path = "/admin/v1/{scope}/{id}/limits",
    params(("scope" = String, Path, description = "tenants or keys"), ("id" = String, Path)),
    responses((status = 200, body = LimitsView), (status = 404, description = "There is no such tenant or key."))
)]
pub(super) async fn show(
    State(admin): State<Admin>,
    Named((scope, id)): Named<(String, String)>,
) -> Result<Json<LimitsView>, Fault> {
    Ok(Json(party(&admin, &scope, &id).await?.limits().into()))
}

/// Gives a tenant or a key other limits. Every gateway hears of it within a second.
#[utoipa::path(
    put,
    path = "/admin/v1/{scope}/{id}/limits",
    params(("scope" = String, Path, description = "tenants or keys"), ("id" = String, Path)),
    request_body = NewLimits,
    responses((status = 200, body = LimitsView), (status = 404, description = "There is no such tenant or key."), (status = 409, description = "It was changed meanwhile, again and again."), (status = 422, description = "It cannot be so."))
)]
pub(super) async fn set(
    State(admin): State<Admin>,
    Named((scope, id)): Named<(String, String)>,
    body: Result<Json<NewLimits>, JsonRejection>,
) -> Result<Json<LimitsView>, Fault> {
    let NewLimits { rpm, tpm, concurrency, observed } = read(body)?;
    let observed = Observed::parse(&observed.join(",")).ok_or_else(|| {
        Fault::Invalid("observed: rpm, tpm, concurrency and budget can be".to_owned())
    })?;
    let party = party(&admin, &scope, &id).await?;
    let limits = |before: &Limits| Limits { rpm, tpm, concurrency, observed, ..*before };
    Ok(Json(party.set(&admin.gateway.storage, limits).await?.limits().into()))
}

/// The budget of a tenant or a key, and how much of it is used.
#[utoipa::path(
    get,
    path = "/admin/v1/{scope}/{id}/budget",
    params(("scope" = String, Path, description = "tenants or keys"), ("id" = String, Path)),
    responses((status = 200, body = BudgetView), (status = 404, description = "There is no such tenant or key."))
)]
pub(super) async fn budget(
    State(admin): State<Admin>,
    Named((scope, id)): Named<(String, String)>,
) -> Result<Json<BudgetView>, Fault> {
    let party = party(&admin, &scope, &id).await?;
    Ok(Json(party.budget(&admin.gateway.storage).await?))
}

/// Gives a tenant or a key another budget, or none.
#[utoipa::path(
    put,
    path = "/admin/v1/{scope}/{id}/budget",
    params(("scope" = String, Path, description = "tenants or keys"), ("id" = String, Path)),
    request_body = NewBudget,
    responses((status = 200, body = BudgetView), (status = 404, description = "There is no such tenant or key."), (status = 409, description = "It was changed meanwhile, again and again."), (status = 422, description = "It cannot be so."))
)]
pub(super) async fn set_budget(
    State(admin): State<Admin>,
    Named((scope, id)): Named<(String, String)>,
    body: Result<Json<NewBudget>, JsonRejection>,
) -> Result<Json<BudgetView>, Fault> {
    let NewBudget { tokens, period } = read(body)?;
    let period = period.as_deref().map_or(Some(LimitPeriod::Month), LimitPeriod::parse);
    let period = period.ok_or_else(|| Fault::Invalid("period: day, month or total".to_owned()))?;
    let storage = &admin.gateway.storage;
    let set = party(&admin, &scope, &id).await?.set_budget(storage, tokens, period).await?;
    Ok(Json(set.budget(storage).await?))
}

/// Forgives what was used of a budget (`reset`), or has it counted anew from the ledger (`reconcile`).
#[utoipa::path(
    post,
    path = "/admin/v1/{scope}/{id}/budget/{action}",
    params(
        ("scope" = String, Path, description = "tenants or keys"),
        ("id" = String, Path),
        ("action" = String, Path, description = "reset or reconcile"),
    ),
    responses((status = 200, body = BudgetView), (status = 404, description = "There is no such tenant or key."), (status = 409, description = "It was changed meanwhile, again and again."), (status = 422, description = "It cannot be so."))
)]
pub(super) async fn correct(
    State(admin): State<Admin>,
    Named((scope, id, action)): Named<(String, String, String)>,
) -> Result<Json<BudgetView>, Fault> {
    let storage = &admin.gateway.storage;
    let party = party(&admin, &scope, &id).await?;
    let corrected = match action.as_str() {
        "reset" => party.reset(storage).await?,
        "reconcile" => party.reconcile(storage).await?,
        other => return Err(Fault::NotFound(format!("{other:?}: give reset or reconcile"))),
    };
    Ok(Json(corrected.budget(storage).await?))
}

fn read<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Fault> {
    body.map(|Json(body)| body).map_err(|rejection| Fault::Invalid(rejection.body_text()))
}
