//! From columns to types, with the name of the column that is broken.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_identity::UnixTime;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::any::AnyRow;
use sqlx::{Decode, Row as _, Type};

use crate::StoreError;

/// A row of `table`.
pub(crate) struct Row<'a>(pub(crate) &'static str, pub(crate) &'a AnyRow);

impl Row<'_> {
    pub(crate) fn text(&self, column: &'static str) -> Result<String, StoreError> {
        self.get(column)
    }

    pub(crate) fn text_or_none(&self, column: &'static str) -> Result<Option<String>, StoreError> {
        self.get(column)
    }

    pub(crate) fn number(&self, column: &'static str) -> Result<u64, StoreError> {
        u64::try_from(self.get::<i64>(column)?).map_err(|_| self.corrupt(column))
    }

    pub(crate) fn time(&self, column: &'static str) -> Result<UnixTime, StoreError> {
        self.get(column).map(UnixTime::from_millis)
    }

    pub(crate) fn time_or_none(&self, column: &'static str) -> Result<Option<UnixTime>, StoreError> {
        Ok(self.get::<Option<i64>>(column)?.map(UnixTime::from_millis))
    }

    pub(crate) fn parsed<T: FromStr>(&self, column: &'static str) -> Result<T, StoreError> {
        self.text(column)?.parse().map_err(|_| self.corrupt(column))
    }

    pub(crate) fn parsed_or_none<T: FromStr>(&self, column: &'static str) -> Result<Option<T>, StoreError> {
        self.text_or_none(column)?.map(|text| text.parse().map_err(|_| self.corrupt(column))).transpose()
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(column)?).map_err(|_| self.corrupt(column))
    }

    pub(crate) fn bytes(&self, column: &'static str) -> Result<Vec<u8>, StoreError> {
        STANDARD.decode(self.text(column)?).map_err(|_| self.corrupt(column))
    }

    pub(crate) fn bytes_or_none(&self, column: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        self.text_or_none(column)?
            .map(|text| STANDARD.decode(text).map_err(|_| self.corrupt(column)))
            .transpose()
    }

    pub(crate) fn corrupt(&self, column: &'static str) -> StoreError {
        StoreError::Corrupt { table: self.0, column }
    }

    fn get<T>(&self, column: &'static str) -> Result<T, StoreError>
    where
        T: for<'r> Decode<'r, sqlx::Any> + Type<sqlx::Any>,
    {
        self.1.try_get_unchecked(column).map_err(|_| self.corrupt(column))
    }
}

/// Bytes as they are stored.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Lists and small enums as they are stored.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::Unstorable { what: "a list", why: "it is not JSON" })
}

/// Counters and indexes as they are stored.
pub(crate) fn signed(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number)
        .map_err(|_| StoreError::Unstorable { what: "a number", why: "it is above 2^63 - 1" })
}
