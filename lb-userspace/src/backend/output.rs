//! Lines for whoever started the program. A closed standard output must not keep it from undoing what it did.

/// One line on standard output.
macro_rules! say {
    ($($arguments:tt)+) => {{
        use std::io::Write;
        // Nobody is there to be told that nobody is there.
        let _ = writeln!(std::io::stdout(), $($arguments)+);
    }};
}

/// One line of warning on standard error.
macro_rules! caution {
    ($($arguments:tt)+) => {{
        use std::io::Write;
        // As above.
        let _ = writeln!(std::io::stderr(), "warning: {}", format_args!($($arguments)+));
    }};
}

pub(super) use {caution, say};
