//! Types of columns that are one Rust type and two database types.
//!
//! With these a row is one struct for both databases, and a text of SQL often is, too.

use identity::models::ModelRule;
use jiff::Timestamp;
use protocol::name::ModelName;
use sqlx::{Database, Decode, Encode, Postgres, Sqlite, Type, encode::IsNull, error::BoxDynError};
use time::OffsetDateTime;
use uuid::{NoContext, Uuid};

/// A point in time, to the microsecond: `timestamptz`, or an integer of microseconds.
#[derive(Clone, Copy)]
pub(crate) struct At(pub(crate) Timestamp);

/// A number that is never negative, in a signed column: `bigint`. What is too large for the column
/// is stored as its largest value.
#[derive(Clone, Copy)]
pub(crate) struct Count(pub(crate) u64);

/// Names of models: `text[]`, or a JSON array.
pub(crate) struct ModelList(pub(crate) Vec<ModelName>);

/// A time as sqlx wants it for `timestamptz`.
pub(crate) fn offset(at: Timestamp) -> Result<OffsetDateTime, time::error::ComponentRange> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.as_microsecond()) * 1_000)
}

/// A fresh UUIDv7 (RFC 9562, 5.7) of that time; before 1970, of 1970.
pub(crate) fn new_id(at: Timestamp) -> Uuid {
    let seconds = u64::try_from(at.as_second()).unwrap_or(0);
    let nanos = u32::try_from(at.subsec_nanosecond()).unwrap_or(0);
    Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, seconds, nanos))
}

/// The columns `allow_all_models` and `models` of a rule; NULL where there is none.
pub(crate) fn rule_columns(rule: Option<&ModelRule>) -> (Option<bool>, ModelList) {
    match rule {
        None => (None, ModelList(Vec::new())),
        Some(ModelRule::All) => (Some(true), ModelList(Vec::new())),
        Some(ModelRule::Only(models)) => (Some(false), ModelList(models.iter().cloned().collect())),
    }
}

/// The rule of those columns.
pub(crate) fn rule(allow_all: Option<bool>, models: ModelList) -> Option<ModelRule> {
    Some(if allow_all? { ModelRule::All } else { ModelRule::Only(models.0.into_iter().collect()) })
}

// === impl At ===

impl Type<Sqlite> for At {
    fn type_info() -> <Sqlite as Database>::TypeInfo {
        <i64 as Type<Sqlite>>::type_info()
    }

    fn compatible(ty: &<Sqlite as Database>::TypeInfo) -> bool {
        <i64 as Type<Sqlite>>::compatible(ty)
    }
}

impl Encode<'_, Sqlite> for At {
    fn encode_by_ref(
        &self,
        buffer: &mut <Sqlite as Database>::ArgumentBuffer,
    ) -> Result<IsNull, BoxDynError> {
        Encode::<Sqlite>::encode(self.0.as_microsecond(), buffer)
    }
}

impl<'r> Decode<'r, Sqlite> for At {
    fn decode(value: <Sqlite as Database>::ValueRef<'r>) -> Result<Self, BoxDynError> {
        let micros = <i64 as Decode<Sqlite>>::decode(value)?;
        Ok(Self(Timestamp::from_microsecond(micros)?))
    }
}

impl Type<Postgres> for At {
    fn type_info() -> <Postgres as Database>::TypeInfo {
        <OffsetDateTime as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for At {
    fn encode_by_ref(
        &self,
        buffer: &mut <Postgres as Database>::ArgumentBuffer,
    ) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode(offset(self.0)?, buffer)
    }
}

impl<'r> Decode<'r, Postgres> for At {
    fn decode(value: <Postgres as Database>::ValueRef<'r>) -> Result<Self, BoxDynError> {
        let at = <OffsetDateTime as Decode<Postgres>>::decode(value)?;
        Ok(Self(Timestamp::from_nanosecond(at.unix_timestamp_nanos())?))
    }
}

// === impl Count ===

impl Count {
    /// As it stands in the column.
    pub(crate) fn column(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl<DB: Database> Type<DB> for Count
where
    i64: Type<DB>,
{
    fn type_info() -> DB::TypeInfo {
        <i64 as Type<DB>>::type_info()
    }

    fn compatible(ty: &DB::TypeInfo) -> bool {
        <i64 as Type<DB>>::compatible(ty)
    }
}

impl<'q, DB: Database> Encode<'q, DB> for Count
where
    i64: Encode<'q, DB>,
{
    fn encode_by_ref(&self, buffer: &mut DB::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
        self.column().encode(buffer)
    }
}

impl<'r, DB: Database> Decode<'r, DB> for Count
where
    i64: Decode<'r, DB>,
{
    fn decode(value: DB::ValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(Self(<i64 as Decode<DB>>::decode(value)?.try_into()?))
    }
}

// === impl ModelList ===

impl ModelList {
    fn texts(&self) -> Vec<&str> {
        self.0.iter().map(ModelName::as_str).collect()
    }

    fn parse(texts: &[String]) -> Result<Self, BoxDynError> {
        let names = texts.iter().map(|text| ModelName::read(text));
        Ok(Self(names.collect::<Result<_, _>>()?))
    }
}

impl Type<Sqlite> for ModelList {
    fn type_info() -> <Sqlite as Database>::TypeInfo {
        <str as Type<Sqlite>>::type_info()
    }
}

impl Encode<'_, Sqlite> for ModelList {
    fn encode_by_ref(
        &self,
        buffer: &mut <Sqlite as Database>::ArgumentBuffer,
    ) -> Result<IsNull, BoxDynError> {
        Encode::<Sqlite>::encode(serde_json::to_string(&self.texts())?, buffer)
    }
}

impl<'r> Decode<'r, Sqlite> for ModelList {
    fn decode(value: <Sqlite as Database>::ValueRef<'r>) -> Result<Self, BoxDynError> {
        let text = <&str as Decode<Sqlite>>::decode(value)?;
        Self::parse(&serde_json::from_str::<Vec<String>>(text)?)
    }
}

impl Type<Postgres> for ModelList {
    fn type_info() -> <Postgres as Database>::TypeInfo {
        <Vec<String> as Type<Postgres>>::type_info()
    }

    fn compatible(ty: &<Postgres as Database>::TypeInfo) -> bool {
        <Vec<String> as Type<Postgres>>::compatible(ty)
    }
}

impl Encode<'_, Postgres> for ModelList {
    fn encode_by_ref(
        &self,
        buffer: &mut <Postgres as Database>::ArgumentBuffer,
    ) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode(self.texts(), buffer)
    }
}

impl<'r> Decode<'r, Postgres> for ModelList {
    fn decode(value: <Postgres as Database>::ValueRef<'r>) -> Result<Self, BoxDynError> {
        Self::parse(&<Vec<String> as Decode<Postgres>>::decode(value)?)
    }
}
