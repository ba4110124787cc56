//! What is going on, on standard error: spinners for a person at a terminal, lines for a file.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// All steps.
#[derive(Debug)]
pub(super) struct Progress {
    bars: MultiProgress,
}

/// One thing that takes time.
#[derive(Debug)]
pub(super) struct Step {
    bars: MultiProgress,
    bar: ProgressBar,
    begun: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
        }
    }

    /// Begins a step; several may run at once.
    pub(super) fn step(&self, what: &str) -> Step {
        let style =
            ProgressStyle::with_template("{spinner} {msg} {elapsed}").unwrap_or(ProgressStyle::default_spinner());
        let bar = self.bars.add(ProgressBar::new_spinner().with_style(style));
        let step = Step {
            bars: self.bars.clone(),
            bar,
            begun: Instant::now(),
        };
        step.now(what);
        step.bar.enable_steady_tick(Duration::from_millis(120));
        step
    }
}

impl Step {
    /// What it does now.
    pub(super) fn now(&self, what: &str) {
        if self.bar.is_hidden() {
            eprintln!("  {what} ...");
        }
        self.bar.set_message(what.to_owned());
    }

    /// It is over, and well.
    pub(super) fn done(self, what: &str) {
        let line = format!("✓ {what} ({:.1} s)", self.begun.elapsed().as_secs_f64());
        // Cleared and printed above the others: what is left on the screen are ordinary lines.
        let printed = if self.bar.is_hidden() {
            Err(std::io::ErrorKind::Unsupported.into())
        } else {
            self.bars.println(&line)
        };
        if printed.is_err() {
            eprintln!("{line}");
        }
        self.bar.finish_and_clear();
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.bar.is_finished() {
            self.bar.finish_and_clear();
        }
    }
}
