//! Values written as text, in GVariant's notation: `true`, `'word'`, `uint64 5`, `['a', 'b']`, `@as []`, `('a', 1)`.
//! Annotations of containers hold properties of units in it.

use super::Value;

/// Deeper than any property, and no danger for the stack.
const DEEPEST: usize = 8;

/// Reads one value.
///
/// # Errors
/// What is wrong, for a person.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { rest: text };
    let value = parser.value(None, 0)?;
    match parser.skip() {
        "" => Ok(value),
        rest => Err(format!("{rest:?} follows the value")),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// What is left after blanks.
    fn skip(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        self.rest
    }

    fn take(&mut self, token: char) -> bool {
        let rest = self.skip().strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn word(&mut self) -> &'a str {
        let rest = self.skip();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c))).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        self.rest = rest;
        word
    }

    fn value(&mut self, wanted: Option<&str>, depth: usize) -> Result<Value, String> {
        if depth == DEEPEST {
            return Err(format!("values nest deeper than {DEEPEST}"));
        }
        match self.skip().chars().next() {
            None => Err("a value is missing".into()),
            Some('@') => {
                let rest = &self.rest[1..];
                let end = rest.find(char::is_whitespace).ok_or("a value is missing after its type")?;
                let (signature, rest) = rest.split_at(end);
                if single(signature) != Some("") {
                    return Err(format!("{signature:?} is not a type"));
                }
                self.rest = rest;
                self.value(Some(signature), depth + 1)
            }
            Some('\'' | '"') => {
                let text = self.quoted()?;
                match wanted {
                    None | Some("s") => Ok(Value::String(text)),
                    Some("o") => Ok(Value::Path(text)),
                    Some("g") => Ok(Value::Signature(text)),
                    Some(other) => Err(format!("{text:?} is a text where type {other} is expected")),
                }
            }
            Some('[') => self.array(wanted, depth),
            Some('(') => self.tuple(wanted, depth),
            Some('<') => {
                self.take('<');
                let value = self.value(None, depth + 1)?;
                if !self.take('>') {
                    return Err("a `<` has no `>`".into());
                }
                Ok(Value::Variant(Box::new(value)))
            }
            Some(_) => self.plain(wanted),
        }
    }

    fn quoted(&mut self) -> Result<String, String> {
        let mut characters = self.rest.chars();
        let quote = characters.next();
        let mut text = String::new();
        while let Some(character) = characters.next() {
            if Some(character) == quote {
                self.rest = characters.as_str();
                return Ok(text);
            }
            text.push(match character {
                '\\' => match characters.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some(plain @ ('\\' | '\'' | '"')) => plain,
                    other => return Err(format!("`\\{}` means nothing here", other.unwrap_or(' '))),
                },
                plain => plain,
            });
        }
        Err("a text has no closing quote".into())
    }

    fn array(&mut self, wanted: Option<&str>, depth: usize) -> Result<Value, String> {
        let mut element = match wanted {
            None => None,
            Some(signature) => {
                let element =
                    signature.strip_prefix('a').ok_or(format!("an array where type {signature} is expected"))?;
                Some(element.to_string())
            }
        };
        self.take('[');
        let mut items = Vec::new();
        while !self.take(']') {
            if !items.is_empty() && !self.take(',') {
                return Err("elements are separated by `,` and ended by `]`".into());
            }
            let item = self.value(element.as_deref(), depth + 1)?;
            let signature = item.signature();
            match &element {
                Some(expected) if *expected != signature => {
                    return Err(format!("an element has type {signature}, others {expected}"));
                }
                _ => element = Some(signature),
            }
            items.push(item);
        }
        let element = element.ok_or("an array without elements needs a type, such as `@as []`")?;
        Ok(Value::Array(element, items))
    }

    fn tuple(&mut self, wanted: Option<&str>, depth: usize) -> Result<Value, String> {
        let mut types = match wanted {
            None => None,
            Some(signature) => Some(
                signature
                    .strip_prefix('(')
                    .and_then(|inner| inner.strip_suffix(')'))
                    .ok_or(format!("a tuple where type {signature} is expected"))?,
            ),
        };
        self.take('(');
        let mut fields = Vec::new();
        while !self.take(')') {
            if !fields.is_empty() && !self.take(',') {
                return Err("fields are separated by `,` and ended by `)`".into());
            }
            let field = match types {
                None => self.value(None, depth + 1)?,
                Some(all) => {
                    let rest = single(all).ok_or("a tuple has more fields than its type")?;
                    types = Some(rest);
                    self.value(Some(&all[..all.len() - rest.len()]), depth + 1)?
                }
            };
            fields.push(field);
        }
        if fields.is_empty() || types.is_some_and(|rest| !rest.is_empty()) {
            return Err("a tuple has fewer fields than its type".into());
        }
        Ok(Value::Struct(fields))
    }

    /// Numbers and truth values, with the name of their type before them or not.
    fn plain(&mut self, wanted: Option<&str>) -> Result<Value, String> {
        let word = self.word();
        let named = match word {
            "boolean" => Some("b"),
            "byte" => Some("y"),
            "int16" => Some("n"),
            "uint16" => Some("q"),
            "int32" => Some("i"),
            "uint32" => Some("u"),
            "int64" => Some("x"),
            "uint64" => Some("t"),
            "double" => Some("d"),
            "string" => Some("s"),
            "objectpath" => Some("o"),
            "signature" => Some("g"),
            _ => None,
        };
        if let Some(named) = named {
            return match wanted {
                Some(wanted) if wanted != named => Err(format!("type {named} where type {wanted} is expected")),
                _ => self.value(Some(named), DEEPEST - 1),
            };
        }
        let kind = match wanted {
            Some(kind) => kind,
            None if matches!(word, "true" | "false") => "b",
            None if word.contains('.') => "d",
            None => "i",
        };
        let value = match kind {
            "b" => word.parse().ok().map(Value::Bool),
            "y" => integer(word).map(Value::Byte),
            "n" => integer(word).map(Value::I16),
            "q" => integer(word).map(Value::U16),
            "i" => integer(word).map(Value::I32),
            "u" => integer(word).map(Value::U32),
            "x" => integer(word).map(Value::I64),
            "t" => integer(word).map(Value::U64),
            "d" => word.parse().ok().map(Value::Double),
            _ => None,
        };
        let shown = if word.is_empty() { self.rest } else { word };
        value.ok_or_else(|| format!("{shown:?} is not a value of type {kind}"))
    }
}

