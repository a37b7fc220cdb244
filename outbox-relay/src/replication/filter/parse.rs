//! Text → expression, by precedence: OR, AND, NOT, comparisons.

use outbox_core::{Error, ErrorKind, Result};

use super::{Comparison, Expression, Literal, Operand};
use crate::replication::sql::from_hex;

type Parsed = Expression<String, Literal>;

/// Deeper than anybody writes.
const DEPTH_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A word without quotes: a column or a keyword.
    Word(String),
    /// A name in backticks: a column.
    Name(String),
    Literal(Literal),
    Symbol(&'static str),
    End,
}

/// The longer ones first.
const SYMBOLS: &[&str] = &["<=>", "<=", ">=", "<>", "!=", "=", "<", ">", "(", ")", ","];

pub(super) fn parse(text: &str) -> Result<Parsed> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let parsed = parser.or()?;
    match parser.peek() {
        Token::End => Ok(parsed),
        _ => Err(parser.expected("AND, OR or the end")),
    }
}

fn wrong(at: usize, what: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("filter, at character {}: {what}", at + 1))
}

/// The tokens with the place where each begins, in characters.
fn tokens(text: &str) -> Result<Vec<(Token, usize)>> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < characters.len() {
        let (start, c) = (at, characters[at]);
        if c.is_whitespace() {
            at += 1;
            continue;
        }
        let rest = &characters[at..];
        let token = if c == '\'' || c == '`' {
            let text =
                quoted(&characters, &mut at).ok_or_else(|| wrong(start, "a quote that does not end"))?;
            if c == '`' { Token::Name(text) } else { Token::Literal(Literal::Text(text)) }
        } else if matches!(c, 'x' | 'X') && rest.get(1) == Some(&'\'') {
            at += 1;
            let digits = quoted(&characters, &mut at).and_then(|digits| from_hex(&digits));
            Token::Literal(Literal::Bytes(digits.ok_or_else(|| wrong(start, "expected x'00ff'"))?))
        } else if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') {
            number(&characters, &mut at).ok_or_else(|| wrong(start, "expected a number"))?
        } else if c.is_alphabetic() || c == '_' || c == '$' {
            let is_part = |c: &char| c.is_alphanumeric() || matches!(c, '_' | '$');
            let word: String = rest.iter().take_while(|c| is_part(c)).collect();
            at += word.chars().count();
            Token::Word(word)
        } else {
            let symbol =
                SYMBOLS.iter().find(|symbol| symbol.chars().eq(rest.iter().take(symbol.len()).copied()));
            let symbol = symbol.ok_or_else(|| wrong(start, &format!("unexpected `{c}`")))?;
            at += symbol.len();
            Token::Symbol(symbol)
        };
        tokens.push((token, start));
    }
    tokens.push((Token::End, characters.len()));
    Ok(tokens)
}

/// A text in quotes, which stand twice inside.
fn quoted(characters: &[char], at: &mut usize) -> Option<String> {
    let quote = characters[*at];
    let mut text = String::new();
    loop {
        *at += 1;
        let c = *characters.get(*at)?;
        if c == quote {
            *at += 1;
            if characters.get(*at) != Some(&quote) {
                return Some(text);
            }
        }
        text.push(c);
    }
}

