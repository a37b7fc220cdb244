//! Errors of MySQL and MariaDB by their numbers, where the driver tells them.

/// Whether an error of MySQL or MariaDB is one that passes: a deadlock, a lock, too many connections, a server that goes down.
pub(crate) fn passes(code: u16) -> bool {
    // Deadlock, lock wait, too many locks; too many connections, shutdown, killed; disk and table full; read-only;
    // interrupted.
    matches!(
        code,
        1213 | 1205
            | 1206
            | 3572
            | 1040
            | 1053
            | 1129
            | 1203
            | 1226
            | 1927
            | 3169
            | 4031
            | 1021
            | 1030
            | 1037
            | 1041
            | 1114
            | 1290
            | 1792
            | 1836
            | 1317
            | 1969
            | 3024
            | 1158..=1161 | 1180 | 1192 | 1223
    )
}
