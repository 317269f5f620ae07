//! Lists, a page at a time.
//! Never: a list without a limit.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

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
pub(crate) struct PageQuery {
    /// `next` of the page before.
    pub after: Option<String>,
    /// At most this many items, 1 to 200.
    pub limit: Option<u16>,
}

impl PageQuery {
    pub(crate) fn limit(&self) -> i64 {
        i64::from(self.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX))
    }
}
