//! A transaction of the source that memory does not hold, within one of the target.

use super::compact::{Group, Routes, Rows};
use super::write::{Trouble, Writer};
use crate::change::Txn;

/// A transaction that memory does not hold: piece by piece, in order. After each piece the target is as the source
/// was within its transaction, so that no unique key collides; nobody sees it before the end.
pub(super) async fn large(
    writer: &mut Writer<'_>,
    group: &Group,
    txn: &Txn,
    held: &mut [Option<String>],
    touched: &mut [bool],
) -> Result<(), Trouble> {
    let mut routes = Routes::default();
    let mut rows = Rows::new(group.plans.len());
    let mut projections = Vec::new();
    let mut changes = txn.changes.iter().map_err(Trouble::Stop)?;
    loop {
        let change = changes.next();
        let is_end = change.is_none();
        if let Some(change) = change {
            let refused =
                routes.project(&group.plans, held, change, &mut projections).map_err(Trouble::Stop)?;
            // Pieces of it are written already: all begins again without the copy.
            if let Some((at, reason)) = refused.into_iter().next() {
                return Err(Trouble::Copy(at, reason));
            }
            for (at, before, after) in projections.drain(..) {
                touched[at] = true;
                rows.fold(&group.plans[at], at, before, after, group.keeps_all);
            }
        }
        if is_end || rows.weight_bytes() > group.bytes_max {
            writer.write(&rows.of).await?;
            rows = Rows::new(group.plans.len());
        }
        if is_end {
            return Ok(());
        }
    }
}
