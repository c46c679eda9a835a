//! Tables: aligned columns without frames, and notes under a row.
//!
//! A table that is too wide for its view loses its least important columns first, then the longest texts are cut: a line is
//! never broken.

use super::{Tone, View, clean};

/// Between two columns.
const GAP: usize = 2;
/// A sentence is not cut shorter than this.
const SHORTEST_PROSE: usize = 20;
/// Another text is not cut shorter than this.
const SHORTEST: usize = 8;

/// A table in the making.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Row>,
}

/// One column.
pub(super) struct Column {
    title: &'static str,
    right: bool,
    /// The higher, the sooner it is left out; 0: never.
    optional: u8,
    /// Whether it is cut before any column is left out.
    prose: bool,
}

/// One row.
pub(super) struct Row {
    cells: Vec<Cell>,
    notes: Vec<Cell>,
}

/// One text.
#[derive(Clone)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

/// A column of texts.
pub(super) const fn left(title: &'static str) -> Column {
    Column {
        title,
        right: false,
        optional: 0,
        prose: false,
    }
}

/// A column of numbers.
pub(super) const fn right(title: &'static str) -> Column {
    Column {
        title,
        right: true,
        optional: 0,
        prose: false,
    }
}

impl Column {
    /// May be left out, the sooner the higher `rank` is.
    pub(super) const fn optional(self, rank: u8) -> Self {
        Self { optional: rank, ..self }
    }

    /// Holds sentences, which may be cut.
    pub(super) const fn prose(self) -> Self {
        Self { prose: true, ..self }
    }
}

impl Cell {
    pub(super) fn new(tone: Tone, text: impl AsRef<str>) -> Self {
        Self {
            text: clean(text.as_ref()),
            tone,
        }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell::new(Tone::Plain, text)
    }
}

impl Table {
    pub(super) fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self {
            columns: columns.into_iter().collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with as many cells as there are columns, and the notes to show under it.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>, notes: impl IntoIterator<Item = Cell>) {
        let cells: Vec<Cell> = cells.into_iter().collect();
        debug_assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        let notes = notes.into_iter().collect();
        self.rows.push(Row { cells, notes });
    }

    /// The whole table; empty without rows. A column without any text is left out.
    pub(super) fn render(&self, view: &View) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let columns = self.fit(view);
        let titles: Vec<Cell> = self
            .columns
            .iter()
            .map(|column| Cell::new(Tone::Faint, column.title))
            .collect();
        let mut text = self.line(&titles, &columns, view);
        for row in &self.rows {
            text.push_str(&self.line(&row.cells, &columns, view));
            for note in &row.notes {
                text.push_str(&view.paragraph(note.tone, "  └ ", "    ", &note.text));
            }
        }
        text
    }

    /// The columns to show, by index, with their widths.
    fn fit(&self, view: &View) -> Vec<(usize, usize)> {
        let mut columns: Vec<(usize, usize)> = (0..self.columns.len())
            .filter_map(|index| self.widest(index).map(|width| (index, width)))
            .collect();
        let Some(room) = view.width else { return columns };
        let excess = total(&columns).saturating_sub(room);
        if let Some((_, width)) = columns.iter_mut().find(|(index, _)| self.columns[*index].prose) {
            *width = (*width).saturating_sub(excess).max(SHORTEST_PROSE.min(*width));
        }
        while total(&columns) > room {
            let rank = |&(index, _): &(usize, usize)| self.columns[index].optional;
            match columns.iter().map(rank).max() {
                Some(highest) if highest > 0 => {
                    let last = columns.iter().rposition(|column| rank(column) == highest);
                    columns.remove(last.unwrap_or_default());
                }
                _ => break,
            }
        }
        while total(&columns) > room {
            let texts = columns
                .iter_mut()
                .filter(|(index, width)| !self.columns[*index].right && *width > SHORTEST);
            match texts.max_by_key(|(_, width)| *width) {
                Some((_, width)) => *width -= 1,
                None => break,
            }
        }
        columns
    }

    /// The width of a column with its title; nothing if it has no text.
    fn widest(&self, index: usize) -> Option<usize> {
        let cells = self.rows.iter().filter_map(|row| row.cells.get(index));
        let widest = cells.map(Cell::width).max().unwrap_or_default();
        (widest > 0).then(|| widest.max(self.columns[index].title.chars().count()))
    }

    fn line(&self, cells: &[Cell], columns: &[(usize, usize)], view: &View) -> String {
        let mut line = String::new();
        // Spaces are written only before text, so that no line ends with them.
        let mut spaces = 0;
        for &(index, width) in columns {
            if let Some(cell) = cells.get(index) {
                let text = cut(&cell.text, width);
                let padding = width - text.chars().count();
                let (before, after) = if self.columns[index].right {
                    (padding, 0)
                } else {
                    (0, padding)
                };
                spaces += before;
                if !text.is_empty() {
                    line.push_str(&" ".repeat(spaces));
                    line.push_str(&view.paint(cell.tone, &text));
                    spaces = 0;
                }
                spaces += after;
            }
            spaces += GAP;
        }
        line.push('\n');
        line
    }
}

fn total(columns: &[(usize, usize)]) -> usize {
    columns.iter().map(|(_, width)| width).sum::<usize>() + GAP * columns.len().saturating_sub(1)
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(width: Option<usize>, expected: &str) {
        let mut table = Table::new([
            left("NAME"),
            right("N"),
            left("EMPTY"),
            left("MORE").optional(1),
            left("MOST").optional(2),
        ]);
        table.row(
            [
                "a".into(),
                "10".into(),
                "".into(),
                "some more".into(),
                "the most".into(),
            ],
            [],
        );
        let note = Cell::new(Tone::Bad, "a note on it");
        table.row(
            ["a long name".into(), "9".into(), "".into(), "".into(), "".into()],
            [note],
        );
        let view = View {
            width,
            colour: false,
            now_unix_ms: 0,
        };
        assert_eq!(table.render(&view), expected, "{width:?}");
    }

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        check(
            None,
            "NAME          N  MORE       MOST\n\
             a            10  some more  the most\n\
             a long name   9\n  └ a note on it\n",
        );
    }

    #[test]
    fn the_least_important_column_goes_first_then_texts_are_cut() {
        check(
            Some(35),
            "NAME          N  MORE\na            10  some more\na long name   9\n  └ a note on it\n",
        );
        check(
            Some(20),
            "NAME          N\na            10\na long name   9\n  └ a note on it\n",
        );
        check(
            Some(14),
            "NAME         N\na           10\na long na…   9\n  └ a note on it\n",
        );
    }

    #[test]
    fn sentences_are_cut_before_a_column_goes() {
        let mut table = Table::new([left("N"), left("MEANING").optional(1).prose()]);
        table.row(["name".into(), "a sentence that is rather long".into()], []);
        let view = |width| View {
            width: Some(width),
            colour: false,
            now_unix_ms: 0,
        };
        assert_eq!(
            table.render(&view(30)),
            "N     MEANING\nname  a sentence that is rath…\n"
        );
        assert_eq!(table.render(&view(25)), "N\nname\n");
    }

    #[test]
    fn colours_do_not_move_columns() {
        let mut table = Table::new([left("A"), left("B")]);
        table.row([Cell::new(Tone::Bad, "x"), "y".into()], []);
        let view = View {
            width: None,
            colour: true,
            now_unix_ms: 0,
        };
        assert_eq!(
            table.render(&view),
            "\x1b[2mA\x1b[0m  \x1b[2mB\x1b[0m\n\x1b[31mx\x1b[0m  y\n"
        );
    }
}