fn number(characters: &[char], at: &mut usize) -> Option<Token> {
    let rest = &characters[*at..];
    let mut text = String::new();
    for (i, c) in rest.iter().enumerate() {
        let is_sign = matches!(c, '-' | '+') && (i == 0 || matches!(rest[i - 1], 'e' | 'E'));
        if !(is_sign || c.is_ascii_digit() || *c == '.' || (i > 0 && matches!(c, 'e' | 'E'))) {
            break;
        }
        text.push(*c);
    }
    *at += text.len();
    text.parse::<f64>().ok().filter(|number| number.is_finite())?;
    Some(Token::Literal(Literal::Number(text.trim_start_matches('+').to_owned())))
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    fn expected(&self, what: &str) -> Error {
        wrong(self.tokens[self.at].1, &format!("expected {what}"))
    }

    /// The token; the end stays where it is.
    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        let is_there = matches!(self.peek(), Token::Word(word) if word.eq_ignore_ascii_case(keyword));
        if is_there {
            self.next();
        }
        is_there
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let is_there = matches!(self.peek(), Token::Symbol(here) if *here == symbol);
        if is_there {
            self.next();
        }
        is_there
    }

    fn require(&mut self, symbol: &str) -> Result<()> {
        if self.symbol(symbol) { Ok(()) } else { Err(self.expected(&format!("`{symbol}`"))) }
    }

    fn or(&mut self) -> Result<Parsed> {
        let mut left = self.and()?;
        while self.keyword("or") {
            left = Expression::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Parsed> {
        let mut left = self.not()?;
        while self.keyword("and") {
            left = Expression::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Parsed> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.expected("fewer parentheses"));
        }
        let parsed = if self.keyword("not") {
            Expression::Not(Box::new(self.not()?))
        } else if self.symbol("(") {
            let inner = self.or()?;
            self.require(")")?;
            inner
        } else {
            self.condition()?
        };
        self.depth -= 1;
        Ok(parsed)
    }

    fn condition(&mut self) -> Result<Parsed> {
        for (word, value) in [("true", Some(true)), ("false", Some(false))] {
            if self.keyword(word) {
                // `true = active` is written the other way round.
                return Ok(Expression::Constant(value));
            }
        }
        let left = self.operand()?;
        if self.keyword("is") {
            let negated = self.keyword("not");
            if !self.keyword("null") {
                return Err(self.expected("NULL"));
            }
            return Ok(negate(Expression::IsNull(left), negated));
        }
        let negated = self.keyword("not");
        if self.keyword("in") {
            self.require("(")?;
            let mut list = vec![self.operand()?];
            while self.symbol(",") {
                list.push(self.operand()?);
            }
            self.require(")")?;
            return Ok(negate(Expression::In(left, list), negated));
        }
        if self.keyword("between") {
            let low = self.operand()?;
            if !self.keyword("and") {
                return Err(self.expected("AND"));
            }
            return Ok(negate(Expression::Between(left, low, self.operand()?), negated));
        }
        if self.keyword("like") {
            let Token::Literal(Literal::Text(pattern)) = self.peek().clone() else {
                return Err(self.expected("a pattern in quotes"));
            };
            self.next();
            return Ok(negate(Expression::Like(left, pattern), negated));
        }
        if negated {
            return Err(self.expected("IN, BETWEEN or LIKE"));
        }
        let comparison = match self.peek() {
            Token::Symbol("=") => Comparison::Equal,
            Token::Symbol("<>" | "!=") => Comparison::NotEqual,
            Token::Symbol("<") => Comparison::Less,
            Token::Symbol("<=") => Comparison::LessOrEqual,
            Token::Symbol(">") => Comparison::Greater,
            Token::Symbol(">=") => Comparison::GreaterOrEqual,
            Token::Symbol("<=>") => Comparison::Same,
            _ => return Err(self.expected("a comparison, IN, BETWEEN, LIKE or IS")),
        };
        self.next();
        Ok(Expression::Compare(comparison, left, self.operand()?))
    }

    fn operand(&mut self) -> Result<Operand<String, Literal>> {
        const KEYWORDS: &[&str] = &["and", "or", "not", "in", "between", "like", "is"];
        let operand = match self.peek().clone() {
            Token::Word(word) if word.eq_ignore_ascii_case("null") => Operand::Literal(Literal::Null),
            Token::Word(word) if word.eq_ignore_ascii_case("true") => {
                Operand::Literal(Literal::Number("1".into()))
            }
            Token::Word(word) if word.eq_ignore_ascii_case("false") => {
                Operand::Literal(Literal::Number("0".into()))
            }
            Token::Word(word) if !KEYWORDS.iter().any(|keyword| word.eq_ignore_ascii_case(keyword)) => {
                Operand::Column(word)
            }
            Token::Name(name) => Operand::Column(name),
            Token::Literal(literal) => Operand::Literal(literal),
            _ => return Err(self.expected("a column or a value")),
        };
        self.next();
        Ok(operand)
    }
}

fn negate(expression: Parsed, negated: bool) -> Parsed {
    if negated { Expression::Not(Box::new(expression)) } else { expression }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn errors_name_the_place() {
        for (text, at, what) in [
            ("", "character 1", "a column"),
            ("a =", "character 4", "a column or a value"),
            ("a = 1 b", "character 7", "AND, OR"),
            ("a = 'x", "character 5", "does not end"),
            ("(a = 1", "character 7", "`)`"),
            ("a not 1", "character 7", "IN, BETWEEN"),
            ("a like b", "character 8", "pattern"),
            ("a ; b", "character 3", "`;`"),
            ("a is 1", "character 6", "NULL"),
            ("a = 1..2", "character 5", "number"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(at) && error.contains(what), "{text}: {error}");
        }
        assert!(parse(&"(".repeat(5000)).unwrap_err().to_string().contains("fewer"));
        assert!(parse(&"not ".repeat(5000)).unwrap_err().to_string().contains("fewer"));
    }

    #[test]
    fn and_binds_before_or_and_between_takes_its_own_and() {
        let parsed = parse("a = 1 or b between 2 and 3 and not c is null").unwrap();
        let Expression::Or(_, right) = parsed else { panic!("{parsed:?}") };
        let Expression::And(left, right) = *right else { panic!() };
        assert!(matches!(*left, Expression::Between(..)));
        assert!(matches!(*right, Expression::Not(_)));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z0-9 ()'=<>!,`x.-]{0,60}") {
            let _ = parse(&text);
        }
    }
}
