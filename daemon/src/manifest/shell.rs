//! A shell's words, taken apart without running anything: quotes, comments, separators, and
//! variables whose values the manifest gives.
//!
//! What would have to be computed stays as it is written, with its `$`, and so names nothing.

use std::collections::BTreeMap;

/// Longest script that is read, in bytes.
const MOST: usize = 64 << 10;

type Variables = BTreeMap<String, String>;

/// Longest value that is put in place of a variable.
const MOST_VALUE: usize = 4096;

/// `$(NAME)` as the kubelet replaces it in commands, arguments and environment; `$$` is one `$`.
pub(crate) fn references(text: &str, variables: &Variables) -> String {
    if text.len() > MOST {
        return String::new();
    }
    let (mut written, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        written.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            written.push('$');
            rest = tail;
            continue;
        }
        let named = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'));
        match named.and_then(|(name, tail)| Some((variables.get(name)?, tail))) {
            Some((value, tail)) if value.len() <= MOST_VALUE && written.len() <= MOST => {
                written.push_str(value);
                rest = tail;
            }
            _ => {
                written.push('$');
                rest = after;
            }
        }
    }
    written.push_str(rest);
    written
}

/// The commands of a script, each as its words.
pub(crate) fn commands(script: &str, variables: &Variables) -> Vec<Vec<String>> {
    let mut reader = Reader::default();
    if script.len() <= MOST {
        reader.read(script, variables);
    }
    reader.end_command();
    reader.commands
}

#[derive(Default)]
struct Reader {
    commands: Vec<Vec<String>>,
    words: Vec<String>,
    word: Option<String>,
    /// Bytes put in place of variables so far.
    replaced: usize,
}

impl Reader {
    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }

    fn end_command(&mut self) {
        self.end_word();
        if !self.words.is_empty() {
            self.commands.push(std::mem::take(&mut self.words));
        }
    }

    fn push(&mut self, text: &str) {
        self.word.get_or_insert_default().push_str(text);
    }

    fn read(&mut self, script: &str, variables: &Variables) {
        let mut rest = script;
        while let Some(c) = rest.chars().next() {
            let after = &rest[c.len_utf8()..];
            rest = match c {
                '\n' | ';' | '&' | '|' | '(' | ')' => {
                    self.end_command();
                    after
                }
                c if c.is_whitespace() => {
                    self.end_word();
                    after
                }
                '#' if self.word.is_none() => after.find('\n').map_or("", |end| &after[end..]),
                '\'' => {
                    let (inner, tail) = after.split_once('\'').unwrap_or((after, ""));
                    self.push(inner);
                    tail
                }
                '"' => self.double_quoted(after, variables),
                '\\' => self.escaped(after),
                '$' => self.variable(after, variables),
                c => {
                    self.push(c.encode_utf8(&mut [0; 4]));
                    after
                }
            };
        }
    }

    fn escaped<'t>(&mut self, after: &'t str) -> &'t str {
        let Some(c) = after.chars().next() else {
            return after;
        };
        if c != '\n' {
            self.push(c.encode_utf8(&mut [0; 4]));
        }
        &after[c.len_utf8()..]
    }

    fn double_quoted<'t>(&mut self, text: &'t str, variables: &Variables) -> &'t str {
        self.push("");
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let after = &rest[c.len_utf8()..];
            rest = match c {
                '"' => return after,
                '\\' if after.starts_with(['"', '\\', '$', '`', '\n']) => self.escaped(after),
                '$' => self.variable(after, variables),
                c => {
                    self.push(c.encode_utf8(&mut [0; 4]));
                    after
                }
            };
        }
        rest
    }

    /// `$NAME`, `${NAME}`, `${NAME:-default}`; anything else stays.
    fn variable<'t>(&mut self, after: &'t str, variables: &Variables) -> &'t str {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, fallback, tail) = match after.strip_prefix('{') {
            Some(inner) => match inner.split_once('}') {
                Some((inner, tail)) => match inner.split_once(":-") {
                    Some((name, fallback)) => (name, Some(fallback), tail),
                    None => (inner, None, tail),
                },
                None => ("", None, after),
            },
            None => {
                let end = after.find(|c| !plain(c)).unwrap_or(after.len());
                (&after[..end], None, &after[end..])
            }
        };
        let value = variables.get(name).map(String::as_str).or(fallback);
        match value.filter(|value| !name.is_empty() && value.len() <= MOST_VALUE) {
            Some(value) if self.replaced < MOST => {
                self.replaced += value.len();
                self.push(value);
                tail
            }
            _ => {
                self.push("$");
                after
            }
        }
    }
}
