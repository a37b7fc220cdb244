//! The little that has to be known of statements in the binary log: where transactions begin and end. Everything
//! else about them is the business of whoever looks at DDL.

/// What a statement means for the transaction it stands in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Control<'s> {
    Begin,
    Commit,
    Rollback,
    XaEnd,
    XaCommit(&'s str),
    XaRollback(&'s str),
    Savepoint(&'s [u8]),
    RollbackTo(&'s [u8]),
    Other,
}

/// The servers write these themselves and always alike.
pub(crate) fn control(sql: &[u8]) -> Control<'_> {
    match sql {
        b"BEGIN" => return Control::Begin,
        b"COMMIT" => return Control::Commit,
        b"ROLLBACK" => return Control::Rollback,
        _ => {}
    }
    if let Some(name) = after(sql, b"SAVEPOINT ") {
        return Control::Savepoint(name);
    }
    if let Some(name) = after(sql, b"ROLLBACK TO ") {
        return Control::RollbackTo(after(name, b"SAVEPOINT ").unwrap_or(name));
    }
    let Some(xa) = after(sql, b"XA ").and_then(|rest| std::str::from_utf8(rest).ok()) else {
        return Control::Other;
    };
    match xa.split_once(' ') {
        Some(("START" | "BEGIN", _)) => Control::Begin,
        Some(("END", _)) => Control::XaEnd,
        Some(("COMMIT", xid)) => Control::XaCommit(xid.trim().trim_end_matches(" ONE PHASE")),
        Some(("ROLLBACK", xid)) => Control::XaRollback(xid.trim()),
        _ => Control::Other,
    }
}

fn after<'s>(sql: &'s [u8], words: &[u8]) -> Option<&'s [u8]> {
    let (start, rest) = sql.split_at_checked(words.len())?;
    start.eq_ignore_ascii_case(words).then_some(rest.trim_ascii())
}

/// MySQL's CREATE TABLE … SELECT: its rows and commit follow.
pub(crate) fn starts_transaction(sql: &[u8]) -> bool {
    let words = b"START TRANSACTION";
    let sql = sql.trim_ascii_end();
    sql.len() > words.len() && sql[sql.len() - words.len()..].eq_ignore_ascii_case(words)
}

/// Whether a statement changes rows, which ROW format never logs as text.
pub(crate) fn changes_rows(sql: &[u8]) -> bool {
    let word = first_word(sql);
    [&b"insert"[..], b"update", b"delete", b"replace", b"load", b"with"]
        .iter()
        .any(|change| word.eq_ignore_ascii_case(change))
}

/// The first word behind comments and parentheses.
fn first_word(mut sql: &[u8]) -> &[u8] {
    loop {
        sql = sql.trim_ascii_start();
        if let Some(comment) = sql.strip_prefix(b"/*") {
            // What stands in `/*! … */` is executed.
            if let Some(executed) = comment.strip_prefix(b"!") {
                let digits = executed.iter().take_while(|byte| byte.is_ascii_digit()).count();
                sql = &executed[digits..];
                continue;
            }
            match comment.windows(2).position(|end| end == b"*/") {
                Some(end) => sql = &comment[end + 2..],
                None => return b"",
            }
        } else if sql.starts_with(b"--") || sql.starts_with(b"#") {
            match sql.iter().position(|byte| *byte == b'\n') {
                Some(end) => sql = &sql[end + 1..],
                None => return b"",
            }
        } else if let Some(inner) = sql.strip_prefix(b"(") {
            sql = inner;
        } else {
            let end = sql.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(sql.len());
            return &sql[..end];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_told_from_other_statements() {
        assert_eq!(control(b"BEGIN"), Control::Begin);
        assert_eq!(control(b"XA START X'78',X'',1"), Control::Begin);
        assert_eq!(control(b"XA COMMIT X'78',X'',1"), Control::XaCommit("X'78',X'',1"));
        assert_eq!(control(b"XA ROLLBACK X'78',X'',1"), Control::XaRollback("X'78',X'',1"));
        assert_eq!(control(b"SAVEPOINT `a b`"), Control::Savepoint(b"`a b`"));
        assert_eq!(control(b"ROLLBACK TO `a b`"), Control::RollbackTo(b"`a b`"));
        assert_eq!(control(b"ROLLBACK TO SAVEPOINT a"), Control::RollbackTo(b"a"));
        assert_eq!(control(b"create table t (a int)"), Control::Other);
        assert!(starts_transaction(b"CREATE TABLE `t` (`a` int) START TRANSACTION "));
        assert!(!starts_transaction(b"START TRANSACTION"));
    }

    #[test]
    fn changes_of_rows_are_found_behind_comments() {
        for sql in
            ["/* a */ insert into t", "-- x\n UPDATE t", "(delete from t)", "/*!50000 REPLACE */ into t"]
        {
            assert!(changes_rows(sql.as_bytes()), "{sql}");
        }
        for sql in ["create table inserted (a int)", "/* insert", "truncate t", "grant update on t", ""] {
            assert!(!changes_rows(sql.as_bytes()), "{sql}");
        }
    }
}
