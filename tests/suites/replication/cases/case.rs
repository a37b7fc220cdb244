//! What a case is: a table, what happens to it, and what is expected of its copy.

/// A case of the catalogue (docs/cases.md). In all its texts `{t}` is the source's table.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// As in the catalogue, and what is special.
    pub(crate) name: &'static str,
    /// `create table {t} (…)`, and whatever else has to be there before.
    pub(crate) create: Vec<String>,
    /// What puts rows there.
    pub(crate) insert: Vec<String>,
    /// What happens to them.
    pub(crate) changes: Vec<String>,
    /// The copy's table, if it is there before; `{t}` is the copy. Else the relay creates it.
    pub(crate) target: Vec<String>,
    /// The copy's columns, as configured; empty: all.
    pub(crate) columns: Vec<&'static str>,
    /// Which rows are copied.
    pub(crate) filter: Option<&'static str>,
    /// The declared key.
    pub(crate) key: Vec<&'static str>,
    /// What has to come out.
    pub(crate) expect: Expect,
}

/// What has to come out.
#[derive(Debug, Clone)]
pub(crate) enum Expect {
    /// The copy's columns are the source's, byte by byte.
    Equal,
    /// These expressions over the source's and the copy's rows are equal, byte by byte.
    Same(&'static str, &'static str),
    /// This SELECT, with `{t}` as the copy, gives these lines of words; for a NULL `NULL`.
    Gives(&'static str, Vec<&'static str>),
}

impl Case {
    /// Its copy equals the table.
    pub(crate) fn new(name: &'static str, create: impl Into<String>) -> Self {
        Self {
            name,
            create: vec![create.into()],
            insert: Vec::new(),
            changes: Vec::new(),
            target: Vec::new(),
            columns: Vec::new(),
            filter: None,
            key: Vec::new(),
            expect: Expect::Equal,
        }
    }

    pub(crate) fn insert(mut self, statement: impl Into<String>) -> Self {
        self.insert.push(statement.into());
        self
    }

    pub(crate) fn then(mut self, statement: impl Into<String>) -> Self {
        self.changes.push(statement.into());
        self
    }

    pub(crate) fn into_table(mut self, create: impl Into<String>) -> Self {
        self.target.push(create.into());
        self
    }

    /// The copy's table is made as the source's, with all its keys; one that the relay creates lacks those over parts of
    /// columns and expressions.
    pub(crate) fn with_all_keys(mut self) -> Self {
        self.target.clone_from(&self.create);
        self
    }

    pub(crate) fn columns(mut self, columns: &[&'static str]) -> Self {
        self.columns = columns.to_vec();
        self
    }

    pub(crate) fn filter(mut self, filter: &'static str) -> Self {
        self.filter = Some(filter);
        self
    }

    pub(crate) fn key(mut self, key: &[&'static str]) -> Self {
        self.key = key.to_vec();
        self
    }

    pub(crate) fn same(mut self, source: &'static str, copy: &'static str) -> Self {
        self.expect = Expect::Same(source, copy);
        self
    }

    pub(crate) fn gives(mut self, select: &'static str, lines: &[&'static str]) -> Self {
        self.expect = Expect::Gives(select, lines.to_vec());
        self
    }
}
