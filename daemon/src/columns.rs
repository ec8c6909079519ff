//! Text in columns: each as wide as its widest cell, two blanks between.

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a header.
#[derive(Debug)]
pub(crate) struct Columns {
    aligned: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Columns {
    /// With these columns.
    pub(crate) fn new(header: &[(&str, Align)]) -> Self {
        Self {
            aligned: header.iter().map(|(_, align)| *align).collect(),
            rows: vec![header.iter().map(|(name, _)| (*name).to_owned()).collect()],
        }
    }

    /// Adds a row; cells that are missing are empty.
    pub(crate) fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text, each line behind `indent` blanks.
    pub(crate) fn render(&self, indent: usize) -> String {
        let wide =
            |row: &Vec<String>, column| row.get(column).map_or(0, |c: &String| c.chars().count());
        let widths: Vec<usize> = (0..self.aligned.len())
            .map(|column| {
                self.rows
                    .iter()
                    .map(|row| wide(row, column))
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for (column, (width, align)) in widths.iter().zip(&self.aligned).enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                let blanks = " ".repeat(width - cell.chars().count());
                match align {
                    Align::Left => line.extend([cell, &blanks]),
                    Align::Right => line.extend([blanks.as_str(), cell]),
                }
                line.push_str("  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn cells_line_up_and_no_line_ends_in_blanks() {
        let mut columns = Columns::new(&[
            ("type", Align::Left),
            ("USD/h", Align::Right),
            ("", Align::Left),
        ]);
        columns.row(["g6.xlarge".to_owned(), "0.80".to_owned(), "é".to_owned()]);
        columns.row(["p5".to_owned(), "55.04".to_owned()]);
        expect![[r#"
            | type       USD/h
            | g6.xlarge   0.80  é
            | p5         55.04
        "#]]
        .assert_eq(
            &columns
                .render(0)
                .lines()
                .fold(String::new(), |text, line| text + "| " + line + "\n"),
        );
    }
}
