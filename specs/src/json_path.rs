//! From a place in a JSON text to the path of the value there, such as `linux.namespaces[2].type`.
//!
//! A parser tells where it stopped. Looking the path up afterwards, in the text itself and only when something is wrong,
//! costs nothing on the way that is taken every time.

/// Values nested deeper than this are not looked into; the parser refuses them anyway.
const MAX_DEPTH: usize = 128;

/// The path of the value that ends or begins at a place, or else of the innermost one around it; `.` is the whole text.
/// `line` and `column` count from 1, in bytes, as `serde_json` gives them: the place is after the byte named.
pub(crate) fn path_at(text: &[u8], line: usize, column: usize) -> String {
    let before: usize = text.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let mut scan = Scan { text, at: 0, place: before + column, path: Vec::new(), found: None, around: None };
    let _ = scan.value();
    let path = scan.found.or(scan.around).unwrap_or_default();
    if path.is_empty() { ".".into() } else { path }
}

enum Step {
    Key(String),
    Index(usize),
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    place: usize,
    path: Vec<Step>,
    found: Option<String>,
    around: Option<String>,
}

impl Scan<'_> {
    /// Passes one value; none where the text ends or makes no sense.
    fn value(&mut self) -> Option<()> {
        self.blanks();
        let start = self.at;
        let result = match self.text.get(self.at)? {
            b'{' if self.path.len() < MAX_DEPTH => self.object(),
            b'[' if self.path.len() < MAX_DEPTH => self.array(),
            b'"' => self.string().map(drop),
            _ => self.bare(),
        };
        if self.at == self.place || (result.is_none() && self.found.is_none() && start == self.place) {
            self.found.get_or_insert_with(|| shown(&self.path));
        } else if start == self.place {
            // A list or an object where something else was expected: the parser has not entered it.
            self.found = Some(shown(&self.path));
        } else if start < self.place && (self.place < self.at || result.is_none()) && self.around.is_none() {
            self.around = Some(shown(&self.path));
        }
        result
    }

    fn object(&mut self) -> Option<()> {
        self.at += 1;
        self.blanks();
        while *self.text.get(self.at)? != b'}' {
            let key = self.string()?;
            self.blanks();
            self.expect(b':')?;
            self.path.push(Step::Key(key));
            self.value()?;
            self.path.pop();
            self.next_or(b'}')?;
        }
        self.at += 1;
        Some(())
    }

    fn array(&mut self) -> Option<()> {
        self.at += 1;
        self.blanks();
        let mut index = 0;
        while *self.text.get(self.at)? != b']' {
            self.path.push(Step::Index(index));
            self.value()?;
            self.path.pop();
            self.next_or(b']')?;
            index += 1;
        }
        self.at += 1;
        Some(())
    }

    /// Passes a comma, or stops before the end of the list.
    fn next_or(&mut self, end: u8) -> Option<()> {
        self.blanks();
        if *self.text.get(self.at)? == end {
            return Some(());
        }
        self.expect(b',')?;
        self.blanks();
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        let start = self.at;
        self.expect(b'"')?;
        loop {
            match self.text.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(serde_json::from_slice(&self.text[start..self.at]).unwrap_or_default())
    }

    /// A number or a word.
    fn bare(&mut self) -> Option<()> {
        let start = self.at;
        while self.text.get(self.at).is_some_and(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn blanks(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        if *self.text.get(self.at)? != byte {
            return None;
        }
        self.at += 1;
        Some(())
    }
}

fn shown(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Step::Index(index) => text += &format!("[{index}]"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        Yes,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only that it is read matters")]
    struct Inner {
        word: Word,
        number: Option<u8>,
        list: Option<Vec<String>>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only that it is read matters")]
    struct Outer {
        inner: Option<Vec<Inner>>,
        name: Option<String>,
    }

    fn path(text: &str) -> String {
        let error = serde_json::from_str::<Outer>(text).expect_err(text);
        path_at(text.as_bytes(), error.line(), error.column())
    }

    #[test]
    fn the_value_that_does_not_fit_is_named() {
        for (text, expected) in [
            (r#"{"name": 5}"#, "name"),
            (r#"{"name": {"a": 1}}"#, "name"),
            (r#"{"name": []}"#, "name"),
            (r#"{"name": true, "inner": []}"#, "name"),
            ("{\n \"inner\": [ {\"word\": \"yes\"},\n {\"word\": \"no\"} ] }", "inner[1].word"),
            ("{\"inner\": [{\"word\": \"yes\",\n\n \"number\": -1}]}", "inner[0].number"),
            (r#"{"inner": [{"word": "yes", "number": 256 }]}"#, "inner[0].number"),
            (r#"{"inner": [{"word": "yes", "number": 1.5}]}"#, "inner[0].number"),
            (r#"{"inner": [{"word": "yes", "list": ["a", "b", null]}]}"#, "inner[0].list[2]"),
            (r#"{"inner": [{"word": "yes", "list": {"a": 1}}]}"#, "inner[0].list"),
            (r#"{"inner": [{"number": 1}]}"#, "inner[0]"),
            (r#"{"inner": 7}"#, "inner"),
            (r#"{"inner": ["text"]}"#, "inner[0]"),
            ("\"text\"", "."),
            ("[]", "."),
        ] {
            assert_eq!(path(text), expected, "{text}");
        }
    }

    #[test]
    fn any_place_in_any_text_has_an_answer() {
        for text in [
            "",
            "{",
            "{\"a\"",
            "{\"a\":",
            "[1,",
            "\"\\",
            "{]",
            "nonsense here",
            "[[[[",
            "{\"a\":{\"b\":[1,{\"c\":\"\\u00",
        ] {
            for line in 0..3 {
                for column in 0..40 {
                    path_at(text.as_bytes(), line, column);
                }
            }
        }
        let deep = "[".repeat(100_000);
        assert!(path_at(deep.as_bytes(), 1, 99_999).starts_with("[0]"));
    }
}
