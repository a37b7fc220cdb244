//! What a statement of the log does to tables, as far as no row event tells of it: rows that go at once, tables that
//! get another name. What becomes of columns is not read from the text: the table is described again for that.

/// What happens to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// All rows are gone.
    Truncated,
    /// The table is gone.
    Dropped,
    /// The table has another name, or another table has its name.
    Renamed,
    /// Rows of partitions came or went.
    Partitioned,
    /// Another table took its place.
    Replaced,
    /// Columns of these names are gone, or have other names. What has a name now need not be what had it before, though
    /// the table's description may look as if nothing had happened.
    Lost(Vec<String>),
}

impl Effect {
    /// What has happened, as the end of "the table was"; of columns all of it.
    pub(super) fn told(&self) -> String {
        let told = match self {
            Self::Truncated => "truncated",
            Self::Dropped => "dropped",
            Self::Renamed => "renamed",
            Self::Partitioned => "changed by partitions, which no row event tells of",
            Self::Replaced => "replaced",
            Self::Lost(names) => {
                let names: Vec<_> = names.iter().map(|name| format!("column `{name}` is gone")).collect();
                return format!("{} by this name", names.join(", "));
            }
        };
        told.to_owned()
    }
}

/// The tables that a statement does such a thing to, as database and name; without a name it is all of a database.
pub(super) fn effects(default: &str, sql: &str) -> Vec<(Effect, String, Option<String>)> {
    let words = words(sql);
    let mut rest = Words { words: &words, default };
    let is_temporary = words.iter().take(4).any(|word| word.is("temporary"));
    match rest.next_lower().as_deref() {
        Some("truncate") => {
            rest.skip(&["table"]);
            rest.tables(&Effect::Truncated)
        }
        Some("drop") if !is_temporary => match rest.next_lower().as_deref() {
            Some("table" | "tables") => {
                rest.skip(&["if", "exists"]);
                rest.tables(&Effect::Dropped)
            }
            Some("database" | "schema") => {
                rest.skip(&["if", "exists"]);
                let name = rest.words.first().map(|word| word.text.clone());
                name.map(|name| (Effect::Dropped, name, None)).into_iter().collect()
            }
            _ => Vec::new(),
        },
        Some("rename") => {
            rest.skip(&["table", "tables", "if", "exists"]);
            let mut found = Vec::new();
            while let Some((database, table)) = rest.table() {
                found.push((Effect::Renamed, database, Some(table)));
                rest.skip(&["to", "as", ",", "wait", "nowait"]);
            }
            found
        }
        Some("create") if !is_temporary && words.get(1).is_some_and(|word| word.is("or")) => {
            rest.skip(&["or", "replace"]);
            if rest.next_lower().as_deref() == Some("table") {
                rest.tables(&Effect::Replaced)
            } else {
                Vec::new()
            }
        }
        Some("alter") => {
            rest.skip(&["online", "ignore"]);
            if rest.next_lower().as_deref() != Some("table") {
                return Vec::new();
            }
            rest.skip(&["if", "exists"]);
            let Some((database, table)) = rest.table() else { return Vec::new() };
            // MariaDB's patience for the table's lock.
            match rest.words {
                [word, later @ ..] if word.is("nowait") => rest.words = later,
                [word, _, later @ ..] if word.is("wait") => rest.words = later,
                _ => {}
            }
            let effects = altered(rest.words).into_iter().chain(lost(rest.words));
            let mut found: Vec<_> =
                effects.map(|effect| (effect, database.clone(), Some(table.clone()))).collect();
            if found.iter().any(|(effect, ..)| *effect == Effect::Partitioned) {
                let partners = rest.partners();
                found.extend(partners.map(|(database, table)| (Effect::Partitioned, database, Some(table))));
            }
            found
        }
        _ => Vec::new(),
    }
}

fn altered(words: &[Word]) -> Option<Effect> {
    words.windows(2).find_map(|pair| {
        let [word, next] = pair else { return None };
        let is_rename = word.is("rename") && !["column", "index", "key"].iter().any(|kind| next.is(kind));
        let is_partition = next.is("partition")
            && ["truncate", "drop", "exchange", "discard", "import", "convert"]
                .iter()
                .any(|kind| word.is(kind));
        // MariaDB's CONVERT TABLE ... TO PARTITION; CONVERT TO CHARACTER SET is another thing.
        let is_partition = is_partition || word.is("convert") && next.is("table");
        let is_tablespace = next.is("tablespace") && ["discard", "import"].iter().any(|kind| word.is(kind));
        match () {
            () if is_rename => Some(Effect::Renamed),
            () if is_partition => Some(Effect::Partitioned),
            () if is_tablespace => Some(Effect::Replaced),
            () => None,
        }
    })
}

