use super::plan::{CopyPlan, Key};
use crate::change::{Row, Table};
use outbox_core::Result;
use std::sync::Arc;
impl CopyPlan {
    pub(super) fn key_of(&self, _table: &Arc<Table>, _row: &Row) -> Result<Key> {
        todo!()
    }
    pub(super) fn copied_key(&self, _key: &Key) -> Result<Key> {
        todo!()
    }
}
impl super::target::Target {
    pub(super) fn is_mariadb(&self) -> bool {
        todo!()
    }
}
impl std::fmt::Display for super::target::Fenced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "x")
    }
}
impl std::error::Error for super::target::Fenced {}
impl super::Group {
    pub(super) fn hold(&mut self, _copy: &str, _reason: &str) {
        todo!()
    }
}
