//! From text to filter: tokens with columns, then one pass of recursive descent.

use super::field::{Field, FieldType};
use super::{Expr, FILTER_DEPTH_MAX, FILTER_LEN_MAX, Literal, Op};

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterProblem {
    /// Longer than a filter may be.
    #[error(
        "the filter has {chars} characters with all its quotes, at most {FILTER_LEN_MAX} are allowed"
    )]
    TooLong {
        /// Characters given.
        chars: usize,
    },
    /// Too many parentheses or `not` inside one another.
    #[error("nested deeper than {FILTER_DEPTH_MAX}")]
    TooDeep,
    /// A character that starts nothing.
    #[error("unexpected `{found}`")]
    Character {
        /// The character.
        found: char,
    },
    /// A text without its closing quote.
    #[error("this text is not closed: its `\"` is missing")]
    Unclosed,
    /// Something else should stand here.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What should stand here.
        expected: String,
        /// What stands here, cut to 80 characters.
        found: String,
    },
    /// No field has this name.
    #[error("unknown field `{name}`")]
    UnknownField {
        /// The name, cut to 80 characters.
        name: String,
    },
    /// The value is not of the field's type.
    #[error("`{field}` is compared with {expected}, not with `{found}`")]
    Type {
        /// The field.
        field: &'static str,
        /// What can be compared with it.
        expected: String,
        /// What was written, cut to 80 characters.
        found: String,
    },
    /// The field's type does not have this operator.
    #[error("`{field}` cannot be compared with `{op}`")]
    Operator {
        /// The field.
        field: &'static str,
        /// The operator.
        op: &'static str,
    },
}

/// Why a text is not a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {problem}{}", hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default())]
pub struct FilterError {
    /// Where, counted in characters from 1.
    pub column: usize,
    /// What.
    pub problem: FilterProblem,
    /// The way out, where one is known.
    pub hint: Option<String>,
}

fn error(column: usize, problem: FilterProblem) -> FilterError {
    FilterError { column, problem, hint: None }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// Bare characters: a name, keyword, number or text.
    Word(String),
    /// A text in quotes.
    Quoted(String),
    Op(Op),
    Open,
    Close,
    OpenList,
    CloseList,
    Comma,
    End,
}

impl Token {
    fn describe(&self) -> String {
        match self {
            Self::Word(word) => format!("`{}`", cut(word)),
            Self::Quoted(text) => format!("\"{}\"", cut(text)),
            Self::Op(op) => format!("`{}`", op.as_str()),
            Self::Open => "`(`".to_owned(),
            Self::Close => "`)`".to_owned(),
            Self::OpenList => "`[`".to_owned(),
            Self::CloseList => "`]`".to_owned(),
            Self::Comma => "`,`".to_owned(),
            Self::End => "the end".to_owned(),
        }
    }

    fn is_word(&self, wanted: &str) -> bool {
        matches!(self, Self::Word(word) if word == wanted)
    }
}

/// Characters of a bare word; enough for names, numbers, digests, media types and ids.
fn is_bare(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '+' | '@' | '*')
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, FilterError> {
    let mut tokens = Vec::new();
    let mut chars = (1..).zip(text.chars()).peekable();
    while let Some((column, c)) = chars.next() {
        let mut next_is_equal = || chars.next_if(|(_, c)| *c == '=').is_some();
        let token = match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            '[' => Token::OpenList,
            ']' => Token::CloseList,
            ',' => Token::Comma,
            '~' => Token::Op(Op::Contains),
            '=' => {
                // `==` is what programmers type; it means the same.
                next_is_equal();
                Token::Op(Op::Equal)
            }
            '<' if next_is_equal() => Token::Op(Op::LessOrEqual),
            '<' => Token::Op(Op::Less),
            '>' if next_is_equal() => Token::Op(Op::GreaterOrEqual),
            '>' => Token::Op(Op::Greater),
            '!' if next_is_equal() => Token::Op(Op::NotEqual),
            '"' => Token::Quoted(
                quoted(&mut chars).ok_or_else(|| error(column, FilterProblem::Unclosed))?,
            ),
            c if is_bare(c) => {
                let mut word = String::from(c);
                while let Some((_, c)) = chars.next_if(|(_, c)| is_bare(*c)) {
                    word.push(c);
                }
                Token::Word(word)
            }
            found => return Err(error(column, FilterProblem::Character { found })),
        };
        tokens.push((column, token));
    }
    tokens.push((text.chars().count() + 1, Token::End));
    Ok(tokens)
}