/// The columns that lose their name: by DROP, CHANGE or RENAME COLUMN, each at the beginning of a part of the statement.
fn lost(words: &[Word]) -> Option<Effect> {
    let mut names = Vec::new();
    let mut is_start = true;
    let mut depth = 0;
    for (at, word) in words.iter().enumerate() {
        let starts = std::mem::replace(&mut is_start, depth == 0 && word.is(","));
        depth += i32::from(word.is("(")) - i32::from(word.is(")"));
        if !starts {
            continue;
        }
        let mut rest = &words[at + 1..];
        let mut skip = |kind: &str| {
            let is_it = rest.first().is_some_and(|word| word.is(kind));
            rest = &rest[usize::from(is_it)..];
            is_it
        };
        let is_column = skip("column");
        let _ = skip("if") && skip("exists");
        let Some((old, rest)) = rest.split_first() else { continue };
        let new = rest.iter().find(|word| !word.is("to"));
        let is_lost = if word.is("drop") {
            let is_other = |(kind, next): &(&str, &str)| {
                old.is(kind) && (next.is_empty() || rest.first().is_some_and(|word| word.is(next)))
            };
            is_column || !DROPPED.iter().any(is_other)
        } else {
            let is_renamed = word.is("change") || word.is("rename") && is_column;
            is_renamed && new.is_some_and(|new| new.text.to_lowercase() != old.text.to_lowercase())
        };
        if is_lost {
            names.push(old.text.clone());
        }
    }
    (!names.is_empty()).then_some(Effect::Lost(names))
}

/// What a table can lose besides a column, which need not be called one; and the word behind it, where a column may have
/// the name.
const DROPPED: [(&str, &str); 9] = [
    ("index", ""),
    ("key", ""),
    ("primary", ""),
    ("foreign", ""),
    ("constraint", ""),
    ("check", ""),
    ("partition", ""),
    ("system", "versioning"),
    ("period", "for"),
];

/// A word of a statement, or a sign.
#[derive(Debug, PartialEq, Eq)]
struct Word {
    text: String,
    is_quoted: bool,
}

impl Word {
    fn is(&self, word: &str) -> bool {
        !self.is_quoted && self.text.eq_ignore_ascii_case(word)
    }
}

struct Words<'w> {
    words: &'w [Word],
    default: &'w str,
}

impl Words<'_> {
    fn next_lower(&mut self) -> Option<String> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        (!first.is_quoted).then(|| first.text.to_ascii_lowercase())
    }

    fn skip(&mut self, words: &[&str]) {
        while let Some((first, rest)) = self.words.split_first()
            && words.iter().any(|word| first.is(word))
        {
            self.words = rest;
        }
    }

    /// `name` or `database.name`.
    fn table(&mut self) -> Option<(String, String)> {
        let (first, rest) = self.words.split_first()?;
        if let [point, name, after @ ..] = rest
            && point.is(".")
        {
            self.words = after;
            return Some((first.text.clone(), name.text.clone()));
        }
        self.words = rest;
        Some((self.default.to_owned(), first.text.clone()))
    }

    /// The tables whose rows become those of a partition, or the other way round: WITH TABLE, CONVERT TABLE, TO TABLE.
    fn partners(&self) -> impl Iterator<Item = (String, String)> {
        let starts = self.words.windows(2).enumerate().filter(|(_, pair)| {
            ["with", "convert", "to"].iter().any(|before| pair[0].is(before)) && pair[1].is("table")
        });
        starts.filter_map(|(at, _)| Words { words: &self.words[at + 2..], default: self.default }.table())
    }

    /// All of a list of tables.
    fn tables(&mut self, effect: &Effect) -> Vec<(Effect, String, Option<String>)> {
        let mut found = Vec::new();
        while let Some((database, table)) = self.table() {
            found.push((effect.clone(), database, Some(table)));
            if !self.words.first().is_some_and(|word| word.is(",")) {
                break;
            }
            self.skip(&[","]);
        }
        found
    }
}

