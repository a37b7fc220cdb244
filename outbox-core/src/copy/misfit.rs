//! What a copy's table has that does not go with a copy fed by messages: unique keys besides its own and foreign keys,
//! as different keys arrive in no particular order, and a key whose collation takes two for one.

use diesel::QueryableByName;
use diesel::sql_types::Text;

use crate::statement::ServerKind;

/// One of them.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Misfit {
    /// `unique`, `foreign` or `collation`.
    #[diesel(sql_type = Text)]
    pub kind: String,
    /// The columns of a unique key, with commas.
    #[diesel(sql_type = Text)]
    pub parts: String,
    /// What it is.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// The statement that takes it away.
    #[diesel(sql_type = Text)]
    pub value: String,
}

const MYSQL: &str = "select 'unique' as kind, \
   coalesce(group_concat(column_name order by seq_in_index), '') as parts, \
   concat('copy ', table_name, ' has the unique key ', index_name) as name, \
   concat('alter table `', table_name, '` drop index `', index_name, '`') as value \
 from information_schema.statistics \
 where table_schema = database() and {of} and non_unique = 0 and index_name <> 'PRIMARY' \
 group by table_name, index_name \
 union all select 'foreign', '', concat('copy ', table_name, ' has the foreign key ', constraint_name), \
   concat('alter table `', table_name, '` drop foreign key `', constraint_name, '`') \
 from information_schema.table_constraints \
 where table_schema = database() and {of} and constraint_type = 'FOREIGN KEY' \
 union all select 'collation', '', \
   concat('copy ', table_name, ' has the key column ', column_name, ' of collation ', collation_name), \
   concat('alter table `', table_name, '` modify `', column_name, '` ', column_type, ' character set ', \
     character_set_name, ' collate ', character_set_name, '_bin not null') \
 from information_schema.columns \
 where table_schema = database() and {of} and column_key = 'PRI' and collation_name not like '%!_bin' escape '!'";

const POSTGRES: &str = "with t as (select oid, relname::text as table_name from pg_class \
   where relkind in ('r', 'p') and pg_table_is_visible(oid)) \
 select 'unique' as kind, coalesce(p.parts, '') as parts, \
   format('copy %s has the unique key %s', t.table_name, i.relname) as name, \
   case when c.oid is null then format('drop index %I', i.relname) \
     else format('alter table %I drop constraint %I', t.table_name, c.conname) end as value \
 from t join pg_index x on x.indrelid = t.oid join pg_class i on i.oid = x.indexrelid \
 left join pg_constraint c on c.conindid = x.indexrelid and c.contype = 'u' \
 left join lateral (select string_agg(a.attname, ',' order by k.n) as parts \
   from unnest(x.indkey::int2[]) with ordinality as k(attnum, n) \
   join pg_attribute a on a.attrelid = x.indrelid and a.attnum = k.attnum) p on true \
 where {of} and x.indisunique and not x.indisprimary \
 union all select 'foreign', '', format('copy %s has the foreign key %s', t.table_name, c.conname), \
   format('alter table %I drop constraint %I', t.table_name, c.conname) \
 from t join pg_constraint c on c.conrelid = t.oid where {of} and c.contype = 'f'";

const SQLITE: &str = "with t as (select name as table_name from sqlite_master where type = 'table') \
 select 'unique' as kind, \
   coalesce((select group_concat(i.name) from pragma_index_info(l.name) i), '') as parts, \
   'copy ' || t.table_name || ' has the unique key ' || l.name as name, \
   case l.origin when 'c' then 'drop index \"' || l.name || '\"' \
     else 'make the table again without it' end as value \
 from t join pragma_index_list(t.table_name) l where {of} and l.\"unique\" = 1 and l.origin <> 'pk' \
 union all select 'foreign', '', 'copy ' || t.table_name || ' has a foreign key to ' || f.\"table\", \
   'make the table again without it' \
 from t join pragma_foreign_key_list(t.table_name) f where {of}";

/// Asks for them; `of` is a condition on `table_name`.
#[doc(hidden)]
pub fn misfits(kind: ServerKind, of: &str) -> String {
    let select = match kind {
        ServerKind::Mysql => MYSQL,
        ServerKind::Postgres => POSTGRES,
        ServerKind::Sqlite => SQLITE,
    };
    select.replace("{of}", of)
}