/// Decimal, or hexadecimal after `0x`, or octal after a leading zero.
fn integer<T: TryFrom<i128>>(word: &str) -> Option<T> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let number = match (digits.strip_prefix("0x"), digits.strip_prefix('0')) {
        (Some(hexadecimal), _) => i128::from(u64::from_str_radix(hexadecimal, 16).ok()?),
        (None, Some(octal)) if !octal.is_empty() => i128::from(u64::from_str_radix(octal, 8).ok()?),
        _ => i128::from(digits.parse::<u64>().ok()?),
    };
    T::try_from(sign * number).ok()
}

/// What follows the first complete type of a signature; none if it does not begin with one.
fn single(signature: &str) -> Option<&str> {
    let mut rest = signature;
    for _ in 0..DEEPEST {
        match rest.strip_prefix('a') {
            Some(element) => rest = element,
            None => break,
        }
    }
    match rest.chars().next()? {
        '(' => {
            rest = &rest[1..];
            while !rest.starts_with(')') {
                rest = single(rest)?;
            }
            Some(&rest[1..])
        }
        kind if "ybnqiuxtdsogv".contains(kind) => Some(&rest[1..]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_in_gvariants_notation() {
        assert_eq!(parse("true"), Ok(Value::Bool(true)));
        assert_eq!(parse(" 'inactive-or-failed' "), Ok("inactive-or-failed".into()));
        assert_eq!(parse(r#""it's""#), Ok("it's".into()));
        assert_eq!(parse("-5"), Ok(Value::I32(-5)));
        assert_eq!(parse("uint64 4611686018427387904"), Ok(Value::U64(1 << 62)));
        assert_eq!(parse("@t 0x10"), Ok(Value::U64(16)));
        assert_eq!(parse("1.5"), Ok(Value::Double(1.5)));
        assert_eq!(parse("['a', 'b']"), Ok(Value::Array("s".into(), vec!["a".into(), "b".into()])));
        assert_eq!(parse("@as []"), Ok(Value::Array("s".into(), vec![])));
        let pair = Value::Struct(vec!["/dev/null".into(), "rw".into()]);
        assert_eq!(parse("@a(ss) [('/dev/null', 'rw')]"), Ok(Value::Array("(ss)".into(), vec![pair])));
        assert_eq!(parse("@(st) ('a', 7)"), Ok(Value::Struct(vec!["a".into(), Value::U64(7)])));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, problem) in [
            ("", "a value is missing"),
            ("'a", "closing quote"),
            ("true false", "follows the value"),
            ("byte 256", "\"256\" is not a value of type y"),
            ("uint32 'a'", "text where type u"),
            ("[]", "needs a type"),
            ("['a', 1]", "is not a value of type s"),
            ("inactive", "\"inactive\" is not a value of type i"),
            ("@zz 5", "is not a type"),
            ("@(ss) ('a')", "fewer fields"),
            ("[[[[[[[[[[1]]]]]]]]]]", "nest deeper"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
