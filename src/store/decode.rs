//! Values as they leave the database. People write there what no calendar and no encoding has: one odd
//! value must not cost more than itself.

use chrono::{DateTime, Utc};
use sqlx::{
    Column, ColumnIndex, Decode, Encode, Postgres, Row, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgRow, PgTypeInfo, PgValueFormat, PgValueRef},
};

use super::error::{Error, Result};

/// Microseconds between 1970, from where we count, and 2000, from where PostgreSQL does.
const EPOCH_2000: i64 = 946_684_800_000_000;
/// The first and about the last moment that RFC 3339 can write in any time zone, in microseconds since 1970.
const FIRST: i64 = -62_135_596_800_000_000;
const LAST: i64 = 253_402_214_400_000_000;
/// Where PostgreSQL's calendar begins and ends, in microseconds since 2000; beyond are the infinities.
const CALENDAR: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// A `timestamptz`. What is before the year 1 or behind 9999, the infinities too, is taken for the first
/// or last moment there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timestamp(pub(super) DateTime<Utc>);

impl Timestamp {
    fn from_micros_since_2000(micros: i64) -> Self {
        let micros = micros.saturating_add(EPOCH_2000).clamp(FIRST, LAST);
        Self(DateTime::from_timestamp_micros(micros).unwrap_or_default())
    }
}

impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        <DateTime<Utc> as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for Timestamp {
    fn decode(value: PgValueRef<'r>) -> std::result::Result<Self, BoxDynError> {
        RawTime::decode(value).map(|time| Self::from_micros_since_2000(time.0))
    }
}

/// A `timestamptz` as the database has it, in microseconds since 2000: what is sent back is what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawTime(i64);

impl RawTime {
    /// Of what [`Self::micros`] gave.
    pub(super) fn new(micros: i64) -> Option<Self> {
        let is_time = matches!(micros, i64::MIN | i64::MAX) || CALENDAR.contains(&micros);
        is_time.then_some(Self(micros))
    }

    pub(super) fn micros(self) -> i64 {
        self.0
    }
}

impl Type<Postgres> for RawTime {
    fn type_info() -> PgTypeInfo {
        <DateTime<Utc> as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for RawTime {
    fn decode(value: PgValueRef<'r>) -> std::result::Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => Ok(Self(i64::from_be_bytes(value.as_bytes()?.try_into()?))),
            // Only statements that are not prepared answer in text; we have none that return times.
            PgValueFormat::Text => Err("a time in text format".into()),
        }
    }
}

impl Encode<'_, Postgres> for RawTime {
    fn encode_by_ref(
        &self,
        buffer: &mut PgArgumentBuffer,
    ) -> std::result::Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode_by_ref(&self.0, buffer)
    }
}

/// Text of any kind. What is no UTF-8 in it, which a database in SQL_ASCII may hold, is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text(pub(super) String);

impl Type<Postgres> for Text {
    fn type_info() -> PgTypeInfo {
        <String as Type<Postgres>>::type_info()
    }

    fn compatible(other: &PgTypeInfo) -> bool {
        <String as Type<Postgres>>::compatible(other)
    }
}

impl PgHasArrayType for Text {
    fn array_type_info() -> PgTypeInfo {
        <String as PgHasArrayType>::array_type_info()
    }

    fn array_compatible(other: &PgTypeInfo) -> bool {
        <String as PgHasArrayType>::array_compatible(other)
    }
}

impl<'r> Decode<'r, Postgres> for Text {
    fn decode(value: PgValueRef<'r>) -> std::result::Result<Self, BoxDynError> {
        Ok(Self(String::from_utf8_lossy(value.as_bytes()?).into_owned()))
    }
}

/// A column by its name, and the place where it mostly is, or else one further on: to look a name up costs more than
/// most values do.
#[derive(Clone, Copy, Debug)]
pub(super) struct ColumnAt(pub(super) usize, pub(super) &'static str);

impl ColumnIndex<PgRow> for ColumnAt {
    fn index(&self, row: &PgRow) -> std::result::Result<usize, sqlx::Error> {
        let Self(place, name) = *self;
        let columns = row.columns();
        let is_at = |place: &usize| columns.get(*place).is_some_and(|c| c.name() == name);
        [place, place + 1].into_iter().find(is_at).map_or_else(|| name.index(row), Ok)
    }
}

/// A column of a row; one that is not there or of another type is an answer that makes no sense.
pub(super) fn get<'r, T>(row: &'r PgRow, column: impl ColumnIndex<PgRow>) -> Result<T>
where
    T: Decode<'r, Postgres> + Type<Postgres>,
{
    row.try_get(column).map_err(Error::unexpected)
}

/// A text column.
pub(super) fn text(row: &PgRow, column: &str) -> Result<String> {
    get::<Text>(row, column).map(|text| text.0)
}

/// A column with a time.
pub(super) fn time(row: &PgRow, column: &str) -> Result<DateTime<Utc>> {
    get::<Timestamp>(row, column).map(|time| time.0)
}

/// A column with a time, or nothing.
pub(super) fn time_option(row: &PgRow, column: &str) -> Result<Option<DateTime<Utc>>> {
    get::<Option<Timestamp>>(row, column).map(|time| time.map(|time| time.0))
}

/// The only row.
pub(super) fn only_row(rows: &[PgRow]) -> Result<&PgRow> {
    rows.first().ok_or_else(|| Error::unexpected(sqlx::Error::RowNotFound))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::rfc3339;

    #[test]
    fn what_no_calendar_has_is_the_first_or_the_last_moment() {
        let at = |micros| rfc3339(&Timestamp::from_micros_since_2000(micros).0);
        assert_eq!(at(i64::MAX), "9999-12-31T00:00:00.000000Z", "infinity");
        assert_eq!(at(i64::MIN), "0001-01-01T00:00:00.000000Z", "-infinity");
        assert_eq!(at(0), "2000-01-01T00:00:00.000000Z");
        assert_eq!(at(i64::MAX - 1), "9999-12-31T00:00:00.000000Z");
    }

    #[test]
    fn a_position_is_a_moment_that_postgresql_has() {
        for micros in [i64::MIN, i64::MAX, CALENDAR.start, CALENDAR.end - 1, 0] {
            assert_eq!(RawTime::new(micros).map(RawTime::micros), Some(micros));
        }
        for micros in [i64::MIN + 1, i64::MAX - 1, CALENDAR.start - 1, CALENDAR.end] {
            assert_eq!(RawTime::new(micros), None, "{micros}");
        }
    }

    proptest! {
        #[test]
        fn any_number_is_a_time_that_can_be_written(micros in any::<i64>()) {
            let text = rfc3339(&Timestamp::from_micros_since_2000(micros).0);
            prop_assert_eq!(text.len(), "2000-01-01T00:00:00.000000Z".len(), "{}", text);
        }
    }
}