/// The text up to the closing quote; a backslash takes the next character as it is.
fn quoted(chars: &mut impl Iterator<Item = (usize, char)>) -> Option<String> {
    let mut text = String::new();
    loop {
        match chars.next()?.1 {
            '"' => return Some(text),
            '\\' => text.push(chars.next()?.1),
            c => text.push(c),
        }
    }
}

pub(super) fn check_len(chars: usize) -> Result<(), FilterError> {
    if chars > FILTER_LEN_MAX {
        return Err(error(FILTER_LEN_MAX + 1, FilterProblem::TooLong { chars }));
    }
    Ok(())
}

pub(super) fn parse(text: &str) -> Result<Option<Expr>, FilterError> {
    check_len(text.chars().count())?;
    let tokens = tokens(text)?;
    if tokens.len() == 1 {
        return Ok(None);
    }
    let mut parser = Parser { tokens: tokens.into_iter().peekable(), depth: 0 };
    let expr = parser.any()?;
    match parser.next() {
        (_, Token::End) => Ok(Some(expr)),
        (column, token) => Err(expected(column, "`and`, `or` or the end", &token)),
    }
}

fn expected(column: usize, expected: &str, found: &Token) -> FilterError {
    let (expected, found) = (expected.to_owned(), found.describe());
    error(column, FilterProblem::Expected { expected, found })
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<(usize, Token)>>,
    depth: usize,
}

impl Parser {
    /// The next token; after the last one, the end again and again.
    fn next(&mut self) -> (usize, Token) {
        self.tokens.next().unwrap_or((FILTER_LEN_MAX, Token::End))
    }

    fn next_if(&mut self, wanted: impl Fn(&Token) -> bool) -> bool {
        self.tokens.next_if(|(_, token)| wanted(token)).is_some()
    }

    fn any(&mut self) -> Result<Expr, FilterError> {
        let mut parts = vec![self.all()?];
        while self.next_if(|token| token.is_word("or")) {
            parts.push(self.all()?);
        }
        Ok(joined(parts, Expr::Any))
    }

    fn all(&mut self) -> Result<Expr, FilterError> {
        let mut parts = vec![self.unary()?];
        while self.next_if(|token| token.is_word("and")) {
            parts.push(self.unary()?);
        }
        Ok(joined(parts, Expr::All))
    }