/// A statement in words; comments and texts in quotes are left out, but for the comments that servers execute.
fn words(sql: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        if let Some(comment) = rest.strip_prefix("/*") {
            let executed = comment.strip_prefix("M!").or_else(|| comment.strip_prefix('!'));
            rest = match executed {
                Some(executed) => executed.trim_start_matches(|c: char| c.is_ascii_digit()),
                None => comment.split_once("*/").map_or("", |(_, after)| after),
            };
        } else if let Some(after) = rest.strip_prefix("*/") {
            rest = after;
        } else if is_comment(rest) {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
        } else if let '`' | '\'' | '"' = first {
            let (text, after) = unquoted(&rest[1..], first);
            if first != '\'' {
                words.push(Word { text, is_quoted: true });
            }
            rest = after;
        } else if first.is_alphanumeric() || first == '_' || first == '$' {
            let end =
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
            words.push(Word { text: rest[..end].to_owned(), is_quoted: false });
            rest = &rest[end..];
        } else {
            if !first.is_whitespace() {
                words.push(Word { text: first.to_string(), is_quoted: false });
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    words
}

/// Whether the line ends here: two hyphens are minus signs unless a space or a control character follows.
fn is_comment(rest: &str) -> bool {
    let after = |text: &str| text.chars().next().is_none_or(|c| c.is_whitespace() || c.is_control());
    rest.starts_with('#') || rest.strip_prefix("--").is_some_and(after)
}

/// What stands before the closing quote, and what comes behind it. A doubled quote is one.
fn unquoted(text: &str, quote: char) -> (String, &str) {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' if quote != '`' => drop(characters.next()),
            c if c == quote => {
                let after = &text[at + 1..];
                if !after.starts_with(quote) {
                    return (name, after);
                }
                name.push(quote);
                characters.next();
            }
            c => name.push(c),
        }
    }
    (name, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Vec<String> {
        let found = effects("shop", sql).into_iter();
        found.map(|(effect, db, table)| format!("{effect:?} {db}.{}", table.unwrap_or("*".into()))).collect()
    }

    #[test]
    fn what_no_row_event_tells_is_found() {
        assert_eq!(of("truncate table `product`"), ["Truncated shop.product"]);
        assert_eq!(of("/* x */ TRUNCATE other.product"), ["Truncated other.product"]);
        assert_eq!(
            of("DROP TABLE IF EXISTS `a``b`, other . `product` /* generated by server */"),
            ["Dropped shop.a`b", "Dropped other.product"]
        );
        assert_eq!(of("drop database `shop`"), ["Dropped shop.*"]);
        assert_eq!(
            of("RENAME TABLE product TO _product_del, `_product_gho` TO `product`"),
            [
                "Renamed shop.product",
                "Renamed shop._product_del",
                "Renamed shop._product_gho",
                "Renamed shop.product"
            ]
        );
        assert_eq!(of("alter /*!50100 */ table product truncate partition p0"), ["Partitioned shop.product"]);
        for (sql, other) in [
            ("alter table x.other EXCHANGE PARTITION p1 WITH TABLE `product` without validation", "x.other"),
            ("alter table x.other convert table product to partition p values less than (5)", "x.other"),
            ("alter table x.other convert partition p to table shop.product", "x.other"),
            ("alter table other exchange partition `with` with table product", "shop.other"),
        ] {
            assert_eq!(of(sql), [format!("Partitioned {other}"), "Partitioned shop.product".into()], "{sql}");
        }
        assert_eq!(of("ALTER TABLE x.product RENAME AS y.product"), ["Renamed x.product"]);
        assert_eq!(of("create or replace table product (a int)"), ["Replaced shop.product"]);
        for (sql, names) in [
            ("alter table product rename column a to b, rename column `b` to a", r#"["a", "b"]"#),
            ("alter table product change a B int, change b c int", r#"["a", "b"]"#),
            ("alter table product drop a, add a int", r#"["a"]"#),
            ("alter table product nowait drop a, add a int", r#"["a"]"#),
            ("alter table product wait 5 drop a, add a int", r#"["a"]"#),
            ("alter table product --\n drop period, drop system", r#"["period", "system"]"#),
            ("alter table product add (x decimal(3, 1)), drop column if exists `index`", r#"["index"]"#),
        ] {
            assert_eq!(of(sql), [format!("Lost({names}) shop.product")], "{sql}");
        }
        assert_eq!(
            of("alter table product drop a, rename to other"),
            ["Renamed shop.product", r#"Lost(["a"]) shop.product"#]
        );
    }

    #[test]
    fn other_statements_do_nothing_of_the_kind() {
        for sql in [
            "alter table product add column rename_to int, add index (name), rename index x to y",
            "alter table product drop system versioning, drop period for system_time",
            "alter table product drop index x, drop primary key, drop foreign key y, add primary key (a)",
            "alter table product alter a drop default, add z int default (1)",
            "alter table product comment 'drop partition p0'",
            "alter table product change a A bigint",
            "alter table product convert to character set utf8mb4",
            "drop temporary table product",
            "create procedure p() begin truncate table product; end",
            "create table product (a int)",
            "drop view product",
            "drop index product on x",
            "",
            "`",
        ] {
            assert_eq!(of(sql), Vec::<String>::new(), "{sql}");
        }
    }
}
