//! The values of many rows as those of the first one repeated, for SQLite: Diesel inserts rows with defaults one by one
//! there, which takes twice as long.

use diesel::backend::Backend;
use diesel::query_builder::{AstPass, QueryBuilder as _, QueryFragment};
use diesel::result::QueryResult;

use super::{Fragment, Server};

/// Rows of a statement: always as many, so that it stays prepared.
pub(crate) const ROWS: usize = 50;

/// The values of rows that say the same.
pub(crate) struct SameRows<'a, DB: Backend> {
    sql: String,
    rows: Vec<Fragment<'a, DB>>,
}

impl<'a, DB: Server> SameRows<'a, DB> {
    /// `None` where a row gives other columns than the first one, or anything but values.
    pub(crate) fn of(rows: Vec<Fragment<'a, DB>>) -> QueryResult<Option<Self>> {
        let mut texts = rows.iter().map(text_of);
        let Some(mut sql) = texts.next().transpose()? else { return Ok(None) };
        for text in texts {
            if text? != sql {
                return Ok(None);
            }
        }
        // As Diesel writes it: `(columns) VALUES (?, ?)`.
        let values = sql.rsplit_once(" VALUES ").map(|(_, values)| values.to_owned());
        let is_places = |values: &String| values.bytes().all(|byte| b"(?, )".contains(&byte));
        let Some(values) = values.filter(is_places) else { return Ok(None) };
        for _ in 1..rows.len() {
            sql.push_str(", ");
            sql.push_str(&values);
        }
        Ok(Some(Self { sql, rows }))
    }
}

fn text_of<DB: Server>(row: &Fragment<'_, DB>) -> QueryResult<String> {
    let mut text = DB::QueryBuilder::default();
    row.to_sql(&mut text, &DB::default())?;
    Ok(text.finish())
}

impl<DB: Backend> QueryFragment<DB> for SameRows<'_, DB> {
    fn to_sql(&self, out: &mut DB::QueryBuilder, _: &DB) -> QueryResult<()> {
        out.push_sql(&self.sql);
        Ok(())
    }

    /// Of all passes but the text's: the binds.
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.rows.iter().try_for_each(|row| row.walk_ast(out.reborrow()))
    }
}