    fn unary(&mut self) -> Result<Expr, FilterError> {
        let (column, token) = self.next();
        let is_not = token.is_word("not");
        if !is_not && token != Token::Open {
            return self.comparison(column, token);
        }
        self.depth += 1;
        if self.depth > FILTER_DEPTH_MAX {
            return Err(error(column, FilterProblem::TooDeep));
        }
        let expr = if is_not {
            Expr::Not(Box::new(self.unary()?))
        } else {
            let inner = self.any()?;
            let (column, token) = self.next();
            if token != Token::Close {
                return Err(expected(column, "`and`, `or` or `)`", &token));
            }
            inner
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn comparison(&mut self, column: usize, token: Token) -> Result<Expr, FilterError> {
        let Token::Word(name) = token else {
            return Err(expected(column, "a field, `not` or `(`", &token));
        };
        let Some(field) = Field::from_name(&name) else {
            let hint = nearest(&name, Field::ALL.iter().map(|field| field.name()));
            let problem = FilterProblem::UnknownField { name: cut(&name) };
            return Err(FilterError { column, problem, hint });
        };
        let (column, token) = self.next();
        match token {
            Token::Op(op) => {
                check_operator(column, field, op)?;
                Ok(Expr::Compare(field, op, self.literal(field)?))
            }
            token if token.is_word("in") => self.list(field),
            token => Err(expected(column, "an operator like `=`, `~` or `in`", &token)),
        }
    }

    fn list(&mut self, field: Field) -> Result<Expr, FilterError> {
        let (column, token) = self.next();
        if token != Token::OpenList {
            return Err(expected(column, "`[`", &token));
        }
        let mut literals = vec![self.literal(field)?];
        loop {
            match self.next() {
                (_, Token::CloseList) => return Ok(Expr::In(field, literals)),
                (_, Token::Comma) => literals.push(self.literal(field)?),
                (column, token) => return Err(expected(column, "`,` or `]`", &token)),
            }
        }
    }

    fn literal(&mut self, field: Field) -> Result<Literal, FilterError> {
        let (column, token) = self.next();
        let (text, is_quoted) = match token {
            Token::Word(text) => (text, false),
            Token::Quoted(text) => (text, true),
            token => return Err(expected(column, &field.field_type().expected(), &token)),
        };
        let field_type = field.field_type();
        let literal = match field_type {
            FieldType::Text => Some(Literal::Text(text.clone())),
            FieldType::Word(words) => {
                words.contains(&text.as_str()).then(|| Literal::Text(text.clone()))
            }
            // A number or truth value in quotes is a text, and meant as one.
            _ if is_quoted => None,
            FieldType::Bool => text.parse().ok().map(Literal::Bool),
            FieldType::Count => text.parse().ok().map(Literal::Number),
            FieldType::Size => size(&text).map(Literal::Number),
            FieldType::Cores => scaled(&text, 1000, 3).map(Literal::Number),
        };
        literal.ok_or_else(|| {
            let hint = match field_type {
                FieldType::Word(words) => nearest(&text, words.iter().copied()),
                _ => None,
            };
            let (expected, found) = (field_type.expected(), cut(&text));
            let problem = FilterProblem::Type { field: field.name(), expected, found };
            FilterError { column, problem, hint }
        })
    }
}

fn joined(mut parts: Vec<Expr>, join: fn(Vec<Expr>) -> Expr) -> Expr {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            join(parts)
        }
        None => join(parts),
    }
}

fn check_operator(column: usize, field: Field, op: Op) -> Result<(), FilterError> {
    let is_good = match op {
        Op::Equal | Op::NotEqual => true,
        Op::Contains => matches!(field.field_type(), FieldType::Text | FieldType::Word(_)),
        Op::Less | Op::LessOrEqual | Op::Greater | Op::GreaterOrEqual => {
            field.field_type().is_ordered()
        }
    };
    if is_good {
        return Ok(());
    }
    let problem = FilterProblem::Operator { field: field.name(), op: op.as_str() };
    Err(FilterError { column, problem, hint: Some("use `=` or `!=`".to_owned()) })
}

/// A decimal number with at most `decimals` decimals, times `scale`, which must make it whole.
fn scaled(text: &str, scale: u64, decimals: u32) -> Option<u64> {
    let (units, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let places = u32::try_from(fraction.len()).ok()?;
    if !is_digits(units) || !is_digits(fraction) || places > decimals {
        return None;
    }
    let part: u128 = fraction.parse::<u128>().ok()? * u128::from(scale);
    let divisor = 10u128.pow(places);
    let whole = u128::from(units.parse::<u64>().ok()?) * u128::from(scale);
    part.is_multiple_of(divisor).then(|| u64::try_from(whole + part / divisor).ok()).flatten()
}

/// Bytes: a number with a unit, `B` when there is none.
fn size(text: &str) -> Option<u64> {
    let at = text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let scale = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "PB" => 1_000_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "PiB" => 1 << 50,
        _ => return None,
    };
    scaled(number, scale, 3)
}

/// The known word nearest to a mistyped one, as a hint, when it is near enough to have been meant.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    const LEN_MAX: usize = 24;
    if word.chars().count() > LEN_MAX {
        return None;
    }
    let word = word.to_lowercase();
    let (distance, best) = known.map(|known| (distance(&word, known), known)).min()?;
    (distance <= 2 && distance < best.len()).then(|| format!("did you mean `{best}`?"))
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
