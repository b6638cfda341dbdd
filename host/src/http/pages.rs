//! Pages of lists.

use serde::Serialize;
use utoipa::ToSchema;

use crate::store::Page;

/// Largest page of a list.
pub(crate) const PAGE_MAX: u32 = 200;
/// Default page size.
pub(crate) const PAGE: u32 = 50;

/// A list without pages.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Items<T> {
    pub(crate) items: Vec<T>,
}

impl<T> Items<T> {
    /// Collects a list of views.
    pub(crate) fn of<S: Into<T>>(items: impl IntoIterator<Item = S>) -> Self {
        Self { items: items.into_iter().map(Into::into).collect() }
    }
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Listing<T> {
    pub(crate) items: Vec<T>,
    /// The `cursor` of the next page; none at the end.
    pub(crate) next: Option<i64>,
}

impl<T> Listing<T> {
    /// Converts a page of the store.
    pub(crate) fn of<S: Into<T>>(page: Page<S>) -> Self {
        Self { items: page.items.into_iter().map(Into::into).collect(), next: page.next }
    }
}
