//! The terminal: blocks that are drawn anew in place, or plain lines where there is no terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Where the demo is shown.
pub(super) struct Screen {
    live: bool,
    style: Style,
    /// Lines of the block that the next one replaces.
    drawn: usize,
    /// Nothing stands below the title yet.
    titled: bool,
    last_second: u64,
}

/// How text is coloured.
#[derive(Clone, Copy)]
pub(super) struct Style {
    coloured: bool,
}

const BACKEND_COLOURS: [u8; 3] = [36, 33, 32];

impl Screen {
    pub(super) fn new() -> Self {
        let live = io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let screen = Self {
            live,
            style: Style {
                coloured: live && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            },
            drawn: 0,
            titled: false,
            last_second: 0,
        };
        if live {
            screen.put("\x1b[?25l");
        }
        screen
    }

    /// Begins a part of the story.
    pub(super) fn title(&mut self, text: &str) {
        self.put(&format!("\n{}\n\n", self.style.bold(text)));
        self.titled = true;
    }

    pub(super) fn line(&mut self, text: &str) {
        self.put(&format!("  {text}\n"));
        self.titled = false;
    }

    /// A command on a host and what it printed.
    pub(super) fn command(&mut self, host: &str, command: &str, output: &str) {
        let gap = if self.titled { "" } else { "\n" };
        self.put(&format!("{gap}  {}\n", self.style.bold(&format!("{host}# {command}"))));
        for line in output.trim_end().lines() {
            self.line(line);
        }
    }

    /// Draws a block in place of the last one; nothing where that is not possible.
    pub(super) fn redraw(&mut self, block: impl FnOnce(Style) -> Vec<String>) {
        if self.live {
            let lines = block(self.style);
            self.replace(&lines);
        }
    }

    /// Draws a block for the last time.
    pub(super) fn settle(&mut self, block: impl FnOnce(Style) -> Vec<String>) {
        let lines = block(self.style);
        self.replace(&lines);
        self.drawn = 0;
    }

    /// A line for where nothing is redrawn.
    pub(super) fn plain(&mut self, text: &str) {
        if !self.live {
            self.line(text);
        }
    }

    /// As [`Screen::plain`], at most once a second.
    pub(super) fn every_second(&mut self, now: Duration, text: impl FnOnce() -> String) {
        if !self.live && now.as_secs() > self.last_second {
            self.last_second = now.as_secs();
            let text = text();
            self.plain(&text);
        }
    }

    fn replace(&mut self, lines: &[String]) {
        let mut text = String::new();
        if self.drawn > 0 {
            text += &format!("\x1b[{}A\x1b[J", self.drawn);
        }
        for line in lines {
            text += &format!("  {line}\n");
        }
        self.put(&text);
        self.drawn = lines.len();
        self.titled = false;
    }

    fn put(&self, text: &str) {
        let mut out = io::stdout().lock();
        // A reader that has gone away (`| head`) is no reason to stop halfway.
        _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.live {
            self.put("\x1b[?25h");
        }
    }
}

impl Style {
    pub(super) fn backend(self, index: usize, text: &str) -> String {
        self.paint(BACKEND_COLOURS[index % BACKEND_COLOURS.len()], text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint(31, text)
    }

    fn bold(self, text: &str) -> String {
        self.paint(1, text)
    }

    fn paint(self, code: u8, text: &str) -> String {
        if self.coloured {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
