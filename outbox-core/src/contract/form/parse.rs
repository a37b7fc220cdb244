//! The text of a Rust type → its form. A text that is not understood is a name of its own; nothing panics.

use super::{Form, Integer};

/// Types within types that are looked into: more is a name of its own, so that no text exhausts the stack.
const DEPTH_MAX: usize = 24;

/// Lower-case types, before which a lifetime without its space ends: `&'astr`.
const PRIMITIVES: [&str; 17] = [
    "str", "char", "bool", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "u8", "u16", "u32",
    "u64", "u128", "usize",
];

/// The form of a type as `quote!` writes it, with or without spaces.
pub(super) fn form(text: &str) -> Form {
    let text = text.trim();
    let mut parser = Parser { rest: text, depth: 0 };
    match parser.ty() {
        Some(form) if parser.rest.is_empty() => form,
        _ => Form::Named(text.to_owned(), Vec::new()),
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn ty(&mut self) -> Option<Form> {
        if self.depth == DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        let form = if self.eat("&") {
            self.reference()
        } else if self.eat("(") {
            self.tuple()
        } else if self.eat("[") {
            self.list()
        } else {
            self.path()
        };
        self.depth -= 1;
        form
    }

    /// After `&`.
    fn reference(&mut self) -> Option<Form> {
        if self.eat("'") {
            let run = ident(self.rest);
            let after = self.rest.get(run.len()..)?;
            let is_alone = after.starts_with(['[', '(', '&']) || after.starts_with(char::is_whitespace);
            let length = if is_alone { run.len() } else { lifetime(run) };
            self.skip(length);
        }
        // A keyword, so no type or module begins so but by accident; of a path the last word counts anyway.
        self.eat("mut");
        self.ty()
    }

    /// After `(`.
    fn tuple(&mut self) -> Option<Form> {
        let mut forms = Vec::new();
        let mut has_comma = false;
        while !self.eat(")") {
            if !forms.is_empty() && !has_comma {
                return None;
            }
            forms.push(self.ty()?);
            has_comma = self.eat(",");
        }
        // `(T)` is `T`.
        if forms.len() == 1 && !has_comma { forms.pop() } else { Some(Form::Tuple(forms)) }
    }

    /// After `[`.
    fn list(&mut self) -> Option<Form> {
        let form = Box::new(self.ty()?);
        if self.eat("]") {
            return Some(Form::List(form));
        }
        if !self.eat(";") {
            return None;
        }
        let end = self.rest.find(']')?;
        let length = self.rest.get(..end)?.trim();
        self.skip(end);
        (self.eat("]") && !length.is_empty()).then(|| Form::Array(form, length.to_owned()))
    }

    /// `a::b::Name<…>`, of which the module does not count.
    fn path(&mut self) -> Option<Form> {
        self.eat("::");
        loop {
            self.eat("r#");
            let name = ident(self.rest);
            if name.is_empty() {
                return None;
            }
            self.skip(name.len());
            let has_colons = self.eat("::");
            if self.eat("<") {
                let arguments = self.arguments()?;
                return Some(named(name, arguments));
            }
            if !has_colons {
                return Some(named(name, Vec::new()));
            }
        }
    }

    /// After `<`: the types, without lifetimes.
    fn arguments(&mut self) -> Option<Vec<Form>> {
        let mut forms = Vec::new();
        loop {
            if self.eat(">") {
                return Some(forms);
            }
            if self.eat("'") {
                let lifetime = ident(self.rest).len();
                self.skip(lifetime);
            } else {
                forms.push(self.ty()?);
            }
            if !self.eat(",") {
                return self.eat(">").then_some(forms);
            }
        }
    }

    /// Takes the token if it is next, and the space after it.
    fn eat(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest).trim_start();
        rest.is_some()
    }

    /// Takes as many bytes, and the space after them.
    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default().trim_start();
    }
}

/// The letters, digits and underscores that the text begins with.
fn ident(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// How many bytes of a lifetime with a type behind it, both in one word, are the lifetime: types begin with
/// a capital or are primitive, and of a path the first word does not count.
fn lifetime(run: &str) -> usize {
    let first = run.chars().next().map_or(0, char::len_utf8);
    if run.starts_with("static") {
        return "static".len();
    }
    if let Some((capital, _)) = run.char_indices().skip(1).find(|(_, letter)| letter.is_uppercase()) {
        return capital;
    }
    let primitive = PRIMITIVES.iter().filter_map(|primitive| run.strip_suffix(primitive));
    primitive.map(str::len).filter(|length| *length > 0).min().unwrap_or(first)
}

/// A named type: those of the standard library and of chrono that have a form of their own in JSON.
fn named(name: &str, arguments: Vec<Form>) -> Form {
    let first = arguments.first().cloned();
    match (name, first, arguments.get(1)) {
        ("Box" | "Arc" | "Rc" | "Cow", Some(form), _) => form,
        ("Option", Some(Form::Nullable(form)), None) => Form::Nullable(form),
        ("Option", Some(form), None) => Form::Nullable(Box::new(form)),
        (
            "Vec" | "VecDeque" | "LinkedList" | "BinaryHeap" | "HashSet" | "BTreeSet" | "IndexSet",
            Some(form),
            _,
        ) => Form::List(Box::new(form)),
        ("HashMap" | "BTreeMap" | "IndexMap", Some(key), Some(value)) => {
            Form::Map(Box::new(key), Box::new(value.clone()))
        }
        ("NonZero", Some(Form::Integer(integer)), None) => {
            Form::Integer(Integer { is_non_zero: true, ..integer })
        }
        // RFC 3339 with an offset, in every time zone.
        ("DateTime", Some(_), None) => Form::Named(name.to_owned(), Vec::new()),
        ("String" | "str", None, None) => Form::Text,
        ("f32" | "f64", None, None) => Form::Float { is_double: name == "f64" },
        (_, None, None) => match Integer::named(name) {
            Some(integer) => Form::Integer(integer),
            None => Form::Named(name.to_owned(), arguments),
        },
        _ => Form::Named(name.to_owned(), arguments),
    }
}
