//! What commands print: tables for people, JSON for programs.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Where a command prints, and in which form.
pub(super) struct Out<'a> {
    json: bool,
    stdout: &'a mut (dyn Write + Send),
}

/// One thing that is printed: as a row among others, or alone.
pub(super) trait Row: Serialize {
    /// The columns of a table of such things.
    const COLUMNS: &'static [&'static str];

    /// What stands in them.
    fn cells(&self) -> Vec<String>;
}

// === impl Out ===

impl<'a> Out<'a> {
    pub(super) fn new(json: bool, stdout: &'a mut (dyn Write + Send)) -> Self {
        Self { json, stdout }
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a text as it is.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        self.stdout.write_all(text.as_bytes())?;
        self.stdout.flush()
    }

    /// Prints a line of text for people, or a value for programs.
    pub(super) fn said(&mut self, text: &str, value: &impl Serialize) -> io::Result<()> {
        if self.json { self.value(value) } else { self.text(&format!("{text}\n")) }
    }

    /// Prints things as a table; `none` says that there are none.
    pub(super) fn rows<R: Row>(&mut self, rows: &[R], none: &str) -> io::Result<()> {
        if self.json {
            return self.value(&rows);
        }
        if rows.is_empty() {
            return self.text(&format!("{none}\n"));
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(R::COLUMNS.iter().copied());
        for row in rows {
            table.add_row(row.cells());
        }
        // Tables are made of full lines; the blanks at their ends would only wrap.
        for line in table.lines() {
            let line = line.strip_prefix(' ').unwrap_or(&line);
            self.text(&format!("{}\n", line.trim_end()))?;
        }
        Ok(())
    }

    /// Prints one thing, a line for each of its columns.
    pub(super) fn one<R: Row>(&mut self, row: &R) -> io::Result<()> {
        if self.json {
            return self.value(row);
        }
        let width = R::COLUMNS.iter().map(|column| column.len()).max().unwrap_or(0);
        for (column, cell) in R::COLUMNS.iter().zip(row.cells()) {
            self.text(&format!("{column:width$}  {cell}\n"))?;
        }
        Ok(())
    }

    /// Prints a value as one line of JSON.
    pub(super) fn value(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut *self.stdout, value)?;
        self.stdout.write_all(b"\n")?;
        self.stdout.flush()
    }
}

/// A moment as people read it, to the second, in UTC.
pub(super) fn date(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}
