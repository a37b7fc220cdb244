//! What `check` asks a server, each question in one statement that answers with names and values.

use super::{Kind, Probe};

/// A question of `check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// The time, in microseconds since 1970.
    Clock,
    /// `user`, and rights beyond the outbox: `global`, `schema`, `own` (the whole of its database), `power`.
    Rights,
    /// The versions applied, as names: of an outbox.
    Migrations,
    /// The same of a subscriber.
    InboxMigrations,
    /// Indexes of `outbox`, with their columns.
    Indexes,
    /// What keeps the table quick; differs by database.
    Upkeep,
    /// Transactions open for five minutes or more, with their seconds.
    Transactions,
}

/// Rights that the relay itself does without.
pub(super) const PROBES_OF_PEOPLE: &[Probe] = &[
    Probe { table: "outbox_audit", right: "SELECT", text: "select id from outbox_audit limit 0" },
    Probe { table: "outbox_audit", right: "DELETE", text: "delete from outbox_audit where id = -1" },
    Probe {
        table: "outbox_audit",
        right: "INSERT",
        text: "insert into outbox_audit (actor, action, aggregate_type, aggregate_id, detail) \
               select '', '', '', '', '' from (select 1 as n) one where n = 0",
    },
    Probe { table: "outbox_pause", right: "SELECT", text: "select id from outbox_pause limit 0" },
    Probe {
        table: "outbox_pause",
        right: "INSERT",
        text: "insert into outbox_pause (actor, reason) select '', '' from (select 1 as n) one where n = 0",
    },
    Probe { table: "outbox_pause", right: "DELETE", text: "delete from outbox_pause where id = 0" },
    Probe { table: "outbox_resync", right: "SELECT", text: "select id from outbox_resync limit 0" },
    Probe {
        table: "outbox_resync",
        right: "INSERT",
        text: "insert into outbox_resync (aggregate_type, requested_by) \
               select '', '' from (select 1 as n) one where n = 0",
    },
    Probe {
        table: "outbox_resync_service",
        right: "SELECT",
        text: "select aggregate_type from outbox_resync_service limit 0",
    },
    Probe {
        table: "__diesel_schema_migrations",
        right: "SELECT",
        text: "select version from __diesel_schema_migrations limit 0",
    },
];

/// What people need who look into a subscriber's database and act there.
pub(super) const PROBES_OF_SUBSCRIBERS: &[Probe] = &[
    Probe { table: "inbox", right: "SELECT", text: "select consumer from inbox limit 0" },
    Probe { table: "inbox_held", right: "SELECT", text: "select consumer from inbox_held limit 0" },
    Probe {
        table: "inbox_held",
        right: "UPDATE",
        text: "update inbox_held set state = 'replay' where consumer = ''",
    },
    Probe {
        table: "inbox_audit",
        right: "INSERT",
        text: "insert into inbox_audit (actor, action, consumer, detail) \
               select '', '', '', '' from (select 1 as n) one where n = 0",
    },
    Probe { table: "inbox_progress", right: "SELECT", text: "select consumer from inbox_progress limit 0" },
    Probe { table: "inbox_pause", right: "SELECT", text: "select consumer from inbox_pause limit 0" },
    Probe { table: "copy_begun", right: "SELECT", text: "select copy from copy_begun limit 0" },
    Probe {
        table: "__diesel_schema_migrations",
        right: "SELECT",
        text: "select version from __diesel_schema_migrations limit 0",
    },
];

