//! `/products`: announce stock, list and show products.

mod list;
mod show;
mod stock;

pub(super) use self::list::*;
pub(super) use self::show::*;
pub(super) use self::stock::*;
