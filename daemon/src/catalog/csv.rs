//! Comma-separated records, read as their bytes arrive (RFC 4180).
//!
//! A cloud's price list is larger than memory should be, so nothing here holds more than one record.
//! Bytes that are not UTF-8 are replaced; the fields that matter are ASCII.

/// Most bytes of one record: a line without end is no table.
const MAX_RECORD: usize = 64 << 10;

/// A table that breaks its own form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadTable {
    /// A quoted field is still open where the file ends.
    #[error("line {line}: the quote that opens here is never closed: the file is cut short")]
    OpenQuote {
        /// Where the record begins.
        line: usize,
    },
    /// A record is too long.
    #[error("line {line}: a record of more than {MAX_RECORD} bytes: this is no table")]
    TooLong {
        /// Where the record begins.
        line: usize,
    },
}

/// One record and the line it begins on, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The line.
    pub(crate) line: usize,
    /// Its fields.
    pub(crate) fields: Vec<String>,
}

/// Takes bytes, gives records.
#[derive(Debug)]
pub(crate) struct Records {
    separator: u8,
    state: State,
    field: Vec<u8>,
    fields: Vec<String>,
    length: usize,
    line: usize,
    begun: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the start of a field.
    Start,
    /// Inside one without quotes.
    Plain,
    /// Inside quotes.
    Quoted,
    /// After a quote inside quotes: the end of it, or one that means itself.
    Closing,
}

impl Records {
    /// For fields separated by `separator`.
    pub(crate) fn new(separator: u8) -> Self {
        Self {
            separator,
            state: State::Start,
            field: Vec::new(),
            fields: Vec::new(),
            length: 0,
            line: 1,
            begun: 1,
        }
    }

    /// The records that end in `bytes`. Blank lines are none.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Record>, BadTable> {
        let mut done = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.length += 1;
                if self.length > MAX_RECORD {
                    return Err(BadTable::TooLong { line: self.begun });
                }
            }
            match (self.state, byte) {
                (State::Start, b'"') => self.state = State::Quoted,
                (State::Quoted, b'"') => self.state = State::Closing,
                (State::Closing, b'"') => {
                    self.field.push(b'"');
                    self.state = State::Quoted;
                }
                (State::Quoted, _) => self.field.push(byte),
                (_, b'\n') => done.extend(self.end_record()),
                (_, b'\r') => {}
                (_, byte) if byte == self.separator => self.end_field(),
                (_, byte) => {
                    self.field.push(byte);
                    self.state = State::Plain;
                }
            }
            if byte == b'\n' {
                self.line += 1;
                if self.state != State::Quoted {
                    self.begun = self.line;
                }
            }
        }
        Ok(done)
    }

    /// The last record, if its line has no end.
    pub(crate) fn finish(mut self) -> Result<Option<Record>, BadTable> {
        match self.state {
            State::Quoted => Err(BadTable::OpenQuote { line: self.begun }),
            _ => Ok(self.end_record()),
        }
    }

    fn end_field(&mut self) {
        self.fields
            .push(String::from_utf8_lossy(&self.field).into_owned());
        self.field.clear();
        self.state = State::Start;
    }

    fn end_record(&mut self) -> Option<Record> {
        let blank = self.fields.is_empty() && self.field.is_empty() && self.state == State::Start;
        self.length = 0;
        if blank {
            return None;
        }
        self.end_field();
        Some(Record {
            line: self.begun,
            fields: std::mem::take(&mut self.fields),
        })
    }
}

/// All records of a table in memory.
pub(crate) fn records(separator: u8, table: &[u8]) -> Result<Vec<Record>, BadTable> {
    let mut records = Records::new(separator);
    let mut all = records.feed(table)?;
    all.extend(records.finish()?);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(table: &str) -> Vec<(usize, Vec<String>)> {
        let all = records(b',', table.as_bytes()).unwrap();
        all.into_iter().map(|r| (r.line, r.fields)).collect()
    }

    fn record(line: usize, fields: &[&str]) -> (usize, Vec<String>) {
        (line, fields.iter().map(|f| (*f).to_owned()).collect())
    }

    #[test]
    fn quotes_commas_blank_lines_and_a_last_line_without_end_are_read() {
        let table = "a,b\r\n\n\"x, y\",\"say \"\"hi\"\"\"\nlast,";
        assert_eq!(
            fields(table),
            [
                record(1, &["a", "b"]),
                record(3, &["x, y", "say \"hi\""]),
                record(4, &["last", ""]),
            ]
        );
    }

    #[test]
    fn a_quote_over_two_lines_counts_both() {
        assert_eq!(
            fields("\"a\nb\",c\nd,e\n"),
            [record(1, &["a\nb", "c"]), record(3, &["d", "e"])]
        );
    }

    #[test]
    fn a_table_cut_inside_a_quote_says_where_it_opened() {
        let cut = records(b',', b"a,b\nc,\"d");
        assert_eq!(cut, Err(BadTable::OpenQuote { line: 2 }));
    }

    #[test]
    fn a_record_without_end_is_refused_before_it_fills_memory() {
        let endless = vec![b'x'; MAX_RECORD + 1];
        assert_eq!(records(b',', &endless), Err(BadTable::TooLong { line: 1 }));
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_changes_nothing(
            bytes in prop::collection::vec(prop::sample::select(b"a,\"\n\r;".to_vec()), 0..60),
            at in 0..60usize,
        ) {
            let whole = records(b',', &bytes);
            let (left, right) = bytes.split_at(at.min(bytes.len()));
            let mut parts = Records::new(b',');
            let mut cut = parts.feed(left).unwrap();
            cut.extend(parts.feed(right).unwrap());
            let cut = parts.finish().map(|last| {
                cut.extend(last);
                cut
            });
            prop_assert_eq!(whole, cut);
        }
    }
}