/// The statement; `None` where there is nothing to ask.
pub(super) fn text(kind: Kind, question: Question) -> Option<&'static str> {
    use Question::{Clock, InboxMigrations, Indexes, Migrations, Rights, Transactions, Upkeep};
    Some(match (kind, question) {
        (Kind::Mysql, Migrations) => {
            "select cast(version as char) as name, '' as value from __diesel_schema_migrations
             where version like '0000outbox%'"
        }
        (Kind::Mysql, InboxMigrations) => {
            "select cast(version as char) as name, '' as value from __diesel_schema_migrations
             where version like '0000inbox%'"
        }
        (_, InboxMigrations) => {
            "select cast(version as text) as name, '' as value from __diesel_schema_migrations
             where version like '0000inbox%'"
        }
        (_, Migrations) => {
            "select cast(version as text) as name, '' as value from __diesel_schema_migrations
             where version like '0000outbox%'"
        }
        (Kind::Mysql, Clock) => {
            "select 'now' as name,
               cast(timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) as char) as value"
        }
        (Kind::Postgres, Clock) => {
            "select 'now' as name, (extract(epoch from clock_timestamp()) * 1000000)::bigint::text as value"
        }
        // A schema in a grant is a pattern: its underscores stand behind backslashes.
        (Kind::Mysql, Rights) => {
            r"select 'user' as name, cast(current_user() as char) as value
             union all
             select 'global', cast(privilege_type as char) from information_schema.user_privileges
             where replace(grantee, '''', '') = current_user() and privilege_type <> 'USAGE'
             union all
             select distinct 'schema', cast(table_schema as char) from information_schema.schema_privileges
             where replace(grantee, '''', '') = current_user()
               and replace(table_schema, '\\', '') <> database()
             union all
             select distinct 'own', cast(table_schema as char) from information_schema.schema_privileges
             where replace(grantee, '''', '') = current_user()
               and replace(table_schema, '\\', '') = database()"
        }
        (Kind::Postgres, Rights) => {
            "select 'user' as name, current_user::text as value
             union all
             select 'power', p.name
             from pg_roles r, lateral (values ('SUPERUSER', r.rolsuper), ('CREATEROLE', r.rolcreaterole),
               ('CREATEDB', r.rolcreatedb), ('REPLICATION', r.rolreplication),
               ('BYPASSRLS', r.rolbypassrls)) p (name, has)
             where r.rolname = current_user and p.has"
        }
        (Kind::Mysql, Indexes) => {
            "select cast(index_name as char) as name,
               cast(group_concat(column_name order by seq_in_index) as char) as value
             from information_schema.statistics
             where table_schema = database() and table_name = 'outbox' group by index_name"
        }
        (Kind::Postgres, Indexes) => {
            "select c.relname::text as name,
               case when i.indisvalid then '' else 'invalid ' end
               || case when i.indpred is null then '' else 'partial ' end
               || (select string_agg(coalesce(a.attname::text, 'an expression'), ',' order by k.place)
                   from unnest(i.indkey::int2[]) with ordinality k (number, place)
                   left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number) as value
             from pg_index i join pg_class c on c.oid = i.indexrelid
             where i.indrelid = to_regclass('outbox')"
        }
        (Kind::Sqlite, Indexes) => {
            "select l.name as name, (select group_concat(i.name) from pragma_index_info(l.name) i) as value
             from pragma_index_list('outbox') l"
        }
        // As texts MariaDB's settings are ON and OFF, MySQL's are numbers.
        (Kind::Mysql, Upkeep) => {
            "select cast(concat('engine ', table_name) as char) as name, cast(engine as char) as value
             from information_schema.tables
             where table_schema = database() and engine <> 'InnoDB' and table_name in
               ('outbox', 'outbox_lease', 'outbox_relay', 'outbox_key', 'outbox_meta', 'outbox_slot',
                'outbox_audit', 'outbox_pause', 'outbox_resync', 'outbox_resync_service')
             union all
             select 'options', cast(coalesce(create_options, '') as char) from information_schema.tables
             where table_schema = database() and table_name = 'outbox'
             union all
             select 'stats_persistent', cast(@@global.innodb_stats_persistent + 0 as char)
             union all
             select 'stats_auto_recalc', cast(@@global.innodb_stats_auto_recalc + 0 as char)"
        }
        (Kind::Postgres, Upkeep) => {
            "select o.option_name as name, o.option_value as value
             from pg_class c, pg_options_to_table(c.reloptions) o where c.oid = to_regclass('outbox')
             union all
             select 'planned', reltuples::bigint::text from pg_class where oid = to_regclass('outbox')
             union all
             select 'live', n_live_tup::text from pg_stat_user_tables where relid = to_regclass('outbox')
             union all
             select 'dead', n_dead_tup::text from pg_stat_user_tables where relid = to_regclass('outbox')"
        }
        (Kind::Sqlite, Upkeep) => {
            "select 'autoincrement' as name, cast(count(*) as text) as value from sqlite_master
             where name = 'outbox' and sql like '%autoincrement%'"
        }
        // `trx_started` is in the server's own time zone, whatever the session's is.
        (Kind::Mysql, Transactions) => {
            "select cast(trx_mysql_thread_id as char) as name,
               cast(timestampdiff(second, convert_tz(trx_started, 'SYSTEM', '+00:00'), utc_timestamp()) as char)
                 as value
             from information_schema.innodb_trx
             where convert_tz(trx_started, 'SYSTEM', '+00:00') < utc_timestamp() - interval 300 second
             order by trx_started limit 5"
        }
        (Kind::Postgres, Transactions) => {
            "select pid::text as name,
               extract(epoch from clock_timestamp() - xact_start)::bigint::text as value
             from pg_stat_activity
             where xact_start < clock_timestamp() - interval '5 minutes' and pid <> pg_backend_pid()
               and datname = current_database() and (backend_xid is not null or backend_xmin is not null)"
        }
        (Kind::Sqlite, Clock | Rights | Transactions) => return None,
    })
}
