//! Lists, a page at a time.
//! Never: a list without a limit.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::problem::{Code, Problem};

/// Items of a page when the caller doesn't say.
const LIMIT_DEFAULT: u16 = 50;
/// More would make a page slow to send and to read.
const LIMIT_MAX: u16 = 200;

/// One page of a list. `next` goes into `?after=` to get the page that follows; null: this is the last one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    pub(crate) next: Option<String>,
}

impl<T> Page<T> {
    /// A list that is always sent whole.
    pub(crate) fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    /// `next` of the page before.
    pub after: Option<String>,
    /// At most this many items, 1 to 200.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
}

impl PageQuery {
    pub(crate) fn limit(&self) -> Result<i64, Problem> {
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if (1..=LIMIT_MAX).contains(&limit) {
            return Ok(i64::from(limit));
        }
        Err(Problem::new(Code::InvalidQuery, format!("Send as `limit` a number from 1 to {LIMIT_MAX}.")))
    }
}
