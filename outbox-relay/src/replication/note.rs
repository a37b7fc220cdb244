//! The statements that write the tables of state.

use super::sql;
use super::state::{Checkpoint, CopyPhase, CopyState};
use super::statement::of_copy;

/// The UPDATE that finds its row only as long as the replication is ours, of this epoch and after so many checkpoints.
pub(super) fn checkpoint(replication: &str, epoch: i64, seq: i64, checkpoint: &Checkpoint) -> String {
    let mut sql = String::from(
        "update outbox_replication set seq = seq + 1, applied_at = utc_timestamp(6), position = ",
    );
    sql::text(&mut sql, &checkpoint.position.to_string());
    sql.push_str(", before_last = ");
    match &checkpoint.before {
        Some(before) => sql::text(&mut sql, &before.to_string()),
        None => sql.push_str("null"),
    }
    sql.push_str(", source_id = ");
    sql::text(&mut sql, &checkpoint.source_id);
    for (column, micros) in [("committed_at", checkpoint.committed_at_us), ("as_of", checkpoint.as_of_us)] {
        sql.push_str(&match micros {
            0 => format!(", {column} = null"),
            _ => format!(", {column} = '{}'", sql::date_time(micros)),
        });
    }
    let unproven = if checkpoint.is_unproven { ", unproven_at = utc_timestamp(6)" } else { "" };
    sql.push_str(&format!(
        ", checksum = {}, lag_ms = {}{unproven} where name = ",
        checkpoint.checksum, checkpoint.lag_ms
    ));
    sql::text(&mut sql, replication);
    sql.push_str(&format!(" and epoch = {epoch} and seq = {seq}"));
    sql
}

/// Adds a copy, or writes what has changed of one that is known, unless it is to be made anew by now.
pub(super) fn copy(replication: &str, known: Option<&CopyState>, copy: &CopyState) -> String {
    let columns = [
        ("source_table", Some(copy.source_table.clone())),
        ("target_table", Some(copy.target_table.clone())),
        ("state", Some(copy.phase.as_str().to_owned())),
        ("reason", copy.reason.clone()),
        ("definition", copy.definition.clone()),
        ("after_key", copy.after_key.as_ref().map(|key| sql::to_json(&key.0))),
    ];
    let numbers = [
        ("rows_copied", copy.rows_copied),
        ("rows_estimated", copy.rows_estimated),
        ("drifted", copy.drifted),
    ];
    let mut set = Vec::new();
    for (column, text) in columns {
        let mut sql = format!("{column} = ");
        match text {
            Some(text) => sql::text(&mut sql, &text),
            None => sql.push_str("null"),
        }
        set.push(sql);
    }
    set.extend(numbers.iter().map(|(column, number)| format!("{column} = {number}")));
    if copy.phase == CopyPhase::Copying && copy.rows_copied == 0 {
        set.push("started_at = utc_timestamp(6)".into());
    }
    let set = set.join(", ");
    let Some(known) = known else {
        let mut sql = String::from("insert into outbox_copy set replication = ");
        sql::text(&mut sql, replication);
        sql.push_str(", copy = ");
        sql::text(&mut sql, &copy.copy);
        return format!("{sql}, {set} on duplicate key update {set}");
    };
    let mut sql = format!("update outbox_copy set {set} where {}", of_copy(replication, &copy.copy));
    // Who asks for a new copy takes its definition away.
    if known.definition.is_some() {
        sql.push_str(" and definition is not null");
    }
    sql.push_str(" and state = ");
    sql::text(&mut sql, known.phase.as_str());
    sql
}

/// Notes that a copy is held.
pub(super) fn hold(replication: &str, copy: &str, reason: &str) -> String {
    let mut sql = String::from("update outbox_copy set state = 'held', reason = ");
    sql::text(&mut sql, reason);
    format!("{sql} where {}", of_copy(replication, copy))
}
